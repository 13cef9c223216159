"""Sensitivity: a ranking of all quantizable layers, with the numbers it follows from."""

from ..manifests import SensitivityFacts, SensitivitySpec
from ..store import Artifact
from ..types import Kind


class Sensitivity(Artifact[SensitivitySpec, SensitivityFacts]):
    """A stored sensitivity ranking."""

    KIND = Kind.SENSITIVITY
