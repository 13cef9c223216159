"""Quantizers from data alone: weights by squared error, activations by a search over clippings.

One pass over the floating-point network keeps, for each layer and row, the smallest and largest input
and a fixed number of its values, so memory does not grow with the data. A row that few latents hit
takes in its neighbours: their timesteps are near, so are their ranges.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..events import SILENT, Events
from ..hooks import watching_inputs
from ..quant.grid import Grid
from ..quant.modules import LayerState
from ..quant.ranges import affine_parameters, clipped_range, pooling_windows, weight_scales
from ..quant.relaxing import RelaxedRows
from ..quant.state import grids
from ..types import Bits, Ranges, Tables
from .items import Batch, Items

VALUES = 2048  # kept of each layer and row: 100 MB for 258 layers and 50 rows
ENOUGH = 16  # latents; a row with fewer takes in its neighbours
AT_ONCE = 16  # latents run together; the grids that are found depend on it in the last bits
END_OF_STEP = 0.02  # what an end counts beside the values of one step; beside those of all steps: 1


class Observed:
    """Inputs of each layer by row: smallest, largest, and `VALUES` in between, evenly from all items."""

    def __init__(self, layers: Mapping[str, nn.Module], row: Tensor, rows: int, halves: int = 2) -> None:
        """`row` (N): the rows of all latents that will be observed, as `halves` items each."""
        self.layers = layers
        self.latents = torch.bincount(row, minlength=rows)
        self.low = {name: torch.full((rows,), torch.inf) for name in layers}
        self.high = {name: torch.full((rows,), -torch.inf) for name in layers}
        self._values = {name: torch.zeros(rows, VALUES) for name in layers}
        self._quota = (VALUES // (halves * self.latents.clamp(min=1))).clamp(min=1)  # values of each item
        self._filled = torch.zeros(rows, dtype=torch.long)

    @contextmanager
    def watching(self, row: Tensor) -> Iterator[None]:
        """Within: a run of the network on items of these rows (N) is taken in, each layer once.

        Of an input that comes in parts, values of the last part are kept.
        """
        rows, place = row.tolist(), []  # of each item's values within its row
        for r in rows:
            place.append(int(self._filled[r]))
            self._filled[r] += self._quota[r]

        def see(name: str, args: tuple[Tensor, ...], _kwargs: object) -> None:
            flat = (
                args[0].detach().flatten(1).float()
            )  # stays where it is: attention's probabilities are many
            self.low[name].scatter_reduce_(0, row, flat.amin(1).cpu(), "amin")
            self.high[name].scatter_reduce_(0, row, flat.amax(1).cpu(), "amax")
            for item, r in enumerate(rows):
                room = min(int(self._quota[r]), VALUES - place[item])
                if room > 0:
                    self._values[name][r, place[item] : place[item] + room] = spread(
                        flat[item], place[item], room
                    )

        with watching_inputs(self.layers, see):
            yield

    def values(self, name: str, row: int) -> Tensor:
        """What was kept of a layer's inputs at a row."""
        return self._values[name][row, : min(int(self._filled[row]), VALUES)]

    @property
    def unseen_rows(self) -> int:
        """How many rows no latent hit."""
        return int((self.latents == 0).sum())


def spread(values: Tensor, start: int, count: int) -> Tensor:
    """`count` of the values, from place `start` of a sequence that covers them evenly: the next item
    of a row goes on where the last one stopped, so that every channel and position is met."""
    golden = int(len(values) * 0.6180339887) | 1
    return values[(torch.arange(start, start + count) * golden) % len(values)]


def observe(
    layers: Mapping[str, nn.Module],
    items: Items,
    run: Callable[[Batch], object],
    device: torch.device,
    events: Events = SILENT,
) -> Observed:
    """Record the inputs of layers while `run` takes all items through the floating-point network."""
    observed = Observed(layers, items.row, len(items.timesteps), items.halves)
    with events.task("observing activations", -(-len(items) // AT_ONCE), "batch") as task, torch.no_grad():
        for batch in all_batches(items, AT_ONCE, device):
            with observed.watching(batch.row):
                run(batch)
            task.advance()
    return observed


def initial_states(
    observed: Observed,
    bits: Mapping[str, Bits],
    is_shared: Callable[[str], bool],
    tables: Tables = Tables.PER_STEP,
    ranges: Ranges = Ranges.MIN_MAX,
    relaxed: RelaxedRows | None = None,
    events: Events = SILENT,
) -> dict[str, LayerState]:
    """A quantizer for every layer: step sizes per channel, and an activation table of a row per step.

    One row for all steps where `tables` says so, and for layers fed by text only (`is_shared`). Rows that
    are `relaxed` are of its grid, in layers whose own is narrower.
    """
    everything = [torch.arange(len(observed.latents))]
    windows = pooling_windows(observed.latents, ENOUGH)
    states = {}
    with events.task("initialising quantizers", len(observed.layers), "layer") as task:
        for name, layer in observed.layers.items():
            weight_grid, grid = grids(bits[name])
            single = tables is Tables.SINGLE or is_shared(name)
            own, end = (everything, 1.0) if single else (windows, END_OF_STEP)
            step, zero = activation_tables(observed, name, grid, own, ranges, end)
            wider = None if relaxed is None else relaxed.for_layer(grid.bits, len(own))
            if wider:
                wide = activation_tables(observed, name, wider.grid, windows, ranges)
                step, zero = (torch.where(wider.rows, *pair) for pair in zip(wide, (step, zero), strict=True))
            weight = getattr(layer, "weight", None)
            steps = torch.empty(0) if weight is None else weight_scales(weight.cpu().float(), weight_grid)
            states[name] = LayerState(steps, step, zero, weight_grid, grid, wider)
            task.advance()
    return states


def activation_tables(
    observed: Observed,
    name: str,
    grid: Grid,
    windows: Sequence[Tensor],
    ranges: Ranges,
    end: float = END_OF_STEP,
) -> tuple[Tensor, Tensor]:
    """Step sizes and zero-points (windows) of a layer's inputs at the rows of each window.

    They cover what was seen, or the best clipping of it, in whose search the ends count `end` times.
    """
    found = []
    for window in windows:
        ends = observed.low[name][window].amin(), observed.high[name][window].amax()
        if ranges is not Ranges.MIN_MAX:
            values = torch.cat([observed.values(name, int(row)) for row in window])
            ends = clipped_range(values, *ends, grid, ranges.power, end)
        found.append(torch.stack(ends))
    low, high = torch.stack(found, dim=1)
    return affine_parameters(low, high, grid)


def all_batches(items: Items, size: int, device: torch.device) -> Iterator[Batch]:
    """Every item once, in order."""
    for start in range(0, len(items), size):
        yield items.batch(range(start, min(start + size, len(items))), device)
