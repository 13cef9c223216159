"""Latents: inputs of the denoiser at selected steps of floating-point trajectories."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..calibration.items import Items
from ..errors import UsageProblem
from ..manifests import LatentsFacts, LatentsSpec
from ..models.schedule import Schedule, schedule_of
from ..store import ArraySpec, Artifact
from ..types import Kind
from .rows import rows_of
from .text_embeds import TextEmbeds
from .time_table import TimeTable
from .workspace import Workspace

LATENTS_PER_CHUNK = 16


class Latents(Artifact[LatentsSpec, LatentsFacts]):
    """Stored calibration latents."""

    KIND = Kind.LATENTS


def layout(
    prompts: int, per_prompt: int, prompts_per_unit: int, shape: tuple[int, ...]
) -> dict[str, ArraySpec]:
    """Return the arrays of so many latents of a shape (C,h,w)."""
    count, rows = prompts * per_prompt, prompts_per_unit * per_prompt
    chunk = LATENTS_PER_CHUNK if rows % LATENTS_PER_CHUNK == 0 else per_prompt
    index = ArraySpec((count,), "int64", ("sample",), rows, chunk)
    x = ArraySpec((count, *shape), "float16", ("sample", "channel", "height", "width"), rows, chunk)
    return {"x": x, "prompt_index": index, "call": index, "row": index}


def columns(latents: Mapping[tuple[int, int], Tensor], schedule: Schedule) -> dict[str, np.ndarray]:
    """Return the arrays of latents by (prompt, call), in that order."""
    prompts, calls = np.array(sorted(latents)).T
    return {
        "x": torch.stack([latents[key] for key in sorted(latents)]).numpy(),
        "prompt_index": prompts,
        "call": calls,
        "row": np.array(schedule.rows)[calls],
    }


def load_items(workspace: Workspace, latents: Latents, table: TimeTable, count: int | None = None) -> Items:
    """Return the first `count` latents (all by default) as calibration items.

    Raises UsageProblem if a latent was taken at a step that the schedule does not have there.
    """
    setting = latents.spec.setting
    model = workspace.model(setting)
    row = latents.read("row", 0, count)
    _check_schedule(latents, schedule_of(model.sampler(setting)), row, latents.read("call", 0, count))
    embeds = workspace.input(TextEmbeds, latents, "text-embeds")
    return Items(
        x=rows_of(latents, "x", count),
        row=torch.from_numpy(row),
        text=torch.from_numpy(embeds.index()[latents.read("prompt_index", 0, count)]),
        texts=embeds.texts(model, setting),
        timesteps=torch.tensor(table.timesteps(), dtype=torch.float64).float(),
        guidance_scale=setting.guidance_scale,
        context_channels=model.family.context,
    )


def _check_schedule(latents: Latents, schedule: Schedule, row: np.ndarray, call: np.ndarray) -> None:
    setting, expected = latents.spec.setting, np.array(schedule.rows)
    outside = (call < 0) | (call >= len(expected))
    wrong = outside | (expected[np.where(outside, 0, call)] != row)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UsageProblem(
            f"latents/{latents.key}: latent {first} is of call {call[first]}, row {row[first]}, "
            f"which {setting.scheduler} with {setting.steps} steps does not have; run `sdquant sample` again"
        )
