"""The weight files of a component: single tensors, counts, and what is not opened."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import UsageProblem
from ..types import Dtype


def read_tensors(folder: Path, variant: str | None, wanted: set[str]) -> dict[str, torch.Tensor]:
    """Single tensors of a component's files; raises UsageProblem for one that is missing."""
    refuse_pickles(folder)
    found: dict[str, torch.Tensor] = {}
    for path in weight_files(folder, variant):
        try:
            with safe_open(path, "pt") as file:
                found |= {name: file.get_tensor(name) for name in wanted.intersection(file.keys())}
        except (OSError, SafetensorError) as error:
            raise UsageProblem(f"{path}: {str(error).splitlines()[0]}") from None
    if missing := sorted(wanted - found.keys()):
        raise UsageProblem(
            f"{folder}: {len(missing)} missing tensors, the first {missing[0]}; "
            f"the weights are not those of its config.json"
        )
    return found


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The files that a component is loaded from."""
    if variant:
        return sorted(folder.glob(f"*.{variant}*.safetensors"))
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.count(".") == 1]


def refuse_pickles(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and (pickles := sorted(folder.glob("*.bin"))):
        raise UsageProblem(
            f"{pickles[0]}: is a pickle, which can run code when opened; convert it with diffusers: "
            f"from_pretrained({str(folder.parent)!r}, use_safetensors=False).save_pretrained(FOLDER)"
        )


def check_finite(network: nn.Module, folder: Path, dtype: Dtype) -> None:
    if dtype is not Dtype.FP16:
        return
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise UsageProblem(f"{folder}: {name} overflows fp16; use --dtype bf16 or fp32")


def count_numbers(folder: Path, variant: str | None) -> int:
    """How many numbers a component's files hold, from their headers."""
    total = 0
    for path in weight_files(folder, variant):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
