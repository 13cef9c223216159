"""What activation tables are worth before anything is trained: SQNR of the UNet's output.

    uv run python benchmarks/ranges.py          # prints the table of docs/benchmarks/ranges.md

Quantizers are found on most calibration latents of the ablation and tried on the others: inputs of all
layers at 8, 6 and 4 bits with weights at 8, and at 8 with weights at 4. One table for all steps against one
per step, each by every search; for a step's own search, also with its ends counting once each, as any value
that was kept.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sdquant_cli.artifacts.latents import load_items
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.calibration.items import Batch, Items, prediction
from sdquant_cli.calibration.observer import (
    END_OF_STEP,
    QuantizerRules,
    activation_tables,
    initial_states,
    item_passes,
    observe,
)
from sdquant_cli.cli.render import Terminal
from sdquant_cli.models.conditioning import predict
from sdquant_cli.models.layers import is_text_fed, quantizable_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.time_table import run_on_table, tabulate
from sdquant_cli.options.requests import PrecalcTimeRequest, SampleRequest
from sdquant_cli.quant.modules import LayerState
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swapped
from sdquant_cli.stages import precalc_time, sample
from sdquant_cli.store import Store
from sdquant_cli.types import Bits, Ranges, Tables

ROOT = Path(__file__).parents[1]
TRIED = 100  # latents that the quantizers have not seen
AT_ONCE = 16
WIDTHS = (Bits(8, 8), Bits(8, 6), Bits(8, 4), Bits(4, 8))


class Trial:
    """The embedded UNet, what its layers see, and latents to try quantizers on."""

    def __init__(self, items: Items) -> None:
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
        timesteps = items.timesteps.tolist()
        self.network, self.rows = find_model("shapes").denoiser(), Rows(timesteps)
        run_on_table(self.network, tabulate(self.network, timesteps), self.rows)
        self.layers = quantizable_layers(self.network)
        seen = dataclasses.replace(
            items, **{name: getattr(items, name)[order[TRIED:]] for name in ("x", "row", "text")}
        )
        run = partial(prediction, self.network)
        self.observed = observe(self.layers, item_passes(seen, run, torch.device("cpu")))
        tried = order[:TRIED].split(AT_ONCE)
        self.batches: list[Batch] = [items.batch(part, torch.device("cpu")) for part in tried]
        self.wanted = self._answers()

    @torch.no_grad()
    def _answers(self) -> Tensor:
        return torch.cat([predict(self.network, b.x, b.timestep, b.conditioning) for b in self.batches])

    def sqnr(self, states: dict[str, LayerState]) -> tuple[float, float]:
        """Over all outputs, and the median over items, in dB."""
        with swapped(self.network, states, self.rows):
            found = self._answers()
        noise, signal = ((t**2).flatten(1).sum(1) for t in (found - self.wanted, self.wanted))
        over_all = 10 * torch.log10(signal.sum() / noise.sum())
        return float(over_all), float((10 * torch.log10(signal / noise)).median())

    def states(self, bits: Bits, tables: Tables, ranges: Ranges, end: float) -> dict[str, LayerState]:
        every = dict.fromkeys(self.layers, bits)
        rules = QuantizerRules(every, tables, ranges)
        states = initial_states(self.layers, self.observed, rules)
        if tables is Tables.SINGLE or end == END_OF_STEP:
            return states
        windows = [torch.tensor([row]) for row in range(len(self.observed.latents))]
        for name in [name for name in states if not is_text_fed(name)]:
            grid = states[name].activation_grid
            step, zero = activation_tables(self.observed, name, grid, windows, ranges, end)
            states[name] = dataclasses.replace(states[name], activation_step=step, activation_zero=zero)
        return states


def choices() -> Iterator[tuple[str, Tables, Ranges, float]]:
    for ranges in Ranges:
        yield f"one table, {ranges}", Tables.SINGLE, ranges, 1.0
        yield f"per step, {ranges}", Tables.PER_STEP, ranges, END_OF_STEP
    yield "per step, mse, ends count once", Tables.PER_STEP, Ranges.MSE, 1.0


def widening(trial: Trial, end: float) -> float:
    """Steps' own step sizes at W8A6 over the one of all steps, their mean; of the median layer."""
    own, one = (
        trial.states(Bits(8, 6), tables, Ranges.MSE, end) for tables in (Tables.PER_STEP, Tables.SINGLE)
    )
    ratios = [own[n].activation_step.mean() / one[n].activation_step for n in own if not is_text_fed(n)]
    return float(torch.cat(ratios).median())


def spreads(trial: Trial) -> Tensor:
    """The widest step's step size at W8A8 over the narrowest's, by layer."""
    states = trial.states(Bits(8, 8), Tables.PER_STEP, Ranges.MSE, END_OF_STEP)
    steps = [state.activation_step for name, state in states.items() if not is_text_fed(name)]
    return torch.stack([step.max() / step.min() for step in steps])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default=str(ROOT / "runs" / "ablation"))
    workspace = Workspace(Store(parser.parse_args().store), Terminal())
    prompts = ROOT / "examples" / "prompts" / "shapes-train.txt"
    latents = sample.run(SampleRequest(prompts=prompts, per_prompt=8), workspace)
    table = precalc_time.run(PrecalcTimeRequest(), workspace)
    trial = Trial(load_items(workspace, latents, table))
    print(f"| tables and search | {' | '.join(f'{str(bits).upper()}, dB (median)' for bits in WIDTHS)} |")
    print("|---|" + "---|" * len(WIDTHS))
    for name, *choice in choices():
        cells = [trial.sqnr(trial.states(bits, *choice)) for bits in WIDTHS]
        print(f"| {name} | {' | '.join(f'{a:.2f} ({b:.2f})' for a, b in cells)} |", flush=True)
    for end in (1.0, END_OF_STEP):
        print(f"own step sizes over the one of all steps, ends counting {end:g}: {widening(trial, end):.2f}")
    middle, most = spreads(trial).quantile(torch.tensor([0.5, 0.9])).tolist()
    print(f"widest step over narrowest: {middle:.2f} in the median layer, {most:.2f} at 90%")


if __name__ == "__main__":
    main()
