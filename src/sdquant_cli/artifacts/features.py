"""Features of images, kept in the store, and the metrics computed from them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np

from ..manifests import FeaturesFacts, FeaturesSpec
from ..metrics import pairs
from ..metrics.catalog import CATALOG, NETWORK_FILES, NETWORK_WIDTHS, Form, Metric
from ..metrics.distribution import frechet_distance, kernel_distance
from ..metrics.features import FeatureNetwork, TextFeatureNetwork, open_network
from ..metrics.scores import clip_score, feature_distance
from ..metrics.weights import WEIGHT_FILES, Weights
from ..models.load import EMBEDDED_FOLDER
from ..store import ArraySpec, Artifact, Draft
from ..types import Kind
from .images import Images
from .workspace import Blueprint, Workspace

IMAGES_PER_UNIT = 256
TEXTS_AT_ONCE = 64
PIXELS_PER_BATCH = 1 << 18  # one picture of 512x512, 64 of 64x64: memory does not grow with either
_SETS = {"fid": frechet_distance, "sfid": frechet_distance, "kid": kernel_distance}


class Features(Artifact[FeaturesSpec, FeaturesFacts]):
    """Stored features of pictures by one metric network."""

    KIND = Kind.FEATURES


def batches(images: Images, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of pictures that are in memory together."""
    _, height, width, _ = images.manifest.arrays["image"].shape
    size = max(1, PIXELS_PER_BATCH // (height * width))
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


class Measures:
    """Compute the chosen metrics on any two sets of pictures of the same prompts. Networks open once."""

    def __init__(
        self,
        workspace: Workspace,
        names: Sequence[str],
        prompts: Sequence[str],
        weights: Weights,
    ) -> None:
        self._metrics = [CATALOG[name] for name in names]
        self._workspace, self._prompts, self._weights = workspace, prompts, weights
        self._networks: dict[str, FeatureNetwork] = {}
        self._texts: dict[str, np.ndarray] = {}
        self._known: dict[tuple[str, str], np.ndarray] = {}  # features by images and network

    def compare(self, images: Images, reference: Images) -> dict[str, np.ndarray | float]:
        """Return by metric a value per picture (N), or one number for the sets (NaN below two pictures)."""
        values: dict[str, np.ndarray | float] = dict(self._pair_values(images, reference))
        for metric in self._metrics:
            if metric.form is not Form.PAIR:
                values[metric.name] = self._feature_value(metric, images, reference)
        return values

    def _feature_value(self, metric: Metric, images: Images, reference: Images) -> np.ndarray | float:
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
        makers: dict[str, Callable[[], pairs.Pairwise]] = {
            "psnr": lambda: pairs.psnr(self._workspace.device),
            "ssim": lambda: pairs.ssim(self._workspace.device),
            "lpips": lambda: pairs.lpips(self._weights, self._workspace.device),
        }
        return {m.name: makers[m.name]() for m in self._metrics if m.form is Form.PAIR}

    def _pair_values(self, images: Images, reference: Images) -> dict[str, np.ndarray]:
        n = images.facts.images
        values = {name: np.empty(n) for name in self._pairwise}
        with self._workspace.events.task(f"comparing ({', '.join(values)})", n, "image") as task:
            for start, stop in batches(images, 0, n):
                ours, theirs = images.read("image", start, stop), reference.read("image", start, stop)
                for name, metric in self._pairwise.items():
                    values[name][start:stop] = metric(ours, theirs)
                task.advance(stop - start)
        return values

    def _network(self, name: str) -> FeatureNetwork:
        if name not in self._networks:
            embedded = EMBEDDED_FOLDER / "clip"
            self._networks[name] = open_network(name, self._weights, self._workspace.device, embedded)
        return self._networks[name]

    def _text_features(self, network: str) -> np.ndarray:
        if network not in self._texts:
            clip: TextFeatureNetwork = self._network(network)  # type: ignore[assignment]
            parts = []
            for start in range(0, len(self._prompts), TEXTS_AT_ONCE):
                parts.append(clip.of_texts(self._prompts[start : start + TEXTS_AT_ONCE]))
            self._texts[network] = np.concatenate(parts)
        return self._texts[network]

    def _features(self, images: Images, network: str) -> np.ndarray:
        """Return the features (N,D) of pictures, read once."""
        key = images.key, network
        if key not in self._known:
            self._known[key] = self._stored_features(images, network).read("feature")
        return self._known[key]

    def _stored_features(self, images: Images, network: str) -> Features:
        """Return the features artifact, made where it is absent."""
        weights = {name: WEIGHT_FILES[name].sha256 for name in NETWORK_FILES[network]}
        count, width = images.facts.images, NETWORK_WIDTHS[network]
        blueprint = Blueprint(
            FeaturesSpec(network=network, weights=weights),
            {"images": images},
            {"feature": ArraySpec((count, width), "float32", ("sample", "feature"), IMAGES_PER_UNIT)},
            -(-count // IMAGES_PER_UNIT),
        )
        return self._workspace.produce(
            Features, blueprint, partial(self._extract, images, network), quiet=True, retag=False
        )

    def _extract(self, images: Images, network: str, draft: Draft) -> FeaturesFacts:
        missing = draft.missing_rows("feature")
        total = sum(map(len, missing.values()))
        with self._workspace.events.task(f"features ({network})", total, "image") as task:
            for unit, rows in missing.items():
                parts = []
                for start, stop in batches(images, rows.start, rows.stop):
                    parts.append(self._network(network).of_images(images.read("image", start, stop)))
                    task.advance(stop - start)
                draft.write(unit, {"feature": np.concatenate(parts)})
        return FeaturesFacts(images=images.facts.images, width=NETWORK_WIDTHS[network])
