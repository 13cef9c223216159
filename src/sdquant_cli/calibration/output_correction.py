"""Correction of the quantized network's output (`calibrate --correction`), from calibration latents."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..events import Events
from ..quant.correction import Correction, ErrorMoments
from .items import Items, prediction
from .observer import BATCH
from .teacher import Teacher


@torch.no_grad()
def estimate(student: nn.Module, teacher: Teacher, items: Items, events: Events) -> Correction:
    """Return the correction that follows from both networks' outputs on all calibration latents."""
    device = next(student.parameters()).device
    moments = ErrorMoments(len(items.timesteps), items.latent_shape[0])
    with events.task("comparing outputs", -(-len(items) // BATCH), "batch") as task:
        for batch in items.batches(BATCH, device):
            quantized = prediction(student, batch)
            moments.add(quantized, teacher.answer(batch).prediction, batch.row)
            task.advance()
    return moments.correction()


def arrays_of(correction: Correction) -> dict[str, np.ndarray]:
    """Return the arrays of a correction as they are stored beside a quantizer state."""
    return {
        "correction_slope": correction.slope.numpy(),
        "correction_bias": correction.bias.numpy(),
        "correction_std": correction.std.numpy(),
    }


def correction_of(arrays: Mapping[str, np.ndarray]) -> Correction:
    """Return the correction that `arrays_of` stored."""
    names = ("correction_slope", "correction_bias", "correction_std")
    slope, bias, std = (torch.from_numpy(arrays[name]) for name in names)
    return Correction(slope=slope, bias=bias, std=std)


def mean_slope(arrays: Mapping[str, np.ndarray]) -> float | None:
    """Return the slope of a state's correction, mean over rows; None if the state has no correction."""
    return float(arrays["correction_slope"].mean()) if "correction_slope" in arrays else None
