"""Phases of a calibration, in their order; each applies to some specs."""

import gc

from ...quant.finite import check_state
from ...quant.state import capture, state_to_arrays
from ..checkpoints import Scratch
from ..job import CalibrationInputs, Job, Results, start
from .correct import CorrectOutput
from .distill import DistillNetwork
from .observe import Observe
from .phase import Phase
from .progress import ProgressiveTables
from .reconstruct import ReconstructBlocks

PHASES: tuple[Phase, ...] = (
    Observe(),
    ReconstructBlocks(),
    DistillNetwork(),
    ProgressiveTables(),
    CorrectOutput(),
)


def calibrate(inputs: CalibrationInputs, scratch: Scratch) -> Results:
    """Run all phases that apply; raises SdquantError if the state is not finite. No network outlives it."""
    results = _run_phases(start(inputs, scratch))
    gc.collect()  # networks and their hooks refer to each other
    return results


def _run_phases(job: Job) -> Results:
    """Run the phases of a job, and free the teacher's network as soon as no later one asks for it."""
    results = job.results
    phases = [phase for phase in PHASES if phase.applies(job.spec)]
    for index, phase in enumerate(phases):
        results.forwards += phase.run(job)
        needs_network = any(later.uses_teacher for later in phases[index + 1 :])
        if job.teacher.is_cached or not needs_network:
            job.release_teacher()
    state = capture(job.student.network, job.inputs.bits)
    check_state(state)
    results.table_rows = {name: max(1, len(layer.activation_step)) for name, layer in state.items()}
    results.arrays = state_to_arrays(state) | results.arrays
    return results
