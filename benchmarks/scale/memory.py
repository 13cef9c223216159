"""Peak memory of reading calibration latents, by how many there are: shuffled batches, then all in order.

    python -m benchmarks.scale.memory --counts 1000,10000,100000

The latents are made up (4x64x64, fp16, 32 KB each). Each count is read in a process of its own.
"""

import argparse
import json
import multiprocessing
import tempfile

import numpy as np
import torch

from sdquant_cli.artifacts.rows import rows_of
from sdquant_cli.calibration.items import shuffled
from sdquant_cli.manifests import LatentsFacts, LatentsSpec, ModelRef, Setting
from sdquant_cli.meter import memory
from sdquant_cli.store import ArraySpec, Draft, Store
from sdquant_cli.types import Kind

SHAPE, UNIT, CHUNK = (4, 64, 64), 256, 16
DIMS = ("sample", "channel", "height", "width")


def make(url: str, count: int) -> None:
    """Publish so many latents."""
    model = ModelRef(source="none", digest="0")
    setting = Setting(
        model=model, scheduler="pndm", steps=50, guidance_scale=7.5, height=512, width=512, dtype="fp32"
    )
    spec = LatentsSpec(setting=setting, per_prompt=1, seed=0, micro_batch=8)
    store = Store(url)
    draft = store.begin(
        spec, {}, {"x": ArraySpec((count, *SHAPE), "float16", DIMS, UNIT, CHUNK)}, -(-count // UNIT)
    )
    assert isinstance(draft, Draft)
    block = np.random.default_rng(0).normal(size=(UNIT, *SHAPE)).astype("f2")
    for unit in range(draft.units):
        start, stop = draft.rows(unit, "x")
        draft.write(unit, {"x": block[: stop - start]})
    facts = LatentsFacts(latents=count, unet_calls=0, unet_calls_minimum=0)
    store.tag(draft.publish(facts, store.provenance(1)))


def read(url: str, batches: int) -> float:
    """Read latents as calibration does; return the peak of this process in MB."""
    x = rows_of(Store(url).need(Kind.LATENTS), "x")
    for iteration in range(batches):
        float(x[shuffled(len(x), 16, iteration, 0)].float().sum())
    for start in range(0, min(len(x), 20_000), 16):
        float(x[torch.arange(start, min(start + 16, len(x)))].float().sum())
    return (memory("VmHWM") or 0) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", default="1000,10000,100000")
    parser.add_argument("--batches", type=int, default=100)
    words = parser.parse_args()
    figures = {}
    for count in map(int, words.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            for function, arguments in ((make, (folder, count)), (read, (folder, words.batches))):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    figures[count] = pool.apply(function, arguments)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
