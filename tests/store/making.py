"""A small artifact, and how to make it."""

from pathlib import Path

import numpy as np

from sdquant_cli.manifests import LatentsFacts, LatentsSpec, ModelRef, Setting
from sdquant_cli.store import ArraySpec, Artifact, Draft, Store

SETTING = Setting(
    model=ModelRef(source="m", digest="d"),
    scheduler="pndm",
    steps=50,
    guidance_scale=3.0,
    height=64,
    width=64,
    dtype="fp32",
)
SPEC = LatentsSpec(setting=SETTING, per_prompt=1, seed=0, micro_batch=8)
ARRAYS = {
    "x": ArraySpec((10, 2, 3), "float16", ("sample", "channel", "width"), 4, 2),
    "row": ArraySpec((10,), "int64", ("sample",), 4, 2),
}
DATA = {"x": np.random.default_rng(0).normal(size=(10, 2, 3)).astype("f2"), "row": np.arange(10)}
FACTS = LatentsFacts(latents=10, unet_calls=3, unet_calls_minimum=2)
UNITS = 3


def begun(store: Store, spec: LatentsSpec = SPEC) -> Draft:
    draft = store.begin(spec, {}, ARRAYS, UNITS)
    assert isinstance(draft, Draft)
    return draft


def fill(draft: Draft, units=None) -> None:
    for unit in draft.missing() if units is None else units:
        start, stop = draft.rows(unit, "x")
        draft.write(unit, {name: values[start:stop] for name, values in DATA.items()}, {"n": stop - start})


def make(store: Store, spec: LatentsSpec = SPEC) -> Artifact:
    draft = begun(store, spec)
    fill(draft)
    artifact = draft.publish(FACTS, store.provenance(1))
    store.tag(artifact)
    return artifact


def flip(path: Path, at: int | None = None) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)


class Heard:
    """Events that remember warnings and notes."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def note(self, message: str) -> None:
        self.notes.append(message)


def warnings_of(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("warning: ")]


def complaint(result) -> str:
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("sdquant: ")]
    return line
