"""A pipeline directory that diffusers loads, written from a packed network; and its proof.

Beside what diffusers reads: recipe.json (bits of each layer, the calibration), provenance.json (what it was
made from, sha256 of every file), selftest.safetensors (a call's inputs and output) and a model card.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import DamagedArtifact, UsageProblem, first_line
from ..models.condition import Condition, predict
from ..models.families import FAMILIES
from ..models.load import Model
from ..models.source import INDEX
from ..models.weights import weight_files
from .plugin import SdquantConfig, SdquantQuantizer

SHARD = "100MB"
RECIPE, PROVENANCE, SELF_TEST, CARD = "recipe.json", "provenance.json", "selftest.safetensors", "README.md"


def write_packed(network: Any, config: SdquantConfig, folder: Path) -> None:
    """The denoiser's own folder, by diffusers' `save_pretrained`."""
    network.hf_quantizer = SdquantQuantizer(config, pre_quantized=True)
    network.is_quantized = True
    network.register_to_config(quantization_config=config, _name_or_path="")
    network.save_pretrained(folder, max_shard_size=SHARD)


def write_dense(network: Any, folder: Path) -> None:
    """The denoiser's own folder with ordinary weights."""
    network.register_to_config(_name_or_path="")
    network.save_pretrained(folder, max_shard_size=SHARD)


def write_others(model: Model, sampler: Any, folder: Path) -> None:
    """All components but the denoiser, and the index; the scheduler is the sampler calibrated for."""
    index = json.loads((model.folder / INDEX).read_text())
    sampler.save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", type(sampler).__name__]
    if model.named.lora:  # is in the text encoders too
        pipeline = model.text_pipeline()
        for part in model.text_parts:
            getattr(pipeline, part).save_pretrained(folder / part)
    for part in (*model.other_parts, "feature_extractor"):
        if (model.folder / part).is_dir() and not (folder / part).exists():
            _copy(model.folder / part, folder / part, model.named.variant)
    for name, value in index.items():
        if isinstance(value, list) and not (folder / name).is_dir():
            index[name] = [None, None]
    index.pop("_name_or_path", None)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy(source: Path, target: Path, variant: str | None) -> None:
    """A component's files, of weights only those that are loaded; a variant's become the ordinary ones."""
    target.mkdir(parents=True)
    weights = {path.name for path in weight_files(source, variant)}
    for path in sorted(source.iterdir()):
        ending = path.suffix in (".json", ".txt", ".model")
        if not path.is_file() or not (ending or path.name in weights):
            continue
        name = path.name.replace(f".{variant}.", ".") if variant else path.name
        if variant and path.name.endswith(".json"):  # an index names files
            (target / name).write_text(path.read_text().replace(f".{variant}.", "."))
        else:
            shutil.copyfile(path, target / name)


def load_denoiser(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, bool]:
    """The denoiser of an exported directory, and whether it is packed; `dtype`: of what is not."""
    import diffusers

    for family in FAMILIES:
        if (path := folder / family.folder / "config.json").is_file():
            config = json.loads(path.read_text())
            cls = getattr(diffusers, config["_class_name"])
            network = cls.from_pretrained(path.parent, dtype=dtype)
            return network.requires_grad_(False), "quantization_config" in config
    raise UsageProblem(f"{folder}: has no denoiser; expected what `sdquant export` writes")


# ------------------------------------------------------------------------------------- proof


def write_self_test(
    network: nn.Module, x: Tensor, timestep: Tensor, condition: Condition, file: Path
) -> None:
    """One call's inputs and output, computed by the network as it is."""
    with torch.no_grad():
        tensors = {"x": x, "timestep": timestep, "output": predict(network, x, timestep, condition)}
    tensors["tokens"] = condition.tokens
    tensors |= {n: t for n in ("pooled", "size") if (t := getattr(condition, n)) is not None}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def replay(network: nn.Module, file: Path) -> float:
    """Signal to noise, dB, of a network's answer to the stored call; infinite where it is the same."""
    try:
        told = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedArtifact(f"{file}: {first_line(error)}") from None
    condition = Condition(told["tokens"], told.get("pooled"), told.get("size"))
    with torch.no_grad():
        answer = predict(network, told["x"], told["timestep"], condition)
    noise = (answer.double() - told["output"].double()).square().sum()
    return float(10 * torch.log10(told["output"].double().square().sum() / noise))


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Call last: the digests of all files are in it."""
    files = {str(path.relative_to(folder)): _digest(path) for path in _files(folder)}
    (folder / PROVENANCE).write_text(json.dumps({**facts, "files": files}, indent=1) + "\n")


def check_files(folder: Path) -> int:
    """How many files there are, all as written; raises DamagedArtifact that names one that is not."""
    path = folder / PROVENANCE
    try:
        files: dict[str, str] = json.loads(path.read_text())["files"]
    except FileNotFoundError:
        raise UsageProblem(f"{folder}: no {PROVENANCE}; expected what `sdquant export` writes") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedArtifact(f"{path}: {type(error).__name__}: {error}") from None
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise DamagedArtifact(f"{folder / name}: is missing; export it again")
        if _digest(folder / name) != digest:
            raise DamagedArtifact(f"{folder / name}: is not as it was written; export it again")
    return len(files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
