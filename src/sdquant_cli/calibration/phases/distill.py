"""The phase that trains a network as a whole."""

from functools import partial

from ...manifests import QuantStateSpec
from ..checkpoints import run_from_last
from ..distillation import Training
from ..job import Job
from ..prefetch import prefetched
from ..shares import follow_the_first
from ..sources import BatchContext


class DistillNetwork:
    """Train weights and scales of all layers together towards the teacher's answers."""

    uses_teacher = True

    def applies(self, spec: QuantStateSpec) -> bool:
        """Return whether the spec trains the network as a whole."""
        return spec.train is not None

    def run(self, job: Job) -> float:
        """Train the student in place, from its last checkpoint if there is one."""
        inputs, spec, student = job.inputs, job.spec, job.student.network
        assert spec.train is not None
        assert inputs.recipe.source is not None
        follow_the_first([*student.parameters(), *student.buffers()])
        if inputs.checkpointing:
            student.enable_gradient_checkpointing()  # type: ignore[operator]
        targets = inputs.targets
        source = prefetched(inputs.recipe.source(_context(job)))
        teacher = job.teacher.watching(targets.watched)
        training = Training(student, teacher, source, targets, spec.train, spec.iterations, spec.seed)
        run_from_last(training, job.scratch)
        job.results.losses = training.losses
        passes = 3 if job.teacher.is_cached else 4  # forward, backward as two, and the teacher's
        return float(inputs.items.halves) * spec.batch_size * spec.iterations * passes


def _context(job: Job) -> BatchContext:
    inputs, spec = job.inputs, job.spec
    return BatchContext(
        inputs.items,
        spec.batch_size,
        spec.seed,
        inputs.device,
        job.teacher.network,
        partial(inputs.model.sampler, inputs.setting),
        inputs.setting.guidance_scale,
        inputs.pictures,
    )
