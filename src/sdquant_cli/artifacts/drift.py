"""Drift: how a quantized trajectory leaves the floating-point one, by prompt and UNet call."""

from ..manifests import DriftFacts, DriftSpec
from ..store import ArraySpec, Artifact
from ..types import Kind

COLUMNS = ("latent_cosine", "latent_snr", "prediction_sqnr")


class Drift(Artifact[DriftSpec, DriftFacts]):
    """A stored drift."""

    KIND = Kind.DRIFT


def layout(prompts: int, calls: int, micro_batch: int) -> dict[str, ArraySpec]:
    """Return the columns (prompts, calls). Ratios are infinite where latents are equal."""
    column = ArraySpec((prompts, calls), "float64", ("sample", "call"), micro_batch, finite=False)
    return dict.fromkeys(COLUMNS, column)
