"""`doctor`: the weight files of metrics, whether they are intact and where to get them; integer kernels."""

from dataclasses import dataclass

from ..events import SILENT, Events
from ..metrics.catalog import CATALOG
from ..metrics.weights import WEIGHT_FILES, Weights
from ..native import products
from ..options.requests import DoctorRequest


@dataclass(frozen=True)
class Finding:
    """The condition of one weight file, and the metrics that need it."""

    file: str
    condition: str
    needed_by: tuple[str, ...]
    url: str


def examine(request: DoctorRequest, events: Events = SILENT) -> tuple[Weights, list[Finding]]:
    """Return the weights folder and a finding for each known file; fetch missing ones if asked to."""
    weights = Weights(request.weights_dir)
    if request.download:
        weights.download(WEIGHT_FILES, events)
    findings = []
    for name, file in WEIGHT_FILES.items():
        needed_by = tuple(metric.name for metric in CATALOG.values() if name in metric.files)
        findings.append(Finding(name, weights.state(name), needed_by, file.url))
    return weights, findings


def integer_engine() -> str:
    """Return what the integer engine computes with on this machine's CPU."""
    if products.available():
        return f"sdquant's kernels, {products.instructions()}"
    return "no C compiler found (CC, cc, gcc or clang): networks with scales per token run dequantized"


def integer_engine_on_gpu() -> str | None:
    """Return what `--engine integer` computes with on the GPU, or why it does not; None without a GPU."""
    import torch

    from ..native.cuda import support

    if not torch.cuda.is_available():
        return None
    return support.problem(torch.device("cuda")) or "sdquant's kernels in Triton, where they are asked for"
