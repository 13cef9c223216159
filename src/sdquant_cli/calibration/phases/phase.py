"""The interface of a phase."""

from typing import Protocol

from ...manifests import QuantStateSpec
from ..job import Job


class Phase(Protocol):
    """A part of a calibration."""

    uses_teacher: bool  # whether it compares the student with the floating-point network

    def applies(self, spec: QuantStateSpec) -> bool:
        """Return whether a state of this spec has the phase."""

    def run(self, job: Job) -> float:
        """Change the job's student in place and add to its results.

        Returns the cost in runs of the network by one item. What an earlier, interrupted run of the same job
        has kept in scratch is not done again.
        """
