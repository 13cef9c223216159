"""Find the folder in diffusers layout behind a model's name.

A Hub id is taken from the local cache or fetched. A single checkpoint file is converted once. Pickles are
never opened.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentProblem, UsageProblem, first_line
from ..manifests import ModelRef
from .convert import converted
from .folder import DEFAULTS_FILE, INDEX, check_folder

__all__ = ["EMBEDDED", "EMBEDDED_FOLDER", "INDEX", "ModelName", "locate"]

EMBEDDED = "shapes"
EMBEDDED_FOLDER = Path(__file__).parent / EMBEDDED
_PICKLES = (".ckpt", ".bin", ".pt", ".pth")
_NOT_READ = (
    "safety_checker",
    "feature_extractor",
    "image_encoder",
)  # components that images do not depend on


@dataclass(frozen=True)
class ModelName:
    """A model as the user names it."""

    source: str  # a folder, a .safetensors file, a Hub id or `shapes`
    revision: str | None = None  # of a Hub id
    variant: str | None = None  # of the weight files, as in fp16
    base: str | None = None  # the pipeline that a single file is a fine-tune of
    lora: str | None = None  # the file or folder of an adapter
    lora_scale: float | None = None

    @classmethod
    def from_ref(cls, ref: ModelRef) -> "ModelName":
        """Return the name in a stored setting."""
        return cls(**ref.model_dump(exclude={"digest"}))


def locate(name: ModelName, *, fetch: bool = True) -> Path:
    """Return the folder of a model; without `fetch` a Hub id is looked up in the local cache alone."""
    source = name.source
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
        return converted(path, locate(ModelName(name.base), fetch=fetch) if name.base else None)
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise UsageProblem(f"--model {source}: no such folder or file")
    return _of_hub(source, name.revision, name.variant, fetch=fetch)


def _of_hub(source: str, revision: str | None, variant: str | None, *, fetch: bool) -> Path:
    """Return the snapshot of a Hub id, with the files that diffusers would fetch for it."""
    import diffusers
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    command = f"hf download {source}" + (f" --revision {revision}" if revision else "")
    problem: Exception | None = None
    offline = constants.HF_HUB_OFFLINE or not fetch
    try:
        folder = diffusers.DiffusionPipeline.download(
            source,
            revision=revision,
            variant=variant,
            use_safetensors=True,
            local_files_only=offline,
            **dict.fromkeys(_NOT_READ),
        )
    except HFValidationError as error:
        raise UsageProblem(f"--model {source}: {first_line(error)}") from None
    except Exception as error:  # network, Hub or missing files
        problem, folder = error, _cached(source, revision)
    if folder is None:
        raise EnvironmentProblem(
            f"--model {source}: not in the local Hub cache and cannot be fetched "
            f"({first_line(problem or OSError())}); try `{command}`"
        )
    _add_defaults(source, revision, offline=offline or problem is not None)
    try:
        check_folder(Path(folder), source, variant)
    except UsageProblem as error:
        if problem is None and not offline:
            raise
        raise EnvironmentProblem(
            f"{error}; the Hub cache has {source} in part, and the Hub cannot be reached; try `{command}`"
        ) from None
    return Path(folder)


def _cached(source: str, revision: str | None) -> str | None:
    """Return the local cache's snapshot of a Hub id, complete or not."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(source, revision=revision, local_files_only=True, allow_patterns=[INDEX])
    except OSError:
        return None


def _add_defaults(source: str, revision: str | None, *, offline: bool) -> None:
    """Fetch sdquant.json if there is one; diffusers does not."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hf_hub_download(source, DEFAULTS_FILE, revision=revision, local_files_only=offline)
    except (HfHubHTTPError, OSError):
        return
