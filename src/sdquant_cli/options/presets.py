"""The paper's settings by name: what a stage runs with where the user says nothing.

Efficiency Meets Fidelity, sections 5.1 and 8: one latent of each prompt (the default), PNDM with 50 steps
at 512x512 for SD v1-4 and v2-1, Euler with 50 steps at 768x768 for SDXL, guidance scale 7.5, 10,000
iterations of 12 latents (SDXL: 4).
"""

from typing import Any

from ..types import Activations, Preset, Relax, Scheduler

_SD = {"scheduler": Scheduler.PNDM, "steps": 50, "guidance_scale": 7.5, "height": 512, "width": 512}
_SDXL = {"scheduler": Scheduler.EULER, "steps": 50, "guidance_scale": 7.5, "height": 768, "width": 768}
_CALIBRATE = {
    "mixed": True,
    "activations": Activations.PER_STEP,
    "relax": Relax.NONE,
    "full_range": False,
    "block_weight": 0.0,
    "iterations": 10_000,
}

PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    Preset.SD14: {
        "sample": {**_SD, "limit": 40_000, "model": "CompVis/stable-diffusion-v1-4"},
        "calibrate": {**_CALIBRATE, "batch_size": 12},
    },
    Preset.SD21: {
        "sample": {**_SD, "limit": 40_000, "model": "stabilityai/stable-diffusion-2-1"},
        "calibrate": {**_CALIBRATE, "batch_size": 12},
    },
    Preset.SDXL: {
        "sample": {**_SDXL, "limit": 10_000, "model": "stabilityai/stable-diffusion-xl-base-1.0"},
        "calibrate": {**_CALIBRATE, "batch_size": 4},
    },
}
