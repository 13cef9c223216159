"""`calibrate --correction`: the output's correction, from calibration latents to the network that uses it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..events import Events
from ..manifests import QuantStateSpec
from ..models.conditioning import predict
from ..models.load import Model
from ..quant.correction import Correction, ErrorMoments, correct_outputs
from ..quant.rows import Rows
from ..store import ArraySpec, Artifact
from .items import Items
from .observer import all_batches
from .teacher import Teacher

AT_ONCE = 16  # latents
_DIMS = {"slope": ("row",), "bias": ("row", "channel"), "std": ("row",)}


def layout(spec: QuantStateSpec, model: Model, rows: int) -> dict[str, ArraySpec]:
    """Arrays of a state's correction; none without."""
    sizes = {"row": rows, "channel": int(model.config["in_channels"])}  # a prediction is shaped as its latent
    shapes = {name: tuple(sizes[dim] for dim in dims) for name, dims in _DIMS.items()}
    arrays = {f"correction_{name}": ArraySpec(shapes[name], "float32", dims) for name, dims in _DIMS.items()}
    return arrays if spec.correction else {}


@torch.no_grad()
def estimate(student: Any, teacher: Teacher, items: Items, events: Events) -> dict[str, np.ndarray]:
    """The correction's arrays, from both networks' outputs on all calibration latents."""
    device = next(student.parameters()).device
    pairs = ErrorMoments(len(items.timesteps), items.x.shape[1])
    with events.task("comparing outputs", -(-len(items) // AT_ONCE), "batch") as task:
        for batch in all_batches(items, AT_ONCE, device):
            given = predict(student, batch.x, batch.timestep, batch.conditioning)
            pairs.add(given, teacher.answer(batch).prediction, batch.row)
            task.advance()
    found = pairs.correction()
    return {f"correction_{name}": getattr(found, name).numpy() for name in _DIMS}


def mean_slope(arrays: Mapping[str, np.ndarray]) -> float | None:
    """Over rows, of a state's arrays; None without a correction."""
    return float(arrays["correction_slope"].mean()) if "correction_slope" in arrays else None


def install(network: nn.Module, state: Artifact, rows: Rows) -> None:
    """Correct the outputs of a state's network, in place, if the state has a correction."""
    if state.spec.correction:
        read = {name: torch.from_numpy(state.read(f"correction_{name}")) for name in _DIMS}
        correct_outputs(network, Correction(**read), rows)
