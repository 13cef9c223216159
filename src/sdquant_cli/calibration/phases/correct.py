"""The last phase: correction of the quantized network's output."""

from ...manifests import QuantStateSpec
from ..job import Job
from ..output_correction import arrays_of, estimate


class CorrectOutput:
    """Estimate the error of the student's output at each timestep, to be subtracted when it is used."""

    uses_teacher = True

    def applies(self, spec: QuantStateSpec) -> bool:
        """Return whether the spec has a correction."""
        return bool(spec.correction)

    def run(self, job: Job) -> float:
        """Add the correction to the results."""
        items = job.inputs.items
        correction = estimate(job.student.network, job.teacher.watching(), items, job.events)
        job.results.arrays |= arrays_of(correction)
        return 2.0 * items.count
