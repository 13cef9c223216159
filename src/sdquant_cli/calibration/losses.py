"""What a quantized UNet is pulled towards: the floating-point one's output, layers and blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..hooks import watching_outputs
from ..models.guidance import apply_guidance


@contextmanager
def collecting_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within: the outputs of the named modules, by name, refreshed at each run of the network.

    Of a block that returns several, the last tensor is kept: what a UNet's block passes to the other side
    is a tuple, and the MMDiT's blocks return the text before the picture.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor | tuple[object, ...]) -> None:
        several = output if isinstance(output, tuple) else (output,)
        outputs[name] = next(part for part in reversed(several) if isinstance(part, Tensor))

    with watching_outputs({name: network.get_submodule(name) for name in names}, keep):
        yield outputs


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_out: mean squared error of the noise prediction (Efficiency Meets Fidelity, eq. 11)."""
    return (student - teacher).square().mean()


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Squared error of modules' outputs over its energy, mean over modules.

    Of the sensitive layers this is L_sen (eq. 12); of the blocks, inter-layer distillation.
    """
    terms = [(student[n] - teacher[n]).square().mean() / teacher[n].square().mean() for n in teacher]
    return torch.stack(terms).mean()


def guided_loss(student: Tensor, teacher: Tensor, guidance_scale: float) -> Tensor:
    """Mean squared error of the combination that sampling uses, u + g (c - u); items come in halves."""
    return apply_guidance(student - teacher, guidance_scale).square().mean()
