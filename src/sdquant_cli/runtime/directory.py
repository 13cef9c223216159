"""Write and load an exported folder: a pipeline that diffusers loads, with a packed denoiser.

The folder also has recipe.json (description.py), a model card, and the proof that it is intact (proof.py).
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import DamagedArtifact, SdquantError, UsageProblem, first_line
from ..manifests import QuantStateFacts, QuantStateSpec
from ..models.families import FAMILIES
from ..models.load import Model
from ..models.pipelines import in_pipeline
from ..models.source import INDEX
from ..models.weights import weight_files
from ..types import ExportFormat
from . import digests
from .checks import check_numbers
from .components import SHARD
from .description import NO_OTHERS, Others, card, recipe_of
from .hook import METHOD
from .plugin import SdquantConfig, SdquantQuantizer

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

RECIPE, CARD = "recipe.json", "README.md"
_TEXT_DTYPES = {"text_encoder_3": "bfloat16"}  # T5, as images are generated here; others are float32


def write_packed(network: "ModelMixin", config: SdquantConfig, folder: Path) -> None:
    """Write a packed denoiser with diffusers' `save_pretrained`, and digests of its weight files."""
    check_numbers(network)
    network.hf_quantizer = SdquantQuantizer(config, pre_quantized=True)
    network.register_to_config(quantization_config=config, _name_or_path="")
    network.save_pretrained(folder, max_shard_size=SHARD)
    digests.record(folder)


def write_dense(network: "ModelMixin", folder: Path) -> None:
    """Write a denoiser with floating-point weights."""
    network.register_to_config(_name_or_path="")
    network.save_pretrained(folder, max_shard_size=SHARD)


def write_description(
    folder: Path,
    form: ExportFormat,
    spec: QuantStateSpec,
    facts: QuantStateFacts,
    others: Others = NO_OTHERS,
) -> None:
    """Write the recipe and the model card; `others` are packed networks beside the denoiser."""
    (folder / RECIPE).write_text(json.dumps(recipe_of(form, spec, facts, others), indent=1) + "\n")
    (folder / CARD).write_text(card(form, spec, facts, others))


def write_others(model: Model, sampler: "SchedulerMixin", folder: Path) -> None:
    """Write the components that are not there yet, and the index; the scheduler is the calibration's."""
    index = json.loads((model.folder / INDEX).read_text())
    sampler.save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", type(sampler).__name__]
    if model.name.lora:  # an adapter changes text encoders too
        pipeline = model.text_pipeline()
        for part in model.text_parts:
            if not (folder / part).exists():
                getattr(pipeline, part).save_pretrained(folder / part)
    for part in (*model.networks, *model.other_parts, "feature_extractor"):
        if (model.folder / part).is_dir() and not (folder / part).exists():
            _copy(model.folder / part, folder / part, model.name.variant)
    for part in model.text_parts:
        set_dtype(folder / part / "config.json", _TEXT_DTYPES.get(part, "float32"))
    for name, value in index.items():
        if isinstance(value, list) and not (folder / name).is_dir():
            index[name] = [None, None]
    index.pop("_name_or_path", None)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy(source: Path, target: Path, variant: str | None) -> None:
    """Copy a component with only the weight files that are loaded; those of a variant lose its name."""
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


def set_dtype(path: Path, dtype: str) -> None:
    """Set the dtype in which transformers loads a component by default, instead of that of its weights.

    diffusers loads its own components in fp32 by default, and a call fails if text encoders differ.
    """
    config = json.loads(path.read_text())
    config.pop("torch_dtype", None)  # its name before transformers 5
    path.write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n")


def pipeline_scheduler(model: Model, folder: Path) -> "SchedulerMixin":
    """Return a written folder's scheduler as the pipeline loads it, which may change its config."""
    import diffusers

    name = json.loads((folder / INDEX).read_text())["scheduler"][1]
    return in_pipeline(model.pipeline_class, getattr(diffusers, name).from_pretrained(folder / "scheduler"))


def load_denoiser(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, bool]:
    """Return the denoiser of an exported folder and whether it is packed.

    `dtype` is that of unpacked weights. Raises DamagedArtifact if diffusers cannot load it, and UsageProblem
    for a folder without a denoiser.
    """
    import diffusers

    for name in dict.fromkeys(family.folder for family in FAMILIES):
        if (path := folder / name / "config.json").is_file():
            cls, packed = _class_and_method(path)
            try:
                network = getattr(diffusers, cls).from_pretrained(
                    path.parent, dtype=dtype, use_safetensors=True
                )
            except SdquantError:
                raise
            except Exception as error:  # a damaged config.json can raise anything
                raise DamagedArtifact(
                    f"{path.parent}: diffusers cannot load it ({type(error).__name__}: "
                    f"{first_line(error)}); {digests.REMEDY}"
                ) from None
            return network.requires_grad_(False), packed
    raise UsageProblem(f"{folder}: has no denoiser; expected a folder that `sdquant export` wrote")


def _class_and_method(path: Path) -> tuple[str, bool]:
    """Return a denoiser's class, and whether its config.json has our quantization; raises DamagedArtifact."""
    try:
        config = json.loads(path.read_text())
        name, quantization = config["_class_name"], config.get("quantization_config")
        method = None if quantization is None else quantization["quant_method"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(f"{path}: {type(error).__name__}: {error}; {digests.REMEDY}") from None
    classes = [family.denoiser.cls for family in FAMILIES if family.folder == path.parent.name]
    if name not in classes:
        expected = " or ".join(dict.fromkeys(classes))
        raise DamagedArtifact(f"{path}: _class_name is {name!r}, expected {expected}")
    if method not in (None, METHOD):
        raise DamagedArtifact(f"{path}: quantization_config.quant_method is {method!r}, expected {METHOD}")
    return name, method is not None
