"""The paper's settings by name: what a stage runs with where the user says nothing.

Efficiency Meets Fidelity, sections 5.1 and 8: one latent of each prompt (the default), PNDM with 50 steps
at 512x512 for SD v1-4 and v2-1, Euler with 50 steps at 768x768 for SDXL, guidance scale 7.5, 10,000
iterations of 12 latents (SDXL: 4), 5,000 images. The paper does not say on how many latents it ranks layers;
256 are chosen here. Gradient checkpointing changes no number: it makes training fit a GPU of 40 GB (SDXL:
80 GB) with the batch in one part and in fp32.
"""

from collections.abc import Collection
from typing import Any

from ..types import Activations, Preset, Relax, Scheduler
from .values import NONE

_SD = {"scheduler": Scheduler.PNDM, "steps": 50, "guidance_scale": 7.5, "height": 512, "width": 512}
_SDXL = {"scheduler": Scheduler.EULER, "steps": 50, "guidance_scale": 7.5, "height": 768, "width": 768}
_CALIBRATE = {
    "mixed": True,
    "edges": NONE,  # its rows without mixed precision have the same bits in all layers
    "activations": Activations.PER_STEP,
    "relax": Relax.NONE,
    "full_range": False,
    "block_weight": 0.0,
    "iterations": 10_000,
    "checkpointing": True,
}
_RANK_AND_DRAW = {"sensitivity": {"limit": 256}, "generate": {"limit": 5_000}}

PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    Preset.SD14: {
        "sample": {**_SD, "limit": 40_000, "model": "CompVis/stable-diffusion-v1-4"},
        "calibrate": {**_CALIBRATE, "batch_size": 12},
        **_RANK_AND_DRAW,
    },
    Preset.SD21: {
        "sample": {**_SD, "limit": 40_000, "model": "stabilityai/stable-diffusion-2-1"},
        "calibrate": {**_CALIBRATE, "batch_size": 12},
        **_RANK_AND_DRAW,
    },
    Preset.SDXL: {
        "sample": {**_SDXL, "limit": 10_000, "model": "stabilityai/stable-diffusion-xl-base-1.0"},
        "calibrate": {**_CALIBRATE, "batch_size": 4},
        **_RANK_AND_DRAW,
    },
}
_REPLACES = {"forwards": "iterations", "ranking": "limit"}  # what an option takes the place of


def preset_values(preset: Preset, command: str, given: Collection[str]) -> dict[str, Any]:
    """Return a preset's values for a command, without the options that are given and what they replace."""
    replaced = {*given, *(_REPLACES[name] for name in given if name in _REPLACES)}
    values = PRESETS[preset].get(command, {})
    return {name: value for name, value in values.items() if name not in replaced}
