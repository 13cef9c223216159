"""The smoothing of each layer, by the error of its output on some of the latents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..events import Events
from ..hooks import watching_inputs
from ..metrics.ratios import relative_error
from ..quant.format import NumberFormat
from ..quant.layer_function import channels_axis, convolution_of, fake_quantized_layer
from ..quant.ranges import affine_parameters
from ..quant.rounding import Quantizer
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
            best = self._best(self._input, [self.layers[name] for name in self._names])
            self.found |= dict.fromkeys(self._names, best.cpu())
            self.advance(len(self._names))
        self._input, self._names = None, []

    def _best(self, x: Tensor, layers: Sequence[Layer]) -> Tensor:
        """Return the smoothing with the least relative error of all layers' outputs."""
        inputs, axis = layers[0].weight.shape[1], channels_axis(convolution_of(layers[0]))
        weights = torch.stack([channel_magnitudes(layer.weight, 1, inputs) for layer in layers]).amax(0)
        smoothings = list(candidates(channel_magnitudes(x, axis, inputs), weights))
        errors = [sum(self._error(x, name, smoothing) for name in self._names) for smoothing in smoothings]
        return smoothings[errors.index(min(errors))]

    def _error(self, x: Tensor, name: str, smoothing: Tensor) -> float:
        """Return the relative error of a layer's output with input and weight rounded."""
        layer = self.layers[name]
        convolution, weight_grid = convolution_of(layer), self.form.grids(self.bits[name])[0]
        weight = smoothed_weight(layer.weight.float(), smoothing)
        scale = weight_scales(weight, weight_grid, self.form.groups(weight.shape))
        y = fake_quantized_layer(
            x.float(),
            weight,
            None,
            self._input_quantizer(smoothed_input(x.float(), smoothing, channels_axis(convolution)), name),
            WeightQuantizer(scale, weight_grid),
            convolution,
            smoothing,
        )
        exact = fake_quantized_layer(x.float(), layer.weight.float(), None, None, None, convolution)
        return relative_error([y], [exact])

    def _input_quantizer(self, x: Tensor, name: str) -> Quantizer | TokenQuantizer:
        """Return the quantizer of an input, one for each item where a calibration finds its scales later."""
        grid = self.form.grids(self.bits[name])[1]
        if self.form.per_token:
            return TokenQuantizer(channels_axis(convolution_of(self.layers[name])), grid)
        low, high = x.flatten(1).aminmax(dim=1)
        shape = (len(x), *[1] * (x.dim() - 1))
        return Quantizer(*affine_parameters(low.view(shape), high.view(shape), grid), grid)
