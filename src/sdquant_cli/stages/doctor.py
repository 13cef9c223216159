"""`doctor`: which metric needs which file, whether it is there and intact, and where to get it."""

from dataclasses import dataclass

from ..events import SILENT, Events
from ..metrics.catalog import CATALOG
from ..metrics.weights import WEIGHT_FILES, Weights
from ..options.requests import DoctorRequest


@dataclass(frozen=True)
class Finding:
    """What is known of one weight file."""

    file: str
    condition: str
    needed_by: tuple[str, ...]
    url: str


def examine(request: DoctorRequest, events: Events = SILENT) -> tuple[Weights, list[Finding]]:
    """The weights folder, and a finding for each known file; fetches missing ones if asked to."""
    weights = Weights(request.weights_dir)
    if request.download:
        weights.download(WEIGHT_FILES, events)
    return weights, [
        Finding(
            file=name,
            condition=weights.state(name),
            needed_by=tuple(metric.name for metric in CATALOG.values() if name in metric.files),
            url=file.url,
        )
        for name, file in WEIGHT_FILES.items()
    ]
