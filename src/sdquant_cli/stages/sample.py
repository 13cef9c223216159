"""`sample`: latents of the floating-point model at some steps of its own trajectories (Algorithm 1)."""

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ..artifacts.latents import Latents, columns, layout
from ..artifacts.prompts import planned_prompts, store_prompts
from ..artifacts.settings import new_setting
from ..artifacts.text_embeds import TextEmbeds, store_embeddings
from ..artifacts.workspace import Blueprint, Plan, Planned, Workspace
from ..calibration.selection import pilot
from ..calibration.selection.rules import RULES, at_random, at_stride, normally
from ..calibration.selection.trajectories import Trajectories
from ..errors import UsageProblem
from ..events import Events, Task
from ..manifests import LatentsFacts, LatentsSpec, SelectSpec
from ..models.families import denoiser_of
from ..models.guidance import halves
from ..models.load import Model
from ..models.schedule import Schedule, schedule_of
from ..options.requests import SampleRequest
from ..prompts import PromptFile, read_prompts
from ..quant.finite import check_finite
from ..resources import predicted
from ..resources.fitting import micro_batch
from ..store import ArraySpec, Artifact, Draft, Facts
from ..types import Dtype, Select

LATENTS_PER_UNIT = 256
NOT_FINITE = "the model computes NaN, or a number beyond fp16; try another --dtype or --guidance-scale"


@dataclass(frozen=True)
class _Work:
    """A resolved request."""

    model: Model
    spec: LatentsSpec
    file: PromptFile
    schedule: Schedule
    chosen: tuple[tuple[int, ...], ...]  # UNet calls whose input is kept, by prompt; before a pilot: a guess
    unit: int  # prompts per unit

    def batches(self, unit: int) -> list[list[int]]:
        """Return the prompts of one unit in UNet batches; those that stop at about the same call together."""
        prompts = range(unit * self.unit, min((unit + 1) * self.unit, len(self.chosen)))
        ordered = sorted(prompts, key=lambda i: (self.chosen[i][-1], i))
        size = self.spec.micro_batch
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def calls_of_unit(self, unit: int) -> int:
        """Return the items through the UNet for one unit."""
        return sum(map(self.calls, self.batches(unit)))

    @property
    def pilot(self) -> bool:
        """Whether a pilot run chooses the calls."""
        return self.spec.select is not None and self.spec.select.rule is Select.DENSITY

    @property
    def pilot_calls(self) -> int:
        """Items through the UNet in the pilot run."""
        scale = self.spec.setting.guidance_scale
        return pilot.calls(len(self.chosen), self.schedule, scale) if self.pilot else 0

    @property
    def units(self) -> int:
        """Units of work."""
        return -(-len(self.chosen) // self.unit)

    @property
    def each(self) -> int:
        """Items of the UNet for one prompt."""
        return halves(self.spec.setting.guidance_scale)

    def calls(self, batch: list[int]) -> int:
        """Return the items through the UNet for one batch: it stops before its last selected call runs."""
        return self.each * len(batch) * max(self.chosen[i][-1] for i in batch)

    @property
    def minimum_calls(self) -> int:
        """Items through the UNet if each trajectory stopped at its own last selected call."""
        return sum(self.each * chosen[-1] for chosen in self.chosen)

    @property
    def planned_calls(self) -> int:
        """Items through the UNet as batches run."""
        return sum(map(self.calls_of_unit, range(self.units)))


def _prepare(request: SampleRequest, workspace: Workspace) -> _Work:
    file = read_prompts(request.prompts, request.limit, column=request.column, shuffle=request.shuffle)
    model, setting = new_setting(request, workspace)
    if not 1 <= request.per_prompt <= setting.steps:
        raise UsageProblem(
            f"--per-prompt {request.per_prompt}: expected 1..{setting.steps}, the number of steps"
        )
    schedule = schedule_of(model.sampler(setting))
    needed = partial(predicted.bytes_of_a_call, model, setting)
    spec = LatentsSpec(
        setting=setting,
        per_prompt=request.per_prompt,
        seed=request.seed,
        micro_batch=micro_batch(request.micro_batch, workspace.device, needed, workspace.events),
        select=_select(request, model),
    )
    chosen = tuple(_chosen(spec, len(schedule.calls), i) for i in range(len(file.prompts)))
    return _Work(model, spec, file, schedule, chosen, max(1, LATENTS_PER_UNIT // request.per_prompt))


def _select(request: SampleRequest, model: Model) -> SelectSpec | None:
    """Return the rule of a request, None for the default; raises UsageProblem for a flag of another rule."""
    rule, values = request.select, dict(RULES[request.select])
    for other, names in RULES.items():
        for name in names:
            value = getattr(request, f"select_{name}")
            if value is None:
                continue
            if other is not rule:
                raise UsageProblem(f"--select-{name} {value}: requires --select {other}")
            values[name] = value
    if rule is Select.DENSITY:
        _check_density(request, model)
    return None if rule is Select.RANDOM else SelectSpec(rule=rule, **values)


def _check_density(request: SampleRequest, model: Model) -> None:
    if request.per_prompt != 1:
        raise UsageProblem(
            f"--per-prompt {request.per_prompt}: --select density takes one latent of each prompt; "
            f"leave the flag out"
        )
    try:
        model.skeleton.get_submodule(denoiser_of(model.skeleton).middle(model.skeleton))
    except AttributeError:
        raise UsageProblem(
            f"--select density: {model.source} has no attention in its middle block; "
            f"choose another --select rule"
        ) from None


def _chosen(spec: LatentsSpec, calls: int, index: int) -> tuple[int, ...]:
    """Return the UNet calls of one prompt whose inputs are kept; before a pilot, evenly spread ones."""
    select, count = spec.select, spec.per_prompt
    if select is None:
        return at_random(calls, count, spec.seed, index)
    if select.rule is not Select.NORMAL:
        return at_stride(calls, count, index)
    assert select.mean is not None
    assert select.deviation is not None
    return normally(calls, count, spec.seed, index, select.mean, select.deviation)


def plan(request: SampleRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do; the calls after a pilot are those of evenly spread steps."""
    work = _prepare(request, workspace.on(request.device))
    calls, least = work.planned_calls + work.pilot_calls, work.minimum_calls + work.pilot_calls
    numbers: dict[str, int | float | str] = {
        "prompts": len(work.chosen),
        "latents": len(work.chosen) * work.spec.per_prompt,
    }
    if work.pilot:
        numbers["UNet calls of the pilot"] = work.pilot_calls
    roughly = ", roughly" if work.pilot else ""
    numbers |= {f"UNet calls{roughly}": calls, f"UNet calls at least{roughly}": least}
    numbers |= predicted.drawing(work.model, work.spec.setting, work.spec.micro_batch, calls)
    numbers["disk, bytes"] = predicted.disk(_layout(work))
    facts = LatentsFacts(
        latents=len(work.chosen) * work.spec.per_prompt, unet_calls=calls, unet_calls_minimum=least
    )
    return Plan("sample", numbers, Planned(work.spec, facts, {"prompts": planned_prompts(work.file)}))


def run(request: SampleRequest, workspace: Workspace) -> Latents:
    """Return the latents of a request, sampled where they are absent."""
    workspace = workspace.on(request.device)
    work = _prepare(request, workspace)
    prompts = store_prompts(workspace, work.file)
    embeds = store_embeddings(workspace, work.model, prompts)
    inputs: dict[str, Artifact] = {"prompts": prompts, "text-embeds": embeds}
    blueprint = Blueprint(work.spec, inputs, _layout(work), work.units)
    return workspace.produce(Latents, blueprint, partial(_sample, workspace, work, embeds))


def _sample(workspace: Workspace, work: _Work, embeds: TextEmbeds, draft: Draft) -> Facts:
    paths = _trajectories(workspace, work, embeds)
    if work.pilot:
        assert work.spec.select is not None
        chosen = pilot.choose(paths, len(work.chosen), work.spec.select, draft.scratch, workspace.events)
        work = replace(work, chosen=chosen)
    _sample_units(work, draft, paths, workspace.events)
    return partial(_facts, work, draft)


def _facts(work: _Work, draft: Draft) -> LatentsFacts:
    calls = sum(receipt.counts["unet_calls"] for receipt in draft.receipts().values())
    return LatentsFacts(
        latents=len(work.chosen) * work.spec.per_prompt,
        unet_calls=calls + work.pilot_calls,
        unet_calls_minimum=work.minimum_calls + work.pilot_calls,
    )


def _trajectories(workspace: Workspace, work: _Work, embeds: TextEmbeds) -> Trajectories:
    setting, device = work.spec.setting, workspace.device
    network = work.model.denoiser(Dtype(setting.dtype), str(device))
    texts, index = embeds.texts(work.model, setting), embeds.index()
    return Trajectories(work.model, setting, work.spec.seed, network, texts, index, device)


def _layout(work: _Work) -> dict[str, ArraySpec]:
    setting = work.spec.setting
    shape = work.model.input_shape(setting.height, setting.width)
    return layout(len(work.chosen), work.spec.per_prompt, work.unit, shape)


def _sample_units(work: _Work, draft: Draft, paths: Trajectories, events: Events) -> None:
    missing = draft.missing()
    sizes = dict(zip(missing, map(work.calls_of_unit, missing), strict=True))
    with events.task("sampling", sum(sizes.values()), "UNet call") as task:
        for unit in draft.turns(sizes, task):
            kept: dict[tuple[int, int], Tensor] = {}
            for batch in work.batches(unit):
                kept |= _sample_batch(work, paths, batch, task)
            for (i, call), latent in sorted(kept.items()):
                check_finite(latent[None], [f"the latent of prompt {i} at call {call}"], NOT_FINITE)
            draft.write(unit, columns(kept, work.schedule), {"unet_calls": work.calls_of_unit(unit)})


def _sample_batch(
    work: _Work, paths: Trajectories, batch: list[int], task: Task
) -> dict[tuple[int, int], Tensor]:
    """Run one batch until its last selected call; return the inputs of selected calls by (prompt, call)."""
    last = max(work.chosen[i][-1] for i in batch)
    kept = {}

    def visit(call: int, x: Tensor) -> bool:
        for position, i in enumerate(batch):
            if call in work.chosen[i]:
                kept[i, call] = x[position].half().cpu()
        if call < last:
            task.advance(work.each * len(batch))
        return call < last

    paths.follow(batch, visit)
    return kept
