"""The parts of `calibrate` that go unit by unit and step by step; each is kept in scratch once it is done."""

from dataclasses import replace
from typing import Any

from ..events import Events
from ..manifests import QuantStateSpec, Setting, UnitFacts
from ..models.blocks import Block, blocks_of
from ..models.conditioning import predict
from ..models.load import Model
from ..store import Draft
from . import checkpoints
from .activation_cache import TensorPool
from .block_optimizer import phases_of
from .items import Items
from .observer import all_batches
from .progressive import Progression, StepResult
from .reconstruction import AT_ONCE, Reconstruction
from .tabulated import TabulatedDenoiser


def reconstruct(
    tabulated: TabulatedDenoiser,
    teacher: Any,
    items: Items,
    spec: QuantStateSpec,
    draft: Draft,
    cache: int,
    events: Events,
) -> tuple[tuple[UnitFacts, ...], float]:
    """Reconstruct the student unit by unit, in place; returns the last phase's facts and the cost.

    Of what is captured, `cache` bytes lie in main memory and the rest on disk.
    """
    assert spec.reconstruct is not None
    device = next(tabulated.network.parameters()).device
    work = Reconstruction(
        tabulated.network,
        teacher,
        items,
        lambda batch: tabulated.set(batch.timestep, batch.conditioning),
        spec.reconstruct,
        spec.batch_size,
        spec.seed,
        TensorPool(cache, draft.scratch),
    )
    first = next(all_batches(items, 1, device))
    units = blocks_of(teacher, lambda: predict(teacher, first.x, first.timestep, first.conditioning))
    total = sum(unit.macs for unit in units)
    units = _that_run_alone(work, units, events)
    facts: list[UnitFacts] = []
    phases = phases_of(spec.reconstruct, spec.iterations)
    with events.task("reconstructing", len(phases) * len(units), "unit") as task:
        for place, (phase, unit) in enumerate((phase, unit) for phase in phases for unit in units):
            path = draft.scratch / f"unit-{place:05d}.pt"
            done = checkpoints.read(path, events) if path.exists() else None
            if done is not None:
                work.load(done["saved"])
                work.forwards, found = done["forwards"], UnitFacts(**done["facts"])
            else:
                found = work.fit(unit, phase, place, total)
                state = {"saved": work.saved(unit), "forwards": work.forwards, "facts": found.model_dump()}
                checkpoints.write(path, state)
                draft.meter.save()
            facts.append(found)
            task.advance()
    return tuple(facts[-len(units) :]), work.forwards


def _that_run_alone(work: Reconstruction, units: list[Block], events: Events) -> list[Block]:
    """The same units, but for blocks that cannot be run by themselves: those in their layers."""
    around = {place: work.answers_alone(place.name) for unit in units for place in unit.enclosing}
    whole: list[Block] = []
    for unit in units:
        unit = replace(unit, enclosing=tuple(place for place in unit.enclosing if around[place]))
        if len(unit.layers) == 1 or work.answers_alone(unit.name):
            whole.append(unit)
        else:
            events.warn(f"{unit.name} cannot be reconstructed as a block: its layers are, one by one")
            whole += unit.single_layers()
    return whole


def progress(
    tabulated: TabulatedDenoiser,
    model: Model,
    items: Items,
    spec: QuantStateSpec,
    setting: Setting,
    draft: Draft,
    events: Events,
) -> float:
    """Find the student's activation tables step by step, in place; returns the cost."""
    work = Progression(
        tabulated.network,
        model.sampler(setting),
        items.texts,
        tuple(items.x.shape[1:]),
        setting.guidance_scale,
        spec.ranges,
        spec.seed,
        AT_ONCE,
    )
    with events.task("progressing", work.calls, "step") as task:
        for call in range(work.calls):
            path = draft.scratch / f"call-{call:05d}.pt"
            done = checkpoints.read(path, events) if path.exists() else None
            if done is not None:
                work.repeat(StepResult(**done))
            else:
                passed = work.advance()
                checkpoints.write(path, {"guided": passed.guided, "found": passed.found})
                draft.meter.save()
            task.advance()
    return float(items.halves) * (len(items.texts) - 1) * (work.calls + len(items.timesteps))
