"""The weight files of a component: which ones diffusers reads, single tensors, counts, what is not opened."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import UsageProblem, first_line


@dataclass(frozen=True)
class Weights:
    """The files that a component is loaded from, in the order of their names."""

    variant: str | None  # of these files: the ordinary ones where the component has none of the variant
    index: Path | None  # which tensor is in which file, where there are several
    files: tuple[Path, ...]


def find_weights(folder: Path, variant: str | None) -> Weights:
    """Return a component's weights as diffusers and transformers choose them; no files where there are none.

    A variant that the component does not have falls back to the ordinary files. Where the weights are
    there both whole and in parts, diffusers takes the parts, and transformers the whole.
    """
    choices = (variant, None) if variant else (None,)
    for choice in choices:
        weights = _weights_of(folder, choice)
        if weights.files:
            return weights
    return Weights(None, None, ())


def need_weights(folder: Path, variant: str | None) -> Weights:
    """Return a component's weights; raise UsageProblem that says what to do where there are none."""
    _refuse_pickled_variant(folder, variant)
    weights = find_weights(folder, variant)
    if weights.files:
        for path in weights.files:
            if not path.is_file():
                raise UsageProblem(f"{path}: no such file, but {weights.index} names it")
        return weights
    if variants := _variants_in(folder):
        raise UsageProblem(
            f"{folder}: has weights of variant {', '.join(variants)} alone; say `--variant {variants[0]}`"
        )
    if pickles := sorted(folder.glob("*.bin")):
        raise UsageProblem(
            f"{pickles[0]}: is a pickle, which can run code when opened; convert it with diffusers: "
            f"from_pretrained({str(folder.parent)!r}, use_safetensors=False).save_pretrained(FOLDER)"
        )
    raise UsageProblem(f"{folder}: has no weights; expected {_stem(folder)}.safetensors")


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the files that a component's tensors are in."""
    return list(find_weights(folder, variant).files)


def refuse_unknown_variant(folder: Path, components: Iterable[Path], variant: str | None) -> None:
    """Raise UsageProblem where no component has files of the variant."""
    if variant is None:
        return
    if not re.fullmatch(r"[\w-]+", variant):
        raise UsageProblem(f"--variant {variant}: expected the middle of a file's name, as in fp16")
    components = list(components)
    if any(_pickled(path, variant) or find_weights(path, variant).variant for path in components):
        return
    others = sorted({name for path in components for name in _variants_in(path)})
    hint = f"it has {', '.join(others)}" if others else "leave it out"
    raise UsageProblem(f"--variant {variant}: no component of {folder} has such weight files; {hint}")


def read_tensors(folder: Path, variant: str | None, names: set[str]) -> dict[str, torch.Tensor]:
    """Return single tensors of a component; raise UsageProblem for one that is missing or not finite."""
    tensors: dict[str, torch.Tensor] = {}
    for path in need_weights(folder, variant).files:
        with _opened(path) as file:
            tensors |= {name: file.get_tensor(name) for name in names.intersection(file.keys())}
    if missing := sorted(names - tensors.keys()):
        raise UsageProblem(
            f"{folder}: {len(missing)} missing tensors, the first {missing[0]}; "
            f"the weights are not those of its config.json"
        )
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UsageProblem(f"{folder}: {name} has numbers that are not finite (NaN or infinity)")
    return tensors


def count_numbers(folder: Path, variant: str | None) -> int:
    """Return how many numbers a component's files hold, from their headers."""
    total = 0
    for path in weight_files(folder, variant):
        with _opened(path) as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def check_headers(weights: Weights) -> None:
    """Raise UsageProblem for a file that is cut or whose table of tensors cannot be read."""
    for path in weights.files:
        with _opened(path):
            pass


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinity, in one pass."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
    return all(bool(bound.isfinite()) for bound in values.aminmax())


def check_finite(network: nn.Module, folder: Path, variant: str | None) -> None:
    """Raise UsageProblem that names a parameter with NaN or infinity, and tells whether fp16 is too small."""
    for name, parameter in network.named_parameters():
        if is_finite(parameter):
            continue
        if parameter.dtype is torch.float16:
            read_tensors(folder, variant, {name})  # raises where the file has it already
            raise UsageProblem(f"{folder}: {name} overflows fp16; use --dtype bf16 or fp32")
        raise UsageProblem(f"{folder}: {name} has numbers that are not finite (NaN or infinity)")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UsageProblem(f"{path}: {first_line(error)}") from None


def _stem(folder: Path) -> str:
    """Return the name of a component's weights: transformers' for text encoders, else diffusers'."""
    return "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"


def _weights_of(folder: Path, variant: str | None) -> Weights:
    stem, middle = _stem(folder), f".{variant}" if variant else ""
    whole = folder / f"{stem}{middle}.safetensors"
    indices = [folder / f"{stem}.safetensors.index{middle}.json"]
    if variant:
        indices.append(folder / f"{stem}.safetensors{middle}.index.json")  # as older diffusers wrote it
    index = next((path for path in indices if path.is_file()), None)
    if whole.is_file() and (index is None or stem == "model"):
        return Weights(variant, None, (whole,))
    if index is not None:
        return Weights(variant, index, _parts(index))
    return Weights(variant, None, ())


def _parts(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(
            f"{index}: expected weight_map, an object of file names ({first_line(error)})"
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UsageProblem(f"{index}: weight_map has {name!r}; expected names of .safetensors files")
    return tuple(index.parent / name for name in sorted(names))


def _variants_in(folder: Path) -> list[str]:
    """Return the variants that a component has weights of."""
    pattern = rf"{_stem(folder)}\.(?:(\w+)(?:-\d+-of-\d+)?\.safetensors|safetensors\.index\.(\w+)\.json)"
    matches = (re.fullmatch(pattern, path.name) for path in folder.glob("*"))
    return sorted({match[1] or match[2] for match in matches if match})


def _pickled(folder: Path, variant: str) -> list[Path]:
    return sorted(folder.glob(f"*.{variant}*.bin"))


def _refuse_pickled_variant(folder: Path, variant: str | None) -> None:
    """Raise UsageProblem where diffusers would open a variant's pickle, and not the ordinary files."""
    if variant and not _weights_of(folder, variant).files and (pickles := _pickled(folder, variant)):
        raise UsageProblem(
            f"{pickles[0]}: is a pickle, which can run code when opened; leave --variant {variant} out, or "
            f"convert it with diffusers"
        )
