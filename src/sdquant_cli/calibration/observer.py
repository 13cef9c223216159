"""First quantizers from data alone: weights by squared error, activations by a search over clippings.

One pass over the floating-point network keeps the smallest and the largest input of each layer at each row,
and a fixed number of its values, so memory does not grow with the data. A row with few latents pools its
statistics with neighbouring timesteps: their ranges are near, as their timesteps are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..events import SILENT, Events
from ..hooks import watching_inputs
from ..models.layers import is_text_fed
from ..quant.branch import Branch, split_off
from ..quant.format import PAPER, NumberFormat
from ..quant.grid import Grid
from ..quant.layer_function import channels_axis, convolution_of
from ..quant.modules import LayerState
from ..quant.ranges import affine_parameters, clipped_range, pooling_windows
from ..quant.relaxing import RelaxedRows
from ..quant.smoothing import smoothed_input, smoothed_weight
from ..quant.weights import weight_scales
from ..types import Bits, Ranges, Tables
from .items import Batch, Items

VALUES = 2048  # kept for each layer and row: 100 MB for 258 layers and 50 rows
ENOUGH = 16  # latents; a row with fewer pools its statistics with its neighbours
MOST = 64  # latents of a row that are observed: 32 values of each then
BATCH = 16  # latents of a pass; the ranges depend on it in the last bits, so that all observers share it
END_OF_STEP = 0.02  # weight of a range's ends against the values of one timestep; of all timesteps: 1


class Observations:
    """Inputs of each layer by row: smallest, largest, and `VALUES` in between, evenly from all items."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        row: Tensor,
        rows: int,
        halves: int = 2,
        smoothings: Mapping[str, Tensor | None] | None = None,
    ) -> None:
        """`row` (N) holds the rows of all latents to be observed, as `halves` items each.

        `smoothings` multiply the inputs of layers before these are recorded.
        """
        self.layers, self.smoothings = layers, smoothings or {}
        self.latents = torch.bincount(row, minlength=rows)
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        for name in layers:
            self.low[name] = torch.full((rows,), torch.inf)
            self.high[name] = torch.full((rows,), -torch.inf)
            self._values[name] = torch.zeros(rows, VALUES)
        self._quota = (VALUES // (halves * self.latents.clamp(min=1))).clamp(min=1)  # values of each item
        self._filled = torch.zeros(rows, dtype=torch.long)

    @contextmanager
    def watching(self, row: Tensor) -> Iterator[None]:
        """Record the inputs of a run of the network on items at these rows (M).

        Each layer runs once. If a layer runs on parts of its input, the values of the last part are kept.
        """
        rows, starts = row.tolist(), []  # where each item's values start within its row
        for r in rows:
            starts.append(int(self._filled[r]))
            self._filled[r] += self._quota[r]

        def see(name: str, args: tuple[Tensor, ...], _kwargs: object) -> None:
            x = self._smoothed(name, args[0].detach())
            flat = x.flatten(1).float()  # not moved: attention's probabilities are many
            self.low[name].scatter_reduce_(0, row, flat.amin(1).cpu(), "amin")
            self.high[name].scatter_reduce_(0, row, flat.amax(1).cpu(), "amax")
            for values, r, start in zip(flat, rows, starts, strict=True):
                count = min(int(self._quota[r]), VALUES - start)
                if count > 0:
                    self._values[name][r, start : start + count] = spread(values, start, count)

        with watching_inputs(self.layers, see):
            yield

    def _smoothed(self, name: str, x: Tensor) -> Tensor:
        axis = channels_axis(convolution_of(self.layers[name]))
        return smoothed_input(x, self.smoothings.get(name), axis)

    def values(self, name: str, row: int) -> Tensor:
        """Return the values that were kept of a layer's inputs at a row."""
        return self._values[name][row, : min(int(self._filled[row]), VALUES)]

    @cached_property
    def windows(self) -> list[Tensor]:
        """For each row, the rows whose statistics it pools."""
        return pooling_windows(self.latents, ENOUGH)

    @property
    def unseen_rows(self) -> int:
        """The number of rows without a latent."""
        return int((self.latents == 0).sum())


def spread(values: Tensor, start: int, count: int) -> Tensor:
    """Return `count` of the values, from index `start` of a sequence that covers them evenly.

    The next item of a row continues where the last one stopped, so that every channel and position is met.
    """
    golden = int(len(values) * 0.6180339887) | 1
    return values[(torch.arange(start, start + count) * golden) % len(values)]


@dataclass(frozen=True)
class Passes:
    """Runs of a floating-point network that show each item to its layers once."""

    row: Tensor  # (N) of each latent that is shown
    rows: int  # of the activation tables
    halves: int  # items of each latent
    count: int  # of runs
    runs: Iterable[tuple[Tensor, Callable[[], object]]]  # rows (M) of the items of a run, and the run


def item_passes(
    items: Items, run: Callable[[Batch], object], device: torch.device, *, every: bool = False
) -> Passes:
    """Return runs over calibration items, batch by batch: of all latents there are, or `MOST` of each row."""
    picks = torch.arange(len(items)) if every else observed_latents(items.row)
    batches = (items.batch(part, device) for part in picks.split(BATCH))
    runs = ((batch.row, partial(run, batch)) for batch in batches)
    return Passes(items.row[picks], len(items.timesteps), items.halves, -(-len(picks) // BATCH), runs)


def observed_latents(row: Tensor) -> Tensor:
    """Return which of the latents at rows (N) are observed: at most `MOST` of each row, evenly chosen."""
    chosen = []
    for index in range(int(row.max()) + 1 if len(row) else 0):
        latents = (row == index).nonzero()[:, 0]
        count = min(MOST, len(latents))
        chosen.append(latents[torch.arange(count) * len(latents) // max(count, 1)])
    return torch.cat(chosen).sort().values if chosen else row.new_empty(0)


@torch.no_grad()
def observe(
    layers: Mapping[str, nn.Module],
    passes: Passes,
    events: Events = SILENT,
    smoothings: Mapping[str, Tensor | None] | None = None,
) -> Observations:
    """Record the inputs of layers during all passes, multiplied by their smoothings."""
    observed = Observations(layers, passes.row, passes.rows, passes.halves, smoothings)
    with events.task("observing activations", passes.count, "batch") as task:
        for row, run in passes.runs:
            with observed.watching(row):
                run()
            task.advance()
    return observed


@dataclass(frozen=True)
class QuantizerRules:
    """Choices that turn weights and observed inputs into quantizers."""

    bits: Mapping[str, Bits]  # of each layer
    tables: Tables = Tables.PER_STEP
    ranges: Ranges = Ranges.MIN_MAX
    relaxed: RelaxedRows | None = None  # rows of a wider grid, in layers whose own is narrower
    has_one_row: Callable[[str], bool] = is_text_fed  # layers whose input does not depend on the timestep
    form: NumberFormat = PAPER
    smoothings: Mapping[str, Tensor | None] = field(default_factory=dict)  # (C_in) of layers that have one


def observe_and_initialise(
    layers: Mapping[str, nn.Module], passes: Passes, rules: QuantizerRules, events: Events = SILENT
) -> tuple[dict[str, LayerState], int]:
    """Return the first quantizer of every layer, and the number of rows that no latent has.

    All that quantizes without training comes from here, so that one choice of rules gives one result. No
    pass is made where inputs are rounded by what they are at run time.
    """
    if rules.form.per_token:
        return initial_states(layers, None, rules, events), 0
    observed = observe(layers, passes, events, rules.smoothings)
    return initial_states(layers, observed, rules, events), observed.unseen_rows


def initial_states(
    layers: Mapping[str, nn.Module],
    observed: Observations | None,
    rules: QuantizerRules,
    events: Events = SILENT,
) -> dict[str, LayerState]:
    """Return a quantizer for every layer: weight scales, and activation scales by row if there are any.

    A layer has one row for all timesteps if `tables` is single or `has_one_row` says so.
    """
    states = {}
    with events.task("initialising quantizers", len(layers), "layer") as task:
        for name, layer in layers.items():
            states[name] = _initial_state(name, layer, observed, rules)
            task.advance()
    return states


def _initial_state(
    name: str, layer: nn.Module, observed: Observations | None, rules: QuantizerRules
) -> LayerState:
    weight_grid, grid = rules.form.grids(rules.bits[name])
    smoothing = rules.smoothings.get(name)
    weight = getattr(layer, "weight", None)
    if weight is not None:
        weight = smoothed_weight(weight.detach().cpu().float(), smoothing)
    weight_scale, branch = _weight_numbers(weight, weight_grid, rules.form)
    scale = zero = torch.empty(0)
    relaxed = None
    if observed is not None:
        scale, zero, relaxed = _tables(observed, name, grid, rules)
    per_token = rules.form.per_token
    return LayerState(weight_scale, scale, zero, weight_grid, grid, relaxed, per_token, branch, smoothing)


def _weight_numbers(weight: Tensor | None, grid: Grid, form: NumberFormat) -> tuple[Tensor, Branch | None]:
    """Return the scales of a weight, and its low-rank branch if it has one; none for a tap of attention."""
    if weight is None:
        return torch.empty(0), None
    branch, groups = None, form.groups(weight.shape)
    if rank := form.rank(weight.shape):
        branch = split_off(weight, rank, grid, groups)
        weight = weight - branch.weight
    return weight_scales(weight, grid, groups), branch


def _tables(
    observed: Observations, name: str, grid: Grid, rules: QuantizerRules
) -> tuple[Tensor, Tensor, RelaxedRows | None]:
    """Return the scales and zero-points of a layer's inputs by row, and the rows of a wider grid."""
    windows = observed.windows
    if rules.tables is Tables.SINGLE or rules.has_one_row(name):
        everything = [torch.arange(len(observed.latents))]
        scale, zero = activation_tables(observed, name, grid, everything, rules.ranges, end=1.0)
    else:
        scale, zero = activation_tables(observed, name, grid, windows, rules.ranges)
    relaxed = None if rules.relaxed is None else rules.relaxed.for_layer(grid.bits, len(scale))
    if relaxed:
        wide_scale, wide_zero = activation_tables(observed, name, relaxed.grid, windows, rules.ranges)
        scale = torch.where(relaxed.rows, wide_scale, scale)
        zero = torch.where(relaxed.rows, wide_zero, zero)
    return scale, zero, relaxed


def activation_tables(
    observed: Observations,
    name: str,
    grid: Grid,
    windows: Sequence[Tensor],
    ranges: Ranges,
    end: float = END_OF_STEP,
) -> tuple[Tensor, Tensor]:
    """Return the scales and zero-points (windows) of a layer's inputs at the rows of each window.

    They cover the observed range, or the best clipping of it; `end` is the weight of the range's ends in the
    search for that.
    """
    limits = []
    for window in windows:
        low, high = observed.low[name][window].amin(), observed.high[name][window].amax()
        if ranges is not Ranges.MIN_MAX:
            values = torch.cat([observed.values(name, int(row)) for row in window])
            low, high = clipped_range(values, low, high, grid, ranges.power, end)
        limits.append(torch.stack([low, high]))
    lows, highs = torch.stack(limits, dim=1)
    return affine_parameters(lows, highs, grid)
