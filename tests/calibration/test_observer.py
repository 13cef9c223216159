"""Observed inputs and the first quantizers: against the inputs themselves."""

import pytest
import torch
from torch import nn

from sdquant_cli.calibration.observer import (
    ENOUGH,
    MOST,
    Observations,
    QuantizerRules,
    initial_states,
    observed_latents,
    spread,
)
from sdquant_cli.types import Bits, Ranges, Tables
from tests.calibration.toy import items, quantized


def test_a_step_is_clipped_as_all_steps_are_where_all_are_alike():
    """Two values in 51,200 are far out: few of them are among those kept, but the ends are."""
    rows, g = 50, torch.Generator().manual_seed(0)
    layer = nn.Linear(400, 4)
    observed = Observations({"out": layer}, torch.arange(rows).repeat(ENOUGH), rows)
    for row in range(rows):
        x = torch.randn(2 * ENOUGH, 4, 400, generator=g)
        x[0, 0, 0], x[1, 0, 0] = 12.0, -12.0
        with observed.watching(torch.full((2 * ENOUGH,), row)):
            layer(x)
    steps = {
        tables: initial_states(
            observed.layers, observed, QuantizerRules({"out": Bits(8, 4)}, tables, Ranges.MSE)
        )["out"]
        for tables in (Tables.SINGLE, Tables.PER_STEP)
    }
    one, many = (steps[tables].activation_step for tables in (Tables.SINGLE, Tables.PER_STEP))
    assert (len(one), len(many)) == (1, rows)
    assert many.mean() <= 1.05 * one.item()


def test_ranges_are_those_of_each_row_alone():
    teacher, _, observed, _ = quantized()
    data = items()
    for row in (0, 1):
        picks = [i for i in range(12) if data.row[i] == row]
        batch = data.batch(picks, torch.device("cpu"))
        hidden = {}
        handle = teacher.out.register_forward_pre_hook(lambda _, args, kept=hidden: kept.update(x=args[0]))
        teacher(batch.x, batch.timestep, batch.conditioning.tokens)
        handle.remove()
        assert observed.low["out"][row] == pytest.approx(hidden["x"].min().item(), rel=1e-5)
        assert observed.high["out"][row] == pytest.approx(hidden["x"].max().item(), rel=1e-5)
        kept = observed.values("out", row)
        assert len(kept) > 1000
        assert torch.isin(kept, hidden["x"]).all()
    assert observed.unseen_rows == 1


def test_the_values_kept_of_a_row_come_from_every_place_of_its_items():
    x = torch.arange(9216.0)
    first, second = spread(x, 0, 40), spread(x, 40, 40)
    assert torch.equal(torch.cat([first, second]), spread(x, 0, 80))
    assert len(torch.cat([first, second]).unique()) == 80
    counts = torch.histc(spread(x, 0, 640), bins=16, min=0, max=9216)
    assert counts.min() > 30


def test_rows_with_few_latents_take_in_their_neighbours():
    _, _, observed, states = quantized()
    assert observed.latents.tolist() == [6, 6, 0]
    assert ENOUGH > 12  # so every row here takes in all
    assert states["out"].activation_step.shape == (3,)
    assert len(states["out"].activation_step.unique()) == 1
    _, _, _, states = quantized(data=items(80))
    assert states["out"].activation_step[0] != states["out"].activation_step[1]
    assert states["out"].activation_step[2] == states["out"].activation_step[1]


def test_text_fed_layers_have_one_row_and_so_has_a_single_table():
    assert quantized()[3]["to_k"].activation_step.shape == (1,)
    _, student, _, states = quantized(tables=Tables.SINGLE)
    assert all(state.activation_step.shape == (1,) for state in states.values())
    batch = items().batch([0, 1], torch.device("cpu"))
    assert student(batch.x, batch.timestep, batch.conditioning.tokens).sample.shape == (4, 2, 4, 4)


def test_a_searched_range_lies_within_the_observed_one():
    *_, wide = quantized(Bits(4, 4))
    *_, found = quantized(Bits(4, 4), ranges=Ranges.MSE)
    assert (found["out"].activation_step < wide["out"].activation_step).all()


def test_of_many_latents_a_bounded_number_of_each_row_is_observed_evenly():
    row = torch.tensor([0] * 10 + [2] * 300 + [0] * 5 + [1])
    picks = observed_latents(row)
    counts = torch.bincount(row[picks], minlength=3)
    assert counts.tolist() == [15, 1, MOST]
    assert torch.equal(picks, picks.unique())
    of_two = picks[row[picks] == 2]
    assert of_two[0] == 10
    assert of_two.diff().max() <= 5
    assert torch.equal(observed_latents(torch.arange(7)), torch.arange(7))
