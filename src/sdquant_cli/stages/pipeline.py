"""All six stages in order, from a configuration file or for the demo."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..artifacts.metrics import Metrics
from ..artifacts.workspace import Plan, Workspace
from ..models.load import EMBEDDED_FOLDER
from ..options.config_file import PipelineConfig
from ..options.requests import CalibrateRequest, GenerateRequest, SampleRequest, SensitivityRequest
from ..paths import atomic_write
from ..prompts import read_prompts
from ..store import Artifact, PlannedStore, Store
from . import calibrate, evaluate, generate, precalc_time, sample, sensitivity


class Stage(Protocol):
    """The module of a stage."""

    def run(self, request: Any, workspace: Workspace) -> Artifact:
        """Make the artifact of a request."""

    def plan(self, request: Any, workspace: Workspace) -> Plan:
        """Return what `run` would do."""


_STAGES: dict[str, Stage] = {
    "sample": sample,
    "precalc-time": precalc_time,
    "sensitivity": sensitivity,
    "calibrate": calibrate,
    "generate": generate,
    "evaluate": evaluate,
}


def check_files(configs: Sequence[PipelineConfig], workspace: Workspace) -> None:
    """Raise what a file that is missing or cannot be written would end the last chain with."""
    files = set()
    for config in configs:
        generate.check_files(config.generate, workspace)
        evaluate.check_files(config.evaluate, workspace)
        for request in (config.sample, config.generate):
            files.add((request.prompts, request.column))
    for path, column in files:
        if path is not None:
            read_prompts(path, column=column)


def run(config: PipelineConfig, workspace: Workspace) -> Metrics:
    """Run all stages, each skipping what is up to date; return the metrics."""
    check_files([config], workspace)
    workspace = workspace.pinned()
    for name, stage in _STAGES.items():
        workspace.events.note(f"== {name}")
        stage.run(getattr(config, name.replace("-", "_")), workspace)
    return workspace.need(Metrics)


def plan(configs: Sequence[PipelineConfig], workspace: Workspace) -> Iterator[list[Plan]]:
    """Yield what `run` would do for each chain, without what a chain before it would have made.

    Later stages are planned on what earlier ones would make, so nothing needs to be there.
    """
    store = PlannedStore(workspace.store.url)
    workspace = replace(workspace, store=store).silent()
    check_files(configs, workspace)
    for config in configs:
        plans = []
        for name, stage in _STAGES.items():
            step = stage.plan(getattr(config, name.replace("-", "_")), workspace)
            artifact = step.makes
            if artifact is None or store.plan(artifact.spec, artifact.facts, artifact.inputs, artifact.tags):
                plans.append(step)
        yield plans


def demo_config() -> PipelineConfig:
    """Return small settings that show the whole chain on the embedded model in a few minutes."""
    return PipelineConfig(
        sample=SampleRequest(prompts=EMBEDDED_FOLDER / "calibration.txt", limit=48),
        sensitivity=SensitivityRequest(limit=16),
        calibrate=CalibrateRequest(bits="w4a8", mixed=True, iterations=80, batch_size=8),
        generate=GenerateRequest(limit=16),
    )


def side_by_side(metrics: Artifact, store: Store, path: Path, count: int = 8) -> None:
    """Write a PNG of pairs: the floating-point model's pictures above the quantized model's."""
    from PIL import Image

    rows = []
    for role in ("reference", "images"):
        images = store.follow(metrics.manifest.inputs[role]).read("image", 0, count)
        rows.append(np.concatenate(list(images), axis=1))
    picture = np.concatenate(rows, axis=0)
    enlarged = picture.repeat(2, axis=0).repeat(2, axis=1) if picture.shape[0] <= 256 else picture
    file = io.BytesIO()
    Image.fromarray(enlarged).save(file, format="PNG")
    atomic_write(path, file.getvalue())
