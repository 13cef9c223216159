"""Losses of a quantized network against the floating-point one: on its output, its layers and its blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..hooks import watching_outputs
from ..models.guidance import apply_guidance


@contextmanager
def collecting_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give a dictionary that each run of the network fills with the outputs of the named modules.

    The last tensor is kept of a module that returns several: a UNet block passes a tuple to the other
    side, and the MMDiT's blocks return the text before the image.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor | tuple[object, ...]) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        outputs[name] = next(part for part in reversed(parts) if isinstance(part, Tensor))

    with watching_outputs({name: network.get_submodule(name) for name in names}, keep):
        yield outputs


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return L_out, the mean squared error of the noise prediction (Efficiency Meets Fidelity, eq. 11)."""
    return (student - teacher).square().mean()


def energies(teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean square of each module's output, in fp32."""
    return {name: target.float().square().mean() for name, target in teacher.items()}


def feature_loss(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    names: Sequence[str],
    energy: Mapping[str, Tensor],
) -> Tensor:
    """Return the squared error of the named modules' outputs over their energy, mean over modules, in fp32.

    On the sensitive layers this is L_sen (Efficiency Meets Fidelity, eq. 12); on the blocks, inter-layer
    distillation.
    """
    terms = []
    for name in names:
        target = teacher[name].float()
        terms.append((student[name].float() - target).square().mean() / energy[name])
    return torch.stack(terms).mean()


def guided_loss(student: Tensor, teacher: Tensor, guidance_scale: float) -> Tensor:
    """Return the mean squared error of the guided combination u + g (c - u); items come in halves."""
    return apply_guidance(student - teacher, guidance_scale).square().mean()
