"""Stand-ins for what takes long to make."""

from pathlib import Path

import numpy as np

from sdquant_cli.artifacts.images import IMAGES_PER_UNIT, Images, layout
from sdquant_cli.artifacts.prompts import store_prompts
from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.artifacts.workspace import Blueprint, Workspace
from sdquant_cli.manifests import ImagesFacts, ImagesSpec, ModelRef, Setting, TextEmbedsFacts, TextEmbedsSpec
from sdquant_cli.models.load import find_model
from sdquant_cli.prompts import PromptFile
from sdquant_cli.store import ArraySpec, Artifact, Store

MODEL = ModelRef(source="shapes", digest="0" * 64)


def setting(scheduler: str = "pndm", steps: int = 50, **fields) -> Setting:
    """How the embedded model draws."""
    given = {"guidance_scale": 3.0, "height": 128, "width": 128, "dtype": "fp32", "model": MODEL, **fields}
    return Setting(scheduler=scheduler, steps=steps, **given)


def sampler(scheduler: str = "pndm", steps: int = 50):
    """A fresh sampler of the embedded model."""
    return find_model("shapes").sampler(setting(scheduler, steps))


def pictures(count: int, seed: int = 0, side: int = 64) -> np.ndarray:
    """Smooth random pictures (N,side,side,3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    smooth = coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2).astype(np.float32)
    for axis in (1, 2):
        for shift in (1, 2, 4):
            smooth = (smooth + np.roll(smooth, shift, axis)) / 2
    return smooth.round().astype(np.uint8)


def noisy(images: np.ndarray, deviation: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def publish_pictures(
    store: Store,
    images: np.ndarray,
    engine: str = "simulated",
    seed: int = 0,
    text: str = "prompt",
    **setting,
) -> Artifact:
    """An images artifact as `generate` would have made it."""
    n, height, width, _ = images.shape
    workspace = Workspace(store)
    file = PromptFile(Path("fake.txt"), tuple(f"{text} {i}" for i in range(n)), 0, 0)
    prompts = store_prompts(workspace, file)

    def embed(draft):
        draft.write(0, {"embedding": np.zeros((1, 1, 1)), "index": np.zeros(n)})
        return TextEmbedsFacts(unique=1, truncated=0)

    def draw(draft):
        for unit in draft.missing():
            start, stop = draft.rows(unit, "image")
            draft.write(unit, {"image": images[start:stop]})
        return ImagesFacts(images=n)

    arrays = {
        "embedding": ArraySpec((1, 1, 1), "float16", ("prompt", "token", "channel")),
        "index": ArraySpec((n,), "int64", ("sample",)),
    }
    blueprint = Blueprint(TextEmbedsSpec(model=MODEL), {"prompts": prompts}, arrays)
    embeds = workspace.produce(TextEmbeds, blueprint, embed)
    fields = {"scheduler": "pndm", "steps": 5, "guidance_scale": 3.0, "dtype": "fp32", "model": MODEL}
    spec = ImagesSpec(
        setting=Setting(**{**fields, "height": height, "width": width, **setting}),
        engine=engine,
        seed=seed,
        micro_batch=8,
    )
    inputs = {"prompts": prompts, "text-embeds": embeds}
    blueprint = Blueprint(spec, inputs, layout(n, spec.setting), -(-n // IMAGES_PER_UNIT))
    tag = "latest-fp" if engine == "fp" else "latest-quantized"
    return workspace.produce(Images, blueprint, draw, (tag,))
