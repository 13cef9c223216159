"""Activation tables between calibrated timesteps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.quant.correction import Correction
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.interpolation import Interpolation
from sdquant_cli.quant.relaxing import RelaxedRows
from sdquant_cli.quant.state import SavedLayer
from sdquant_cli.types import Bits

NONE = torch.empty(0)


def layer(step, zero, bits=8):
    """A layer with tables and no weight."""
    return SavedLayer(
        Bits(8, bits), NONE.to(torch.int8), NONE, torch.tensor(step), torch.tensor(zero, dtype=torch.int32)
    )


def between(calibrated, other):
    return Interpolation.between(torch.tensor(calibrated), torch.tensor(other))


def reach(saved, row, highest=255):
    """From where to where a layer's inputs reach at a row."""
    step, zero = float(saved.activation_step[row]), int(saved.activation_zero[row])
    return -zero * step, (highest - zero) * step


def test_weights_are_shares_of_the_two_neighbours_in_any_order():
    weights = between([3.0, -1.0, 1.0], [3.0, 0.0, 1.0, 1.5, -9.0, 9.0]).weights
    expected = [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0.25, 0, 0.75], [0, 1, 0], [1, 0, 0]]
    assert weights.tolist() == expected
    assert between([2.0], [1.0, 5.0]).weights.tolist() == [[1], [1]]


@given(
    st.lists(st.tuples(st.floats(1e-4, 1e3), st.integers(0, 255)), min_size=2, max_size=8).map(
        lambda rows: tuple(map(list, zip(*rows, strict=True)))
    )
)
def test_calibrated_timesteps_keep_their_numbers(table):
    step, zero = table
    positions = torch.linspace(-4, 5, len(step)).tolist()
    state = {"a": layer(step, zero)}
    again = between(positions, positions).state(state, None, None)["a"]
    assert torch.equal(again.activation_step, state["a"].activation_step)
    assert torch.equal(again.activation_zero, state["a"].activation_zero)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 255), st.integers(0, 255), st.floats(0, 1))
def test_both_ends_of_a_range_move_and_what_moves_between_them_stays_within(a, b, first, second, share):
    state = {"a": layer([a, b], [first, second])}
    made = between([0.0, 1.0], [share]).state(state, None, None)["a"]
    ends = [torch.tensor(reach(state["a"], row)) for row in (0, 1)]
    expected = torch.lerp(ends[0], ends[1], share)
    assert torch.allclose(torch.tensor(reach(made, 0)), expected, atol=0.51 * float(made.activation_step))
    assert 0 <= int(made.activation_zero) <= 255


def test_rows_with_wider_grids_have_the_same_range_in_finer_codes():
    state = {"a": layer([1023.0, 255.0, 255.0], [341, 85, 85])}
    state["a"].activation_step.div_(torch.tensor([1023.0, 255.0, 255.0]))
    wide = Grid(10, signed=False)
    before = RelaxedRows(torch.tensor([True, False, False]), wide)
    after = RelaxedRows(torch.tensor([False, True]), wide)
    made = between([0.0, 1.0, 2.0], [0.5, 1.5]).state(state, before, after)["a"]
    low, high = reach(state["a"], 0, 1023)
    assert torch.allclose(torch.tensor(reach(made, 1, 1023)), torch.tensor([-85.0, 170.0]), rtol=1e-2)
    assert torch.allclose(
        torch.tensor(reach(made, 0)), torch.tensor([(low - 85) / 2, (high + 170) / 2]), rtol=1e-2
    )
    assert int(made.activation_zero[1]) > 255


def test_one_entry_for_all_timesteps_and_none_stay_as_they_are():
    state = {"one": layer([0.5], [3]), "token": layer([], [])}
    made = between([0.0, 1.0], [0.5, 0.7, 0.9]).state(state, None, None)
    assert made["one"] is state["one"]
    assert made["token"] is state["token"]


def test_a_correction_moves_with_its_rows():
    correction = Correction(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 2.0], [4.0, 0.0]]), torch.ones(2))
    made = between([0.0, 1.0], [0.25]).correction(correction)
    assert made.slope.tolist() == [0.25]
    assert made.bias.tolist() == [[1.0, 1.5]]
