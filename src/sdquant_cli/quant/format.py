"""The format of a quantized network's numbers, besides the bits of each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..manifests import QuantStateSpec
from ..types import Activations, Bits
from .grid import Grid


@dataclass(frozen=True)
class NumberFormat:
    """How weights are held and inputs are rounded; the default is the paper's."""

    per_token: bool = False  # each token or pixel of an input has its own scale, found at run time
    full_range: bool = False  # weights have all codes: 16 at 4 bits, otherwise 15
    group_size: int | None = None  # input channels of a weight that share a scale; None: all
    branch_rank: int | None = None  # of a branch in 16 bits beside each weight; None: there is none
    smoothing: bool = False  # inputs are multiplied by a number for each channel

    @classmethod
    def of(cls, spec: QuantStateSpec) -> "NumberFormat":
        """Return the format that a spec names."""
        return cls(
            per_token=spec.activations is Activations.TOKEN,
            full_range=bool(spec.full_range),
            group_size=spec.group_size,
            branch_rank=spec.branch_rank,
            smoothing=bool(spec.smoothing),
        )

    def grids(self, bits: Bits) -> tuple[Grid, Grid]:
        """Return the grids of weights (signed, symmetric) and of inputs (affine)."""
        weights = Grid(bits.weights, signed=True, narrow=not self.full_range)
        return weights, Grid(bits.activations, signed=False)

    def fits_groups(self, shape: tuple[int, ...]) -> bool:
        """Return whether the input channels of a weight (C_out,C_in,...) fill whole groups."""
        return self.group_size is None or shape[1] % self.group_size == 0

    def groups(self, shape: tuple[int, ...]) -> int:
        """Return the groups of input channels of a weight (C_out,C_in,...); 1 where they fill no groups."""
        if self.group_size is None or not self.fits_groups(shape):
            return 1
        return shape[1] // self.group_size

    def rank(self, shape: tuple[int, ...]) -> int:
        """Return the rank of the branch beside a weight; 0 where it would not be smaller than the weight."""
        rank = self.branch_rank or 0
        return rank if rank * (shape[0] + prod(shape[1:])) < prod(shape) else 0

    def fallbacks(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return a line for each option that some layers are too narrow for, with the first of them."""
        lines = []
        whole = [name for name, shape in shapes.items() if not self.fits_groups(shape)]
        if whole:
            lines.append(
                f"--group-size {self.group_size}: {len(whole)} layers whose width is no multiple of it have "
                f"one scale per output channel: {_few(whole)}"
            )
        plain = [name for name, shape in shapes.items() if self.branch_rank and not self.rank(shape)]
        if plain:
            lines.append(
                f"--branch-rank {self.branch_rank}: {len(plain)} layers that a branch would not make smaller "
                f"have none: {_few(plain)}"
            )
        return lines

    def extra_bits(self, shape: tuple[int, ...]) -> int:
        """Return the bits that groups and a branch add to a weight: 16 for each scale and each factor.

        One number for each output or input channel is not counted, by convention.
        """
        groups = self.groups(shape)
        scales = shape[0] * groups if groups > 1 else 0
        return 16 * (scales + self.branch_weights(shape))

    def branch_weights(self, shape: tuple[int, ...]) -> int:
        """Return the weights of the branch beside a weight."""
        return self.rank(shape) * (shape[0] + prod(shape[1:]))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


PAPER = NumberFormat()
