"""The phase that finds activation tables timestep by timestep."""

import torch

from ...manifests import QuantStateSpec
from ...types import Ranges, Tables
from ..checkpoints import State, resumable
from ..job import Job
from ..progressive import Progression, StepResult


class ProgressiveTables:
    """Find each row's activation quantizers on the latents that the quantized steps before it give.

    The result of every call is kept in scratch.
    """

    uses_teacher = False

    def applies(self, spec: QuantStateSpec) -> bool:
        """Return whether the spec has progressive tables."""
        return spec.tables is Tables.PROGRESSIVE

    def run(self, job: Job) -> float:
        """Replace the student's activation tables in place."""
        inputs, items = job.inputs, job.inputs.items
        work = Progression(
            job.student.network,
            inputs.model.sampler(inputs.setting),
            items.texts,
            items.latent_shape,
            inputs.setting.guidance_scale,
            job.spec.ranges or Ranges.MIN_MAX,
            job.spec.seed,
            context=items.context(torch.arange(len(items.texts) - 1)),
        )

        def run(_: int) -> State:
            result = work.advance()
            return {"guided": result.guided, "found": result.quantizers}

        def replay(state: State) -> None:
            work.repeat(StepResult(state["guided"], state["found"]))

        names = [f"call-{call:05d}.pt" for call in range(work.calls)]
        with job.events.task("progressing", work.calls, "step") as task:
            for _ in resumable(job.scratch, names, run, replay):
                task.advance()
        return float(items.halves) * (len(items.texts) - 1) * (work.calls + len(items.timesteps))
