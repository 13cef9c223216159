"""Read and check the JSON files of a pipeline folder: types, bounds on sizes, names of classes.

Whatever decides the size of a network or the code that runs is checked here before anything is built or
loaded.
"""

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import UsageProblem, first_line
from .configuration import (
    Autoencoder,
    Defaults,
    Fields,
    Index,
    PixArtTransformer,
    PooledUNet,
    Scheduler,
    TextEncoder,
    TinyAutoencoder,
    Tokenizer,
    Transformer,
    UNet,
)
from .families import FAMILIES, MMDIT, PIXART, UNET_CHANNELS, Family, family_of, tokenizer_of
from .weights import need_weights, refuse_unknown_variant

INDEX = "model_index.json"
DEFAULTS_FILE = "sdquant.json"  # next to model_index.json; no part of the diffusers layout
SCHEDULER_FILE = "scheduler_config.json"
TOKENIZER_FILE = "tokenizer_config.json"
GUIDANCE = "time_cond_proj_dim"  # the field of a UNet that embeds the guidance scale

Json = dict[str, Any]


# library and classes of a component, by the beginning of its folder's name
_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderTiny")),
    "text_encoder": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
_T5_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "text_encoder": ("transformers", ("T5EncoderModel",)),
    "tokenizer": ("transformers", ("T5Tokenizer", "T5TokenizerFast")),
}
# sets of files that a tokenizer can be read from
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_T5_VOCABULARIES = (("tokenizer.json",), ("spiece.model",))


def read_json(path: Path) -> Json:
    """Return the object in a JSON file; raise UsageProblem if there is none."""
    if not path.is_file():
        raise UsageProblem(f"{path}: no such file; expected a pipeline in diffusers layout")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageProblem(f"{path}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise UsageProblem(f"{path}: expected an object, found {_shown(value)}")
    if "auto_map" in value:
        raise UsageProblem(
            f"{path}: auto_map names code in the folder, which is never run; expected classes of "
            f"diffusers and transformers only"
        )
    return value


def with_defaults(cls: str, config: Json) -> Json:
    """Return a network's configuration, with the defaults of its diffusers class for missing fields."""
    import diffusers

    complete: Json = {}
    for field in inspect.signature(getattr(diffusers, cls).__init__).parameters.values():
        if field.default is not field.empty:
            complete[field.name] = field.default
    return complete | config


def family_in(folder: Path, source: str) -> Family:
    """Return the family of the pipeline in a folder; raise UsageProblem if it is not supported."""
    pipeline = _checked(Index, folder / INDEX).pipeline
    family = family_of(pipeline)
    if family is None:
        known = ", ".join(f"{f.name} ({f.pipelines[0]})" for f in FAMILIES)
        raise UsageProblem(f"--model {source}: is a {pipeline}; supported: {known}")
    return family


def check_folder(folder: Path, source: str, variant: str | None) -> Family:
    """Return the family of the pipeline in a folder; raise UsageProblem if its files are not valid.

    Weight files must exist; they are not opened.
    """
    family = family_in(folder, source)
    index = read_json(folder / INDEX)
    texts = text_parts(index, family)
    for part in dict.fromkeys((*family.parts, *texts, *map(tokenizer_of, texts))):
        _check_class(folder / INDEX, index, family, part)
        if not (folder / part).is_dir():
            hint = "" if part in family.parts else f", or [null, null] for {part} in {INDEX} to do without it"
            raise UsageProblem(
                f"--model {source}: {folder} has no {part}/; expected a {family.name} pipeline in diffusers "
                f"layout with {', '.join(family.parts)}{hint}"
            )
    _check_configurations(folder, index, family)
    networks = [folder / part for part in (family.folder, "vae", *texts)]
    refuse_unknown_variant(folder, networks, variant)
    for network in networks:
        need_weights(network, variant)
    return family


def _check_configurations(folder: Path, index: Json, family: Family) -> None:
    """Raise UsageProblem unless each component's configuration is valid, and they fit each other."""
    path = folder / family.folder / "config.json"
    denoiser = _checked(_denoiser_model(family), path)
    tiny = index["vae"][1] == "AutoencoderTiny"
    _checked(TinyAutoencoder if tiny else Autoencoder, folder / "vae" / "config.json")
    _checked(Scheduler, folder / "scheduler" / SCHEDULER_FILE)
    texts = text_parts(index, family)
    encoders = [_checked(TextEncoder, folder / name / "config.json") for name in texts]
    for name, encoder in zip(texts, encoders, strict=True):
        _check_tokenizer(folder / tokenizer_of(name), None if name in family.t5 else encoder)
    if isinstance(denoiser, UNet):
        _check_widths(path, denoiser, encoders)


def check_supported(folder: Path, family: Family) -> None:
    """Raise UsageProblem for a denoiser whose configuration has values that are not supported."""
    path = folder / family.folder / "config.json"
    config = read_json(path)
    supported = family.denoiser.supported
    if family.context:
        supported = {**supported, "in_channels": (UNET_CHANNELS + family.context,)}
    for name, allowed in supported.items():
        value = config.get(name, family.denoiser.supported[name][0])
        if value not in allowed:
            raise UsageProblem(f"{path}: {name} is {value}; supported: {', '.join(map(str, allowed))}")
    if family.embeds_guidance and config.get(GUIDANCE) is None:
        raise UsageProblem(
            f"{path}: {GUIDANCE} is missing; expected the channels of an embedded guidance scale, which "
            f"{family.pipelines[0]} needs"
        )


def class_in(folder: Path, part: str) -> type[Any]:
    """Return the class of a component that a pipeline's index names; raise UsageProblem for any other."""
    index = read_json(folder / INDEX)
    _check_class(folder / INDEX, index, family_in(folder, str(folder)), part)
    library, name = index[part]
    cls: type[Any] = getattr(import_module(library), name)
    return cls


def text_parts(index: Json, family: Family) -> list[str]:
    """Return the folders of the text encoders that a pipeline has."""
    absent = (None, [None, None])
    return [name for name in family.texts if name not in family.optional or index.get(name) not in absent]


def read_defaults(folder: Path, family: Family) -> Defaults:
    """Return a model's default settings: those of its own file, else its family's."""
    defaults: Json = {"guidance_scale": family.guidance_scale, "steps": family.steps}
    path = folder / DEFAULTS_FILE
    if not path.exists():
        return Defaults(**defaults)
    return _validated(Defaults, path, defaults | read_json(path))


def _denoiser_model(family: Family) -> type[Fields]:
    if family.denoiser is MMDIT:
        return Transformer
    if family.denoiser is PIXART:
        return PixArtTransformer
    return PooledUNet if family.pooled else UNet


def _check_class(path: Path, index: Json, family: Family, part: str) -> None:
    """Raise UsageProblem unless a component's entry names a class that the family accepts."""
    entry = index.get(part)
    library, name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if part == "scheduler":
        expected_library, expected = "diffusers", "a scheduler of diffusers"
        fits = isinstance(name, str) and name.endswith("Scheduler")
    else:
        expected_library, classes = _classes_of(part, family)
        expected = " or ".join(classes)
        fits = name in classes
    if fits and library == expected_library:
        return
    raise UsageProblem(f'{path}: {part} is {_shown(entry)}; expected ["{expected_library}", {expected}]')


def _classes_of(part: str, family: Family) -> tuple[str, tuple[str, ...]]:
    if part == family.folder:
        return "diffusers", (family.denoiser.cls, *family.denoiser.older)
    is_t5 = part in family.t5 or part in map(tokenizer_of, family.t5)
    classes = _T5_CLASSES if is_t5 else _CLASSES
    return next(value for beginning, value in classes.items() if part.startswith(beginning))


def _check_widths(path: Path, unet: UNet, encoders: list[TextEncoder]) -> None:
    """Raise UsageProblem unless the text encoders' outputs are as wide as the UNet's input."""
    if all("hidden_size" in encoder.model_fields_set for encoder in encoders):
        width = sum(encoder.hidden_size for encoder in encoders)
        if unet.cross_attention_dim != width:
            raise UsageProblem(
                f"{path}: cross_attention_dim is {unet.cross_attention_dim}; expected {width}, the "
                f"hidden_size of the text encoders together"
            )
    if isinstance(unet, PooledUNet) and "projection_dim" in encoders[-1].model_fields_set:
        width = encoders[-1].projection_dim + 6 * unet.addition_time_embed_dim
        if unet.projection_class_embeddings_input_dim != width:
            raise UsageProblem(
                f"{path}: projection_class_embeddings_input_dim is "
                f"{unet.projection_class_embeddings_input_dim}; expected {width}, text_encoder_2's "
                f"projection_dim and six times addition_time_embed_dim"
            )


def _check_tokenizer(folder: Path, clip: TextEncoder | None) -> None:
    """Raise UsageProblem for a tokenizer without vocabulary, or for CLIP's with a wrong length.

    `clip` is None for T5's.
    """
    choices = _VOCABULARIES if clip else _T5_VOCABULARIES
    if not any(_has_all(folder, files) for files in choices):
        expected = ", or ".join(" and ".join(files) for files in choices)
        raise UsageProblem(f"{folder}: has no vocabulary; expected {expected}")
    if clip is None:  # the pipeline decides on the number of tokens
        return
    positions = clip.max_position_embeddings
    path = folder / TOKENIZER_FILE
    length = _checked(Tokenizer, path).model_max_length
    if length > positions:
        raise UsageProblem(
            f"{path}: model_max_length is {_shown(length)}; expected at most {positions}, the text encoder's "
            f"max_position_embeddings"
        )


def _has_all(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


M = TypeVar("M", bound=BaseModel)


def _checked(model: type[M], path: Path) -> M:
    return _validated(model, path, read_json(path))


def _validated(model: type[M], path: Path, value: Json) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        if first["type"] == "missing":
            raise UsageProblem(f"{path}: {field} is missing") from None
        raise UsageProblem(f"{path}: {field} is {_shown(value.get(field))}; {_expected(first)}") from None


def _expected(error: ErrorDetails) -> str:
    """Return what pydantic expected, in plain words."""
    words = error["msg"].replace("Input should be", "expected", 1)
    return words.replace("less than or equal to", "at most").replace("greater than or equal to", "at least")


def _shown(value: object) -> str:
    """Return a value as JSON, shortened to 80 characters."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
