"""Bits per layer from a sensitivity ranking (Efficiency Meets Fidelity, section 4.2)."""

from collections.abc import Mapping, Sequence

from ..types import Bits

SHARE = 0.05  # of the layers, at each end of the ranking


def extremes(ranking: Sequence[str], share: float = SHARE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The most and the least sensitive layers: `share` of all, rounded to nearest (13 of 258)."""
    count = round(share * len(ranking))
    return tuple(ranking[:count]), tuple(ranking[len(ranking) - count :])


def mixed_bits(
    layers: Sequence[str], bits: Bits, top: Sequence[str], bottom: Sequence[str]
) -> dict[str, Bits]:
    """Bits of every layer: sensitive ones get W max(W,8) and A 2A (at most 16), insensitive ones
    A max(A/2, 4), never more than A."""
    high = Bits(max(bits.weights, 8), min(2 * bits.activations, 16))
    low = Bits(bits.weights, min(max(bits.activations // 2, 4), bits.activations))
    special = {**dict.fromkeys(bottom, low), **dict.fromkeys(top, high)}
    return {name: special.get(name, bits) for name in layers}


def average_bits(bits: Mapping[str, Bits], parameters: Mapping[str, int]) -> dict[str, float]:
    """Mean bits by named weightings: every layer alike, and by its number of weights."""
    total = sum(parameters[name] for name in bits)
    return {
        "weights, by layers": sum(b.weights for b in bits.values()) / len(bits),
        "weights, by parameters": sum(b.weights * parameters[name] for name, b in bits.items()) / total,
        "activations, by layers": sum(b.activations for b in bits.values()) / len(bits),
    }
