"""Channel scaling: a layer's input is multiplied by a number for each channel, and its weight divided by it.

The layer computes what it did. But channels that are much larger than others decide how coarsely all of them
are rounded: made smaller, they leave that to the weight, whose columns grow instead (Xiao et al. 2023,
SmoothQuant, eq. 3 and 4).
"""

from collections.abc import Iterator

from torch import Tensor

INPUT_EXPONENTS = (0.0, 0.25, 0.5, 0.75)  # of an input's channels
WEIGHT_EXPONENTS = (0.0, 0.25, 0.5)
SMALLEST = 1e-5  # magnitude that counts, of a channel


def smoothed_input(x: Tensor, smoothing: Tensor | None, axis: int) -> Tensor:
    """Return x with its channels, on `axis`, multiplied by `smoothing` (C_in), in fp32 or more; None: x.

    In a convolution of several groups all of them have the same numbers.
    """
    if smoothing is None:
        return x
    shape = [1] * x.dim()
    shape[axis] = x.shape[axis]
    return x * smoothing.to(x.device).repeat(x.shape[axis] // len(smoothing)).view(shape)


def smoothed_weight(weight: Tensor, smoothing: Tensor | None) -> Tensor:
    """Return a weight (C_out,C_in,...) whose layer gives the same output for a smoothed input."""
    if smoothing is None:
        return weight
    return weight / smoothing.to(weight).view(1, -1, *[1] * (weight.dim() - 2))


def channel_magnitudes(x: Tensor, axis: int, channels: int) -> Tensor:
    """Return the largest magnitudes (channels) of a tensor's channels, which lie on `axis`."""
    largest = x.detach().float().abs().movedim(axis, 0).flatten(1).amax(1)
    return largest.view(-1, channels).amax(0).clamp_min(SMALLEST)


def candidates(inputs: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """Yield smoothings max|w|^b / max|x|^a, geometric mean 1, from magnitudes (C_in) of inputs and weights.

    With b = 1 - a they are SmoothQuant's; both exponents are free here, and the first smoothing is 1.
    """
    for a in INPUT_EXPONENTS:
        for b in WEIGHT_EXPONENTS:
            logarithm = b * weights.log() - a * inputs.log()
            yield (logarithm - logarithm.mean()).exp()
