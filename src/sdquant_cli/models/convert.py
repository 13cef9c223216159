"""A single checkpoint file as a folder in diffusers layout, converted once by diffusers.

The folder is in $XDG_CACHE_HOME/sdquant/models, named by the contents of the file and of the base that
gives its configuration. It is there whole or not at all, and two processes convert it once.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from ..errors import UsageProblem
from ..paths import cache_folder
from .digest import digest_of, file_digest, files_read
from .families import FAMILIES
from .folder import INDEX, check_folder, family_in, read_json, text_parts, tokenizer_of

# What trainers of models with v prediction leave in their files; diffusers' from_single_file does not look.
_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"  # tensors, of no numbers that matter
_PREDICTION_TYPE = "modelspec.prediction_type"  # of the file's metadata


def converted(path: Path, base: Path | None) -> Path:
    """Return the folder of a checkpoint file, converted where it is absent, with its base's configuration."""
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
    """Write the folder beside, then move it; what an earlier process left half written is replaced."""
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
    """Return the fields of a scheduler that a checkpoint asks for."""
    try:
        with safe_open(path, "pt") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UsageProblem(f"--model {path}: is no safetensors file that can be read ({error})") from None
    if _V_PREDICTION not in names and metadata.get(_PREDICTION_TYPE) not in ("v", "v_prediction"):
        return {}
    fields: dict[str, object] = {"prediction_type": "v_prediction"}
    return fields | ({"rescale_betas_zero_snr": True} if _ZERO_SNR in names else {})


def _digest_of_layout(base: Path) -> str:
    """Return a digest of what a conversion takes from its base: configurations and tokenizers."""
    family = check_folder(base, str(base), None)
    texts = text_parts(read_json(base / INDEX), family)
    parts = {*family.parts, *texts, *map(tokenizer_of, texts)}
    files = [path for part in parts for path in files_read(base / part, None)]
    configurations = [path for path in files if path.suffix != ".safetensors"]
    return digest_of(base, [base / INDEX, *configurations]).hexdigest()[:8]


def _convert(path: Path, base: Path | None) -> Any:
    import diffusers

    families = FAMILIES if base is None else (family_in(base, str(base)),)
    where: dict[str, Any] = {} if base is None else {"config": str(base), "local_files_only": True}
    problems = []
    for family in families:
        cls = getattr(diffusers, family.pipelines[0])
        names = [name for name in ("safety_checker", "feature_extractor") if name in cls._optional_components]
        try:
            return cls.from_single_file(str(path), **where, **dict.fromkeys(names))
        except Exception as error:
            problems.append(" ".join(str(error).split())[:200])
    raise UsageProblem(
        f"--model {path}: diffusers cannot read it ({problems[0]}); "
        f"name the pipeline it comes from: --base FOLDER or id"
    )
