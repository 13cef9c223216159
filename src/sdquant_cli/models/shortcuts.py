"""Shortcut convolutions of concatenated inputs, split in two: the upward input and the skip connection.

The two halves of the input have very different ranges (Q-Diffusion, arXiv 2302.04304, shortcut splitting);
each gets its own convolution and so its own quantizers. In floating point their sum is the convolution that
they replace.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import ModelMixin

SHORTCUT = ".conv_shortcut"
PARTS = ("upward", "skipped")
Value = TypeVar("Value")


class SplitConv2d(nn.Module):
    """A convolution of an input (N,C1+C2,h,w) as the sum of one of C1 channels and one of C2."""

    def __init__(self, upward: nn.Conv2d, skipped: nn.Conv2d) -> None:
        super().__init__()
        self.upward, self.skipped = upward, skipped

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both convolutions."""
        first = self.upward.in_channels
        total: Tensor = self.upward(x[:, :first]) + self.skipped(x[:, first:])
        return total


def split_shortcuts(network: "ModelMixin") -> None:
    """Split the shortcut convolutions of a UNet's up blocks, in place; other networks have none."""
    if not hasattr(network, "up_blocks"):
        return
    previous = network.mid_block.resnets[-1].out_channels
    for block in network.up_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None and resnet.in_channels > previous:
                resnet.conv_shortcut = _split(resnet.conv_shortcut, previous)
            previous = resnet.out_channels


def unsplit(name: str) -> str:
    """Return the module path of a layer, or of the convolution that it is a part of."""
    whole, _, part = name.rpartition(".")
    return whole if part in PARTS and whole.endswith(SHORTCUT) else name


def split_names(names: Iterable[str]) -> list[str]:
    """Return the names of a UNet's layers, in order, as they are after the split."""
    after: list[str] = []
    for name in names:
        if name.startswith("up_blocks.") and name.endswith(SHORTCUT):
            after += [f"{name}.{part}" for part in PARTS]
        else:
            after.append(name)
    return after


def values_by_part(values: Mapping[str, Value], names: list[str]) -> dict[str, Value]:
    """Return the values of layers under `names`; both parts of a split layer have its value."""
    return {name: values[unsplit(name)] for name in names}


def _split(whole: nn.Conv2d, channels: int) -> SplitConv2d:
    weight = whole.weight.detach()
    upward = _part(whole, weight[:, :channels], whole.bias)
    return SplitConv2d(upward, _part(whole, weight[:, channels:], None))


def _part(whole: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    with torch.device("meta"):
        part = nn.Conv2d(
            weight.shape[1],
            whole.out_channels,
            whole.kernel_size,  # type: ignore[arg-type]
            stride=whole.stride,  # type: ignore[arg-type]
            padding=whole.padding,  # type: ignore[arg-type]
            bias=bias is not None,
        )
    part.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    part.bias = bias
    return part.train(whole.training)
