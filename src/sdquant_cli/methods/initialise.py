"""Quantizers from data alone: weights by squared error, activations by the range seen per row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..quant.modules import LayerState
from ..quant.ranges import affine_parameters, borrow_rows, weight_steps
from ..quant.state import grids
from ..types import Bits
from .items import Batch, Items


@contextmanager
def watching_inputs(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within: `see(name, input)` is called before each layer runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args: see(name, args[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Ranges:
    """Smallest and largest input of each layer, for each row."""

    def __init__(self, layers: Mapping[str, nn.Module], rows: int) -> None:
        self.layers = layers
        self.low = {name: torch.full((rows,), torch.inf) for name in layers}
        self.high = {name: torch.full((rows,), -torch.inf) for name in layers}

    @torch.no_grad()
    def observe(self, network: nn.Module, batch: Batch) -> None:
        """Run the floating-point network on a batch and widen the ranges of its rows."""

        def see(name: str, x: Tensor) -> None:
            flat = x.flatten(1)
            self.low[name].scatter_reduce_(0, batch.row, flat.amin(1).float().cpu(), "amin")
            self.high[name].scatter_reduce_(0, batch.row, flat.amax(1).float().cpu(), "amax")

        with watching_inputs(self.layers, see):
            network(batch.x, batch.timestep, batch.context)

    @property
    def unseen_rows(self) -> int:
        """How many rows no latent hit."""
        low = next(iter(self.low.values()))
        return int(torch.isinf(low).sum())


def initial_states(
    layers: Mapping[str, nn.Module],
    ranges: Ranges,
    bits: Mapping[str, Bits],
    is_shared: Callable[[str], bool],
) -> dict[str, LayerState]:
    """A quantizer for every layer. A row without data borrows its neighbour's; layers for which
    `is_shared` holds (fed by text only) have one activation row for all steps."""
    states = {}
    for name, layer in layers.items():
        weight_grid, activation_grid = grids(bits[name])
        low, high = ranges.low[name], ranges.high[name]
        seen = torch.isfinite(low)
        low, high = borrow_rows(low, seen), borrow_rows(high, seen)
        if is_shared(name):
            low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        step, zero = affine_parameters(low, high, activation_grid)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        states[name] = LayerState(
            weight_steps(weight.cpu().float(), weight_grid), step, zero, weight_grid, activation_grid
        )
    return states


def all_batches(items: Items, size: int, device: torch.device) -> Iterator[Batch]:
    """Every item once, in order."""
    for start in range(0, len(items), size):
        yield items.batch(range(start, min(start + size, len(items))), device)
