"""The weight files of a component: which ones are read, their tensors and counts; pickles are not opened."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import UsageProblem, first_line

# by their names in a header
_FLOATING = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Weights:
    """The files that a component is loaded from, sorted by name."""

    variant: str | None  # of these files; None where the component falls back to the ordinary ones
    index: Path | None  # the index of a sharded checkpoint
    files: tuple[Path, ...]


def find_weights(folder: Path, variant: str | None) -> Weights:
    """Return a component's weights as diffusers and transformers choose them; no files if there are none.

    Where the component lacks the variant, the ordinary files are taken. Of a whole file and a sharded
    checkpoint, diffusers takes the shards and transformers the whole file.
    """
    choices = (variant, None) if variant else (None,)
    for choice in choices:
        weights = _weights_of(folder, choice)
        if weights.files:
            return weights
    return Weights(None, None, ())


def need_weights(folder: Path, variant: str | None) -> Weights:
    """Return a component's weights; raise UsageProblem with the remedy if there are none."""
    _refuse_pickled_variant(folder, variant)
    weights = find_weights(folder, variant)
    if weights.files:
        for path in weights.files:
            if not path.is_file():
                raise UsageProblem(f"{path}: no such file, but {weights.index} names it")
        return weights
    if variants := _variants_in(folder):
        raise UsageProblem(
            f"{folder}: has only weights of variant {', '.join(variants)}; add `--variant {variants[0]}`"
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
    """Raise UsageProblem if no component has files of the variant."""
    if variant is None:
        return
    if not re.fullmatch(r"[\w-]+", variant):
        raise UsageProblem(f"--variant {variant}: expected the middle of a file's name, as in fp16")
    others: set[str] = set()
    for path in components:
        if _pickled(path, variant) or find_weights(path, variant).variant:
            return
        others.update(_variants_in(path))
    hint = f"it has {', '.join(sorted(others))}" if others else "leave it out"
    raise UsageProblem(f"--variant {variant}: no component of {folder} has such weight files; {hint}")


def read_tensors(folder: Path, variant: str | None, names: set[str]) -> dict[str, torch.Tensor]:
    """Return tensors of a component by name; raise UsageProblem if one is missing or not finite."""
    tensors: dict[str, torch.Tensor] = {}
    for path in need_weights(folder, variant).files:
        with _opened(path) as file:
            for name in names.intersection(file.keys()):
                tensors[name] = file.get_tensor(name)
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
    """Return the number of parameters in a component's files, from their headers."""
    total = 0
    for path in weight_files(folder, variant):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                total += math.prod(file.get_slice(name).get_shape())
    return total


def dtype_in(folder: Path, variant: str | None) -> torch.dtype:
    """Return the widest floating-point dtype in a component's files, from their headers; fp32 without any."""
    widest: torch.dtype | None = None
    for path in weight_files(folder, variant):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                dtype = _FLOATING.get(file.get_slice(name).get_dtype())
                if dtype is not None:
                    widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return widest or torch.float32


def check_headers(weights: Weights) -> None:
    """Raise UsageProblem for a file that is truncated or whose header cannot be read."""
    for path in weights.files:
        with _opened(path):
            pass


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has no NaN or infinity, in one pass."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
    lowest, highest = values.aminmax()
    return bool(lowest.isfinite() and highest.isfinite())


def check_finite(network: nn.Module, folder: Path, variant: str | None) -> None:
    """Raise UsageProblem that names a parameter with NaN or infinity, and says if fp16 is the cause."""
    for name, parameter in network.named_parameters():
        if is_finite(parameter):
            continue
        if parameter.dtype is torch.float16:
            read_tensors(folder, variant, {name})  # raises where the file has it already
            raise UsageProblem(f"{folder}: {name} overflows fp16; use --dtype bf16 or fp32")
        raise UsageProblem(f"{folder}: {name} has numbers that are not finite (NaN or infinity)")


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UsageProblem(f"{path}: {first_line(error)}") from None


def _stem(folder: Path) -> str:
    """Return the file name of a component's weights, without suffix: transformers' or diffusers'."""
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
    """Return the variants of a component's weights."""
    pattern = rf"{_stem(folder)}\.(?:(\w+)(?:-\d+-of-\d+)?\.safetensors|safetensors\.index\.(\w+)\.json)"
    variants = set()
    for path in folder.glob("*"):
        if match := re.fullmatch(pattern, path.name):
            variants.add(match[1] or match[2])
    return sorted(variants)


def _pickled(folder: Path, variant: str) -> list[Path]:
    return sorted(folder.glob(f"*.{variant}*.bin"))


def _refuse_pickled_variant(folder: Path, variant: str | None) -> None:
    """Raise UsageProblem if diffusers would open a variant's pickle instead of the ordinary files."""
    if variant and not _weights_of(folder, variant).files and (pickles := _pickled(folder, variant)):
        raise UsageProblem(
            f"{pickles[0]}: is a pickle, which can run code when opened; leave --variant {variant} out, or "
            f"convert it with diffusers"
        )
