"""A single checkpoint file as a folder in diffusers layout, converted once by diffusers.

The folder is in $XDG_CACHE_HOME/sdquant/models. Its name is a digest of the file and of the base whose
configuration it takes. It is written whole or not at all, and two processes convert a file once.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from ..errors import UsageProblem, first_line
from ..paths import cache_folder
from .digest import digest_of, file_digest, files_read
from .families import FAMILIES, tokenizer_of
from .folder import GUIDANCE, INDEX, check_folder, family_in, read_json, text_parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# how trainers mark models with v prediction; diffusers' from_single_file ignores it
_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"  # names of tensors without meaningful values
_PREDICTION_TYPE = "modelspec.prediction_type"  # in the file's metadata


def converted(path: Path, base: Path | None) -> Path:
    """Return the folder of a checkpoint file with its base's configuration, converted if it is absent."""
    marks = _marks(path)
    folder, locks = cache_folder("models") / _name(path, base, marks), cache_folder("locks")
    if (folder / INDEX).is_file():
        return folder
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{folder.name}.lock"):
        if not (folder / INDEX).is_file():
            _write(path, base, marks, folder)
    return folder


def _name(path: Path, base: Path | None, marks: Mapping[str, object]) -> str:
    digest = file_digest(path).hex()
    name = digest[:32] if base is None else f"{digest[:24]}-{_digest_of_layout(base)}"
    return f"{name}-v" if marks else name


def _write(path: Path, base: Path | None, marks: Mapping[str, object], folder: Path) -> None:
    """Write the folder under a temporary name and move it; a partial one of an earlier run is replaced."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = _convert(path, base)
    if marks:
        scheduler = type(pipeline.scheduler)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **marks)
    pipeline.save_pretrained(partial, safe_serialization=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _marks(path: Path) -> dict[str, object]:
    """Return the scheduler fields that a checkpoint's marks ask for."""
    try:
        with safe_open(path, "pt") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UsageProblem(f"--model {path}: cannot be read as safetensors ({first_line(error)})") from None
    if _V_PREDICTION not in names and metadata.get(_PREDICTION_TYPE) not in ("v", "v_prediction"):
        return {}
    fields: dict[str, object] = {"prediction_type": "v_prediction"}
    return fields | ({"rescale_betas_zero_snr": True} if _ZERO_SNR in names else {})


def _digest_of_layout(base: Path) -> str:
    """Return a digest of what a conversion takes from its base, configurations and tokenizers."""
    family = check_folder(base, str(base), None)
    if read_json(base / family.folder / "config.json").get(GUIDANCE) is not None:
        raise UsageProblem(
            f"--base {base}: its UNet embeds the guidance scale ({GUIDANCE}), which single files cannot hold"
        )
    texts = text_parts(read_json(base / INDEX), family)
    parts = {*family.parts, *texts, *map(tokenizer_of, texts)}
    files = {base / INDEX}
    for part in parts:
        files.update(path for path in files_read(base / part, None) if path.suffix != ".safetensors")
    return digest_of(base, files).hexdigest()[:8]


def _convert(path: Path, base: Path | None) -> "DiffusionPipeline":
    import diffusers

    families = FAMILIES if base is None else (family_in(base, str(base)),)
    where: dict[str, object] = {} if base is None else {"config": str(base), "local_files_only": True}
    problems = []
    for family in families:
        cls = getattr(diffusers, family.pipelines[0])
        left_out = {"safety_checker", "feature_extractor"}.intersection(cls._optional_components)
        try:
            return cls.from_single_file(str(path), **where, **dict.fromkeys(left_out))
        except Exception as error:
            problems.append(" ".join(str(error).split())[:200])
    raise UsageProblem(
        f"--model {path}: diffusers cannot read it ({problems[0]}); "
        f"name the pipeline it comes from: --base FOLDER or id"
    )
