"""What no GPU can do faster: operations and bytes of UNet calls over a card's peaks, from shapes alone.

    uv run python -m benchmarks.gpu.floors

Each linear layer and convolution takes at least the larger of two times: its operations at the dense peak of
tensor cores, and its bytes at the memory's. Bytes are those of the weight and of its input and output once:
inputs of 1 byte a value and outputs of 2 with integers, 2 and 2 in bf16. Attention's products are in bf16
both times. Norms, activation functions, additions and the rounding of inputs count nothing: passes over
memory that layers make can do them. A measured time below such a bound is wrong.
"""

import sys
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.run import networks
from sdquant_cli.models.counts import LayerCount, count_layers
from sdquant_cli.models.layers import quantizable_layers

CARDS = {  # dense int8, dense bf16, bytes a second (NVIDIA's data sheets, SXM)
    "H100": (1979e12, 989e12, 3.35e12),
    "A100": (624e12, 312e12, 2.04e12),
}


@dataclass(frozen=True)
class Call:
    """Counts of one call."""

    layers: dict[str, LayerCount]
    flops: int  # of all, attention's products included

    @property
    def of_layers(self) -> int:
        return sum(2 * layer.macs for layer in self.layers.values())

    @property
    def weights(self) -> int:
        return sum(layer.weight_shape.numel() for layer in self.layers.values())

    def floor(self, card: str, bits: int | None) -> float:
        """Seconds at least, with integers and weights of so many bits, or in bf16."""
        int8, bf16, bandwidth = CARDS[card]
        peak, of_input = (bf16, 2) if bits is None else (int8, 1)
        total = (self.flops - self.of_layers) / bf16
        for layer in self.layers.values():
            weight = layer.weight_shape.numel() * (16 if bits is None else bits) / 8
            moved = weight + layer.inputs * of_input + layer.positions * layer.weight_shape[0] * 2
            total += max(2 * layer.macs / peak, moved / bandwidth)
        return total


def call_of(config: dict, side: int, tokens: int, items: int) -> Call:
    """The counts of a call, on the meta device."""
    from diffusers import UNet2DConditionModel

    from benchmarks.gpu.run import call_of as prepared

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).eval().to(torch.bfloat16)
    run = prepared(unet, items, side, tokens, "meta")
    with FlopCounterMode(display=False) as counter:
        layers = count_layers(quantizable_layers(unet), run)
    return Call(layers, counter.get_total_flops())


def main() -> None:
    head = ["network", "items", "TFLOP of layers", "of attention and the rest", "weights, bf16 / W8 / W4, GB"]
    for card in CARDS:
        head += [f"{card}: bf16, ms", "W8A8, ms", "ratio"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, (config, side, tokens) in networks("cuda").items():
        for items in (1, 2):
            call = call_of(config, side, tokens, items)
            gigabytes = [call.weights * bits / 8e9 for bits in (16, 8, 4)]
            cells = [f"{name}, {side}x{side}", str(items), f"{call.of_layers / 1e12:.2f}"]
            cells += [
                f"{(call.flops - call.of_layers) / 1e12:.2f}",
                " / ".join(f"{g:.2f}" for g in gigabytes),
            ]
            for card in CARDS:
                floating, integer = call.floor(card, None), call.floor(card, 8)
                cells += [f"{floating * 1e3:.2f}", f"{integer * 1e3:.2f}", f"{floating / integer:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
