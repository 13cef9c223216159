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
    layers: dict[str, Layer] = {}
    for name in bits:
        if isinstance(layer := network.get_submodule(name), Layer):
            layers[name] = layer
    picks = torch.linspace(0, len(items) - 1, min(LATENTS, len(items))).round().long()
    batch = items.batch(picks, next(network.parameters()).device)
    with events.task("smoothing", len(layers), "layer") as task:
        search = _Search(layers, bits, form, task.advance)
        with watching_inputs(layers, search.see):
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
            best = self._best(self._input.float())
            self.found |= dict.fromkeys(self._names, best.cpu())
            self.advance(len(self._names))
        self._input, self._names = None, []

    def _best(self, x: Tensor) -> Tensor:
        """Return the smoothing with the least relative error of all layers' outputs, summed."""
        expected: dict[str, Tensor] = {}
        magnitudes: list[Tensor] = []  # of the channels of each weight
        for name in self._names:
            layer = self.layers[name]
            magnitudes.append(channel_magnitudes(layer.weight, 1, layer.weight.shape[1]))
            expected[name] = _output(x, layer.weight.float(), layer)
        weights = torch.stack(magnitudes).amax(0)
        inputs = channel_magnitudes(x, _axis(self.layers[self._names[0]]), len(weights))
        best, least = torch.ones_like(weights), torch.inf
        for smoothing in candidates(inputs, weights):
            error = 0.0
            for name, output in expected.items():
                error += relative_error([self._rounded_output(x, name, smoothing)], [output])
            if error < least:
                best, least = smoothing, error
        return best

    def _rounded_output(self, x: Tensor, name: str, smoothing: Tensor) -> Tensor:
        """Return a layer's output with smoothed input and weight rounded."""
        layer, (weight_grid, grid) = self.layers[name], self.form.grids(self.bits[name])
        weight = smoothed_weight(layer.weight.float(), smoothing)
        scale = weight_scales(weight, weight_grid, self.form.groups(weight.shape))
        x = smoothed_input(x, smoothing, _axis(layer))
        x = _rounded_input(x, _axis(layer) if self.form.per_token else None, grid)
        return _output(x, WeightQuantizer(scale, weight_grid).values(weight), layer)


def _axis(layer: Layer) -> int:
    return channels_axis(convolution_of(layer))


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
