"""Pilot run of `sample --select density`: a few whole trajectories choose the steps of all prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import SdquantError
from ...events import Events
from ...hooks import watching_inputs
from ...manifests import SelectSpec
from ...models.families import denoiser_of
from ...models.guidance import halves
from ...models.schedule import Schedule
from ...sealed import read_json, write_json
from .density import assigned, counts, density, differences, radius_of, variety, weights
from .trajectories import Trajectories

PROMPTS = 8  # as in EDA-DM's script for SD
CHOICE = "steps.json"  # in scratch, so that a resumed run takes the same steps on any machine


def calls(prompts: int, schedule: Schedule, guidance_scale: float) -> int:
    """Return the number of items through the network in the pilot of a file of so many prompts."""
    return halves(guidance_scale) * min(PROMPTS, prompts) * len(schedule.calls)


def choose(
    paths: Trajectories, prompts: int, select: SelectSpec, scratch: Path, events: Events
) -> tuple[tuple[int, ...], ...]:
    """Return the call of each prompt whose input is kept: chosen once, then read from `scratch`."""
    path = scratch / CHOICE
    chosen = read_json(path)
    if chosen is None:
        if path.exists():
            events.warn(f"{path} is damaged; the pilot runs again")
        chosen = {"calls": _chosen(paths, prompts, select, events)}
        write_json(path, chosen)
    return tuple((call,) for call in chosen["calls"])


def _chosen(paths: Trajectories, prompts: int, select: SelectSpec, events: Events) -> tuple[int, ...]:
    assert select.radius is not None
    assert select.variety is not None
    distance, angular = _compared(paths, min(PROMPTS, prompts), events)
    if not bool(distance.isfinite().all()):
        raise SdquantError("--select density: the model's features are not finite; use another --dtype")
    dense = density(distance, radius_of(distance, select.radius))
    weight = weights(dense, variety(angular), select.variety)
    return assigned(counts(weight, prompts), paths.seed)


def _compared(paths: Trajectories, prompts: int, events: Events) -> tuple[Tensor, Tensor]:
    """Return mean squared differences, and sums of 1 - cos, between the features of all calls: (T,T) each.

    The features of all calls of one prompt are in memory at once.
    """
    squared, angular, numbers = torch.tensor(0.0), torch.tensor(0.0), 0
    with events.task("pilot trajectories", prompts, "prompt") as task:
        for prompt in range(prompts):
            with keeping_inputs(paths.network) as features:
                paths.follow([prompt], lambda *_: True)
            more_squared, more_angular = differences(features)
            squared, angular = squared + more_squared, angular + more_angular
            numbers += features[0].numel()
            task.advance()
    return squared / numbers, angular


@contextmanager
def keeping_inputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list to which each call of the network adds its middle block's input (items,P,C) fp32."""
    kept: list[Tensor] = []

    def keep(_: str, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        by_position = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x  # a UNet's are (items,C,h,w)
        kept.append(by_position.float().cpu())

    name = denoiser_of(network).middle(network)
    with watching_inputs({name: network.get_submodule(name)}, keep):
        yield kept
