"""The smoothing of each layer, by the error of its output on some of the latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..events import Events
from ..hooks import watching_inputs
from ..metrics.ratios import relative_error
from ..quant.format import NumberFormat
from ..quant.grid import Grid
from ..quant.layer_function import channels_axis, convolution_of
from ..quant.ranges import affine_parameters
from ..quant.rounding import Quantizer, round_values
from ..quant.smoothing import candidates, channel_magnitudes, smoothed_input, smoothed_weight
from ..quant.tokens import TokenQuantizer
from ..quant.weights import WeightQuantizer, weight_scales
from ..types import Bits
from .items import Items, prediction

LATENTS = 8  # that layers are compared on, evenly from all there are

Layer = nn.Linear | nn.Conv2d


@torch.no_grad()
def find_smoothings(
    network: nn.Module, bits: Mapping[str, Bits], form: NumberFormat, items: Items, events: Events
) -> dict[str, Tensor]:
    """Return the smoothing (C_in) of each layer of a floating-point network that has bits and a weight.

    Layers that read the same tensor, as q, k and v do, have the same one, so that they read the same rounded
    values. One run of the network shows every layer its input.
    """
    layers = {name: network.get_submodule(name) for name in bits}
    searched = {name: layer for name, layer in layers.items() if isinstance(layer, Layer)}
    picks = torch.linspace(0, len(items) - 1, min(LATENTS, len(items))).round().long()
    batch = items.batch(picks, next(network.parameters()).device)
    with events.task("smoothing", len(searched), "layer") as task:
        search = _Search(searched, bits, form, task.advance)
        with watching_inputs(searched, search.see):
            prediction(network, batch)
        search.finish()
    return search.found


@dataclass
class _Search:
    """A search during a run of the network, of layers that read the same tensor together."""

    layers: Mapping[str, Layer]
    bits: Mapping[str, Bits]
    form: NumberFormat
    advance: Callable[[int], None]
    found: dict[str, Tensor] = field(default_factory=dict)
    _input: Tensor | None = None  # of the layers that ran last
    _names: list[str] = field(default_factory=list)

    def see(self, name: str, args: tuple[Tensor, ...], _kwargs: object) -> None:
        """Take the input of a layer that is about to run."""
        if args[0] is not self._input:
            self.finish()
            self._input = args[0]
        self._names.append(name)

    def finish(self) -> None:
        """Find the smoothing of the layers that ran last."""
        if self._input is not None:
            best = self._best(self._input.float(), {name: self.layers[name] for name in self._names})
            self.found |= dict.fromkeys(self._names, best.cpu())
            self.advance(len(self._names))
        self._input, self._names = None, []

    def _best(self, x: Tensor, layers: Mapping[str, Layer]) -> Tensor:
        """Return the smoothing with the least relative error of all layers' outputs."""
        first = next(iter(layers.values()))
        channels = first.weight.shape[1]
        weights = torch.stack([channel_magnitudes(layer.weight, 1, channels) for layer in layers.values()])
        inputs = channel_magnitudes(x, channels_axis(convolution_of(first)), channels)
        exact = {name: _output(x, layer.weight.float(), layer) for name, layer in layers.items()}
        smoothings = list(candidates(inputs, weights.amax(0)))
        errors = []
        for smoothing in smoothings:
            outputs = [self._rounded_output(x, name, smoothing) for name in layers]
            pairs = zip(outputs, exact.values(), strict=True)
            errors.append(sum(relative_error([y], [expected]) for y, expected in pairs))
        return smoothings[errors.index(min(errors))]

    def _rounded_output(self, x: Tensor, name: str, smoothing: Tensor) -> Tensor:
        """Return a layer's output with smoothed input and weight rounded."""
        layer, (weight_grid, grid) = self.layers[name], self.form.grids(self.bits[name])
        weight = smoothed_weight(layer.weight.float(), smoothing)
        scale = weight_scales(weight, weight_grid, self.form.groups(weight.shape))
        axis = channels_axis(convolution_of(layer))
        x = _rounded_input(smoothed_input(x, smoothing, axis), axis if self.form.per_token else None, grid)
        return _output(x, WeightQuantizer(scale, weight_grid).values(weight), layer)


def _rounded_input(x: Tensor, axis: int | None, grid: Grid) -> Tensor:
    """Return x rounded: with a scale for each token, or for each item where tables will have them."""
    if axis is not None:
        return TokenQuantizer(axis, grid).values(x)
    low, high = x.flatten(1).aminmax(dim=1)
    shape = (len(x), *[1] * (x.dim() - 1))
    return round_values(x, Quantizer(*affine_parameters(low.view(shape), high.view(shape), grid), grid))


def _output(x: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """Return a layer's output for another weight, without its bias."""
    convolution = convolution_of(layer)
    return F.linear(x, weight) if convolution is None else F.conv2d(x, weight, None, *convolution)
