"""Where a model is: a folder in diffusers layout, whatever the user named.

A Hub id is taken from the local cache or fetched. A single checkpoint file is converted once, into
$XDG_CACHE_HOME/sdquant/models, named by the file's hash. Pickles are never opened.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem, UsageProblem
from ..paths import cache_folder
from .families import FAMILIES, Family, family_of

EMBEDDED = "shapes"
EMBEDDED_FOLDER = Path(__file__).parent / EMBEDDED
DEFAULTS_FILE = "sdquant.json"  # beside model_index.json: what a diffusers directory has no place for
INDEX = "model_index.json"
_PICKLES = (".ckpt", ".bin", ".pt", ".pth")


def locate(source: str, revision: str | None, variant: str | None, base: str | None) -> Path:
    """The folder of `--model`; `base` is the pipeline that a single file is a fine-tune of."""
    if source == EMBEDDED:
        return EMBEDDED_FOLDER
    path = Path(source)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise UsageProblem(f"--model {source}: no {INDEX}; expected a pipeline in diffusers layout")
        return path
    if path.suffix in _PICKLES:
        raise UsageProblem(
            f"--model {source}: is a pickle, which can run code when opened; convert it with diffusers' "
            f"StableDiffusionPipeline.from_single_file(...).save_pretrained(FOLDER) and name that folder"
        )
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageProblem(f"--model {source}: expected a folder, a .safetensors file or a Hub id")
        return _converted(path, base)
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise UsageProblem(f"--model {source}: no such folder or file")
    return _of_hub(source, revision, variant)


def family_in(folder: Path, source: str) -> Family:
    """The family of the pipeline in a folder, its parts all there; raises UsageProblem otherwise."""
    path = folder / INDEX
    try:
        found = str(json.loads(path.read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageProblem(f"{path}: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    family = family_of(found)
    if family is None:
        known = ", ".join(f"{f.name} ({f.pipelines[0]})" for f in FAMILIES)
        raise UsageProblem(f"--model {source}: is a {found}; supported: {known}")
    for part in family.parts:
        if not (folder / part).is_dir():
            raise UsageProblem(
                f"--model {source}: {folder} has no {part}/; expected a {family.name} pipeline in diffusers "
                f"layout with {', '.join(family.parts)}"
            )
    return family


def _of_hub(source: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    folders = {part for family in FAMILIES for part in (*family.parts, *family.optional)}
    folders |= {name.replace("text_encoder", "tokenizer") for name in folders}
    patterns = [
        f"{folder}/{kind}" for folder in sorted(folders) for kind in (weights, "*.json", "*.txt", "*.model")
    ]
    other = [] if variant else [f"*.{name}*.safetensors" for name in ("fp16", "bf16", "non_ema", "ema")]
    try:
        folder = snapshot_download(
            source,
            revision=revision,
            allow_patterns=[*patterns, INDEX, DEFAULTS_FILE],
            ignore_patterns=[*other, "*.onnx*", "*flax*", "*openvino*"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" --revision {revision}" if revision else ""
        raise EnvironmentProblem(
            f"--model {source}: not in the local Hub cache and cannot be fetched "
            f"({str(error).splitlines()[0]}); try `hf download {source}{at}`"
        ) from None
    except HFValidationError as error:
        raise UsageProblem(f"--model {source}: {str(error).splitlines()[0]}") from None
    return Path(folder)


def _converted(path: Path, base: str | None) -> Path:
    """A single file's folder in diffusers layout, converted where it is absent."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    root = cache_folder("models")
    like = locate(base, None, None, None) if base else None
    folder = root / (digest[:32] if like is None else f"{digest[:24]}-{_digest_of_layout(like)}")
    if not (folder / INDEX).is_file():
        root.mkdir(parents=True, exist_ok=True)
        partial = folder.with_suffix(f".{os.getpid()}")
        _convert(path, like).save_pretrained(partial, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def _digest_of_layout(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.json")):
        total.update(path.read_bytes())
    return total.hexdigest()[:8]


def _convert(path: Path, like: Path | None) -> Any:
    import diffusers

    classes = [getattr(diffusers, family.pipelines[0]) for family in FAMILIES]
    if like is not None:
        classes = [getattr(diffusers, family_in(like, str(like)).pipelines[0])]
    where: dict[str, Any] = {} if like is None else {"config": str(like), "local_files_only": True}
    problems = []
    for cls in classes:
        names = [name for name in ("safety_checker", "feature_extractor") if name in cls._optional_components]
        try:
            return cls.from_single_file(str(path), **where, **dict.fromkeys(names))
        except Exception as error:
            problems.append(" ".join(str(error).split())[:200])
    raise UsageProblem(
        f"--model {path}: diffusers cannot read it ({problems[0]}); "
        f"name the pipeline it comes from: --base FOLDER or id"
    )
