"""The six stages in order: from a configuration file, or with the demo's small settings."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..events import SILENT, Events
from ..models.load import EMBEDDED_FOLDER
from ..options.config_file import PipelineConfig
from ..options.requests import CalibrateRequest, GenerateRequest, SampleRequest, SensitivityRequest
from ..paths import atomic_write
from ..store import Artifact, PinnedStore, Store
from . import calibrate, evaluate, generate, precalc_time, sample, sensitivity

Stage = Callable[[Any, Store, Events], Artifact]
_STAGES: dict[str, Stage] = {
    "sample": sample.run,
    "precalc-time": precalc_time.run,
    "sensitivity": sensitivity.run,
    "calibrate": calibrate.run,
    "generate": generate.run,
    "evaluate": evaluate.run,
}


def run(config: PipelineConfig, store: Store, events: Events = SILENT) -> Artifact:
    """Run all stages, each skipping what is up to date; returns the metrics."""
    generate.check_files(config.generate, store)
    evaluate.check_files(config.evaluate, store)
    store, artifact = PinnedStore(store.url, events), None
    for name, stage in _STAGES.items():
        events.note(f"== {name}")
        artifact = stage(getattr(config, name.replace("-", "_")), store, events)
    assert artifact is not None
    return artifact


def demo_config() -> PipelineConfig:
    """Small settings that show the whole chain on the embedded model in a few minutes."""
    return PipelineConfig(
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
    file = io.BytesIO()
    Image.fromarray(enlarged).save(file, format="PNG")
    atomic_write(path, file.getvalue())
