"""Metrics: what each is made of and what it needs. docs/reference/metrics.md defines them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ..errors import UsageProblem

EMBEDDED_CLIP, CLIP, CLIP_LARGE = "shapes-clip", "clip-vit-b-32", "clip-vit-l-14"
INCEPTION, SPATIAL = "inception", "inception-spatial"
LEGACY_INCEPTION, LEGACY_SPATIAL = "inception-legacy", "inception-legacy-spatial"

# Weight files of each feature network; the embedded model's CLIP comes with the package, and OpenAI's share
# one tokenizer.
NETWORK_FILES: dict[str, tuple[str, ...]] = {
    EMBEDDED_CLIP: (),
    CLIP: ("clip-vit-base-patch32.bin", "clip-vit-base-patch32-tokenizer.json"),
    CLIP_LARGE: ("clip-vit-large-patch14.bin", "clip-vit-base-patch32-tokenizer.json"),
    INCEPTION: ("inception-2015-12-05.pt",),
    SPATIAL: ("pt_inception-2015-12-05-6726825d.pth",),
    LEGACY_INCEPTION: ("inception-2015-12-05.pt",),
    LEGACY_SPATIAL: ("inception-2015-12-05.pt",),
}
# Features per picture of each network; the Fréchet distance of N pictures is biased upwards by about D / N.
NETWORK_WIDTHS = {
    EMBEDDED_CLIP: 64,
    CLIP: 512,
    CLIP_LARGE: 768,
    INCEPTION: 2048,
    SPATIAL: 2023,
    LEGACY_INCEPTION: 2048,
    LEGACY_SPATIAL: 2023,
}
LPIPS_FILES = ("alexnet-owt-7be5be79.pth", "LPIPS_v0.1_alex-df73285e.pth")


class Form(StrEnum):
    """The inputs of a metric."""

    PAIR = "two pictures"
    FEATURE_PAIR = "features of two pictures"
    SETS = "features of two sets of pictures"
    TEXT = "features of a picture and its prompt"
    TEXT_DIFFERENCE = "the same, less that of the reference picture"


@dataclass(frozen=True)
class Metric:
    """One metric. `best` is the end of its range that a picture equal to the reference reaches."""

    name: str
    form: Form
    best: Literal["high", "low", "zero"]
    network: str | None = None
    own_files: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """The name without what stands in brackets."""
        return self.name.partition("[")[0]

    @property
    def files(self) -> tuple[str, ...]:
        """The weight files that it needs."""
        return self.own_files or (NETWORK_FILES[self.network] if self.network else ())

    def distance(self, value: float) -> float:
        """Return a number that orders values from the closest to the reference to the worst."""
        return {"high": -value, "low": value, "zero": abs(value)}[self.best]


CATALOG: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", Form.PAIR, "high"),
        Metric("ssim", Form.PAIR, "high"),
        Metric("lpips", Form.PAIR, "low", own_files=LPIPS_FILES),
        Metric("feature_distance[shapes-clip]", Form.FEATURE_PAIR, "low", EMBEDDED_CLIP),
        Metric("fid", Form.SETS, "low", INCEPTION),
        Metric("kid", Form.SETS, "low", INCEPTION),
        Metric("sfid", Form.SETS, "low", SPATIAL),
        Metric("fid[legacy]", Form.SETS, "low", LEGACY_INCEPTION),
        Metric("sfid[nash]", Form.SETS, "low", LEGACY_SPATIAL),
        Metric("fid[clip]", Form.SETS, "low", CLIP),
        Metric("fid[shapes-clip]", Form.SETS, "low", EMBEDDED_CLIP),
        Metric("kid[shapes-clip]", Form.SETS, "low", EMBEDDED_CLIP),
        Metric("clip_score", Form.TEXT, "high", CLIP),
        Metric("clip_score_difference", Form.TEXT_DIFFERENCE, "zero", CLIP),
        Metric("clip_score[vit-l-14]", Form.TEXT, "high", CLIP_LARGE),
        Metric("clip_score_difference[vit-l-14]", Form.TEXT_DIFFERENCE, "zero", CLIP_LARGE),
        Metric("clip_score[shapes-clip]", Form.TEXT, "high", EMBEDDED_CLIP),
        Metric("clip_score_difference[shapes-clip]", Form.TEXT_DIFFERENCE, "zero", EMBEDDED_CLIP),
    )
}


def metric_named(name: str, flag: str) -> Metric:
    """Return the metric of a name; raise UsageProblem with the known names for another one."""
    if name not in CATALOG:
        raise UsageProblem(f"{flag}: unknown metric {name!r}, expected one of {', '.join(CATALOG)}")
    return CATALOG[name]
