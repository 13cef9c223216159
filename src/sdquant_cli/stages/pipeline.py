"""The six stages in order: from a configuration file, or with the demo's small settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UsageProblem
from ..events import SILENT, Events
from ..models.load import EMBEDDED_FOLDER
from ..store import Artifact, Chained, Store
from . import calibrate, evaluate, generate, precalc_time, sample, sensitivity
from .requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    PrecalcTimeRequest,
    SampleRequest,
    SensitivityRequest,
)

Stage = Callable[[Any, Store, Events], Artifact]
_STAGES: dict[str, Stage] = {
    "sample": sample.run,
    "precalc-time": precalc_time.run,
    "sensitivity": sensitivity.run,
    "calibrate": calibrate.run,
    "generate": generate.run,
    "evaluate": evaluate.run,
}


class Chain(BaseModel):
    """A configuration file: a section per stage, with the fields of its request. A stage without a
    section runs with its defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-")
    )
    sample: SampleRequest
    precalc_time: PrecalcTimeRequest = PrecalcTimeRequest()
    sensitivity: SensitivityRequest = SensitivityRequest()
    calibrate: CalibrateRequest = CalibrateRequest()
    generate: GenerateRequest = GenerateRequest()
    evaluate: EvaluateRequest = EvaluateRequest()


def read_chain(path: Path) -> Chain:
    """A chain from a YAML file; raises UsageProblem naming file and field."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageProblem(f"--config {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageProblem(f"--config {path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(document, Mapping):
        raise UsageProblem(f"--config {path}: expected one section per stage: {', '.join(_STAGES)}")
    sections = {name: _with_underscores(section) for name, section in document.items()}
    try:
        return Chain.model_validate(sections)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UsageProblem(
            f"--config {path}: {field}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _with_underscores(section: Any) -> Any:
    """Fields may be spelled as flags are, with hyphens; an empty section is one of defaults."""
    if section is None:
        return {}
    return (
        {str(k).replace("-", "_"): v for k, v in section.items()} if isinstance(section, Mapping) else section
    )


def run(chain: Chain, store: Store, events: Events = SILENT) -> Artifact:
    """Run all stages, each skipping what is up to date; returns the metrics."""
    store, artifact = Chained(store.url, events), None
    for name, stage in _STAGES.items():
        events.note(f"== {name}")
        artifact = stage(getattr(chain, name.replace("-", "_")), store, events)
    assert artifact is not None
    return artifact


def demo_chain() -> Chain:
    """Small settings that show the whole chain on the embedded model in a few minutes."""
    return Chain(
        sample=SampleRequest(prompts=EMBEDDED_FOLDER / "calibration.txt", limit=48),
        sensitivity=SensitivityRequest(limit=16),
        calibrate=CalibrateRequest(bits="w4a8", mixed=True, iterations=80, batch_size=8),
        generate=GenerateRequest(limit=16),
    )


def side_by_side(metrics: Artifact, store: Store, path: Path, count: int = 8) -> None:
    """A PNG of pairs: the floating-point model's pictures above the quantized model's."""
    from PIL import Image

    rows = [
        store.follow(metrics.manifest.inputs[role]).read("image", 0, count)
        for role in ("reference", "images")
    ]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    enlarged = picture.repeat(2, axis=0).repeat(2, axis=1) if picture.shape[0] <= 256 else picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(enlarged).save(path)
