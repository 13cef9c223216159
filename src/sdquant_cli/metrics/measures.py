"""The chosen metrics of any two sets of pictures: stored images, or folders of pictures.

How features are kept is the caller's: `Measures` gets a function that returns them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from ..events import Events, Task
from ..manifests import MetricsFacts, MetricSummary
from ..ranks import add, current
from . import pairs
from .catalog import CATALOG, NETWORK_WIDTHS, Form, Metric
from .choice import Chosen
from .distribution import frechet_distance, kernel_distance
from .features import FeatureNetwork, TextFeatureNetwork, open_network
from .scores import clip_score, feature_distance, summarise
from .weights import Weights

TEXTS_AT_ONCE = 64
PIXELS_PER_BATCH = 1 << 18  # one picture of 512x512, 64 of 64x64: memory does not grow with either
_SETS = {"fid": frechet_distance, "sfid": frechet_distance, "kid": kernel_distance}

Values = dict[str, np.ndarray | float]  # by metric: a value per picture (N), or one for the sets


class PictureSet(Protocol):
    """Pictures of one size, read in parts."""

    @property
    def key(self) -> str:
        """What tells this set from others."""

    @property
    def count(self) -> int:
        """The number N of pictures."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def pictures(self, start: int, stop: int) -> np.ndarray:
        """Return pictures start..stop - 1 (n,H,W,3), uint8."""


P = TypeVar("P", bound=PictureSet)


def batches(images: PictureSet, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of pictures that are in memory together."""
    height, width = images.size
    size = max(1, PIXELS_PER_BATCH // (height * width))
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


@dataclass(frozen=True)
class Networks:
    """The networks of metrics on a device, each opened once."""

    weights: Weights
    device: torch.device
    embedded_clip: Path  # folder of the embedded model's CLIP

    @cached_property
    def _opened(self) -> dict[str, FeatureNetwork]:
        return {}

    def open(self, name: str) -> FeatureNetwork:
        """Return the feature network of a name in the catalog."""
        if name not in self._opened:
            self._opened[name] = open_network(name, self.weights, self.device, self.embedded_clip)
        return self._opened[name]

    def pairwise(self, name: str) -> pairs.Pairwise:
        """Return the function of a metric of two pictures."""
        makers: dict[str, Callable[[], pairs.Pairwise]] = {
            "psnr": lambda: pairs.psnr(self.device),
            "ssim": lambda: pairs.ssim(self.device),
            "lpips": lambda: pairs.lpips(self.weights, self.device),
        }
        return makers[name]()

    def features(self, name: str, images: PictureSet, rows: range, task: Task) -> np.ndarray:
        """Return the features (n,D) fp32 of some pictures of a set."""
        parts = []
        for start, stop in batches(images, rows.start, rows.stop):
            parts.append(self.open(name).of_images(images.pictures(start, stop)))
            task.advance(stop - start)
        return np.concatenate(parts)


class Measures(Generic[P]):
    """Compute the chosen metrics on any two sets of pictures of the same prompts."""

    def __init__(
        self,
        chosen: Chosen,
        networks: Networks,
        features: Callable[[P, str], np.ndarray],
        prompts: Sequence[str],
        events: Events,
    ) -> None:
        """`features` returns the features (N,D) of all pictures of a set in the network of a name."""
        self._chosen, self._networks, self._events = chosen, networks, events
        self._features_of, self._prompts = features, prompts
        self._metrics = [CATALOG[name] for name in chosen.names]
        self._texts: dict[str, np.ndarray] = {}
        self._known: dict[tuple[str, str], np.ndarray] = {}  # features by pictures and network

    def compare(self, images: P, reference: P) -> Values:
        """Return by metric a value per picture (N), or one number for the sets (NaN below two pictures)."""
        values: Values = dict(self._pair_values(images, reference))
        for metric in self._metrics:
            if metric.form is not Form.PAIR:
                values[metric.name] = self._feature_value(metric, images, reference)
        return values

    def _feature_value(self, metric: Metric, images: P, reference: P) -> np.ndarray | float:
        assert metric.network is not None
        ours, theirs = self._features(images, metric.network), self._features(reference, metric.network)
        if metric.form is Form.FEATURE_PAIR:
            return feature_distance(ours, theirs)
        if metric.form is Form.SETS:
            return _SETS[metric.formula](ours, theirs) if len(ours) > 1 else float("nan")
        texts = self._text_features(metric.network)
        score = clip_score(ours, texts)
        return score if metric.form is Form.TEXT else score - clip_score(theirs, texts)

    @cached_property
    def _pairwise(self) -> dict[str, pairs.Pairwise]:
        return {m.name: self._networks.pairwise(m.name) for m in self._metrics if m.form is Form.PAIR}

    def _pair_values(self, images: P, reference: P) -> dict[str, np.ndarray]:
        n = images.count
        if images.key == reference.key:
            return {name: np.full(n, pairs.OF_ITSELF[name]) for name in self._pairwise}
        values = {name: np.zeros(n) for name in self._pairwise}
        with self._events.task(f"comparing ({', '.join(values)})", n, "image") as task:
            for number, (start, stop) in enumerate(batches(images, 0, n)):
                if number % current().count == current().rank:  # the others are other ranks'
                    ours, theirs = images.pictures(start, stop), reference.pictures(start, stop)
                    for name, metric in self._pairwise.items():
                        values[name][start:stop] = metric(ours, theirs)
                task.advance(stop - start)
        add(list(map(torch.from_numpy, values.values())))
        return values

    def _text_features(self, network: str) -> np.ndarray:
        if network not in self._texts:
            clip: TextFeatureNetwork = self._networks.open(network)  # type: ignore[assignment]
            parts = []
            with self._events.task(f"features ({network})", len(self._prompts), "prompt") as task:
                for start in range(0, len(self._prompts), TEXTS_AT_ONCE):
                    texts = self._prompts[start : start + TEXTS_AT_ONCE]
                    parts.append(clip.of_texts(texts))
                    task.advance(len(texts))
            self._texts[network] = np.concatenate(parts)
        return self._texts[network]

    def _features(self, images: P, network: str) -> np.ndarray:
        """Return the features (N,D) of pictures, asked for once."""
        key = images.key, network
        if key not in self._known:
            self._known[key] = self._features_of(images, network)
        return self._known[key]

    # ------------------------------------------------------------------------- all of them

    def measure(self, images: P, reference: P, floor: P | None = None) -> "Measured":
        """Measure three sets against the reference: pictures, those of another seed, and itself."""
        sides = {"images": images, "reference": reference} | ({"floor": floor} if floor is not None else {})
        values = {role: self.compare(side, reference) for role, side in sides.items()}
        count, columns = images.count, {}
        self._warn_of_small_n(count)
        for name in self._chosen.of_single_pictures:
            columns[name] = np.asarray(values["images"][name])
        facts = MetricsFacts(
            metrics=_summaries(values["images"], count) | self._chosen.skipped,
            floor=_summaries(values["floor"], count) if floor is not None else {},
            itself=_summaries(values["reference"], count),
        )
        return Measured(facts, columns)

    def _warn_of_small_n(self, count: int) -> None:
        """Warn of distances between sets whose features outnumber the pictures: they are biased upwards."""
        biased = []
        for metric in self._metrics:
            width = NETWORK_WIDTHS[metric.network or ""] if metric.formula in ("fid", "sfid") else 0
            if count < 10 * width:
                biased.append(f"{metric.name} ({width} features)")
        if biased:
            self._events.warn(
                f"{count} pictures are few for {', '.join(biased)}: biased upwards, compare at equal N only"
            )


@dataclass(frozen=True)
class Measured:
    """Summaries of all metrics, and by metric the value of each picture (N)."""

    facts: MetricsFacts
    columns: dict[str, np.ndarray]


def _summaries(values: Mapping[str, np.ndarray | float], count: int) -> dict[str, MetricSummary]:
    """Return the summary of each metric, in the catalog's order."""
    summaries: dict[str, MetricSummary] = {}
    for name, metric in CATALOG.items():
        value = values.get(name)
        if isinstance(value, np.ndarray):
            summaries[name] = summarise(value, metric.distance)
        elif value is not None:
            summaries[name] = MetricSummary(mean=None if math.isnan(value) else value, n=count)
    return summaries
