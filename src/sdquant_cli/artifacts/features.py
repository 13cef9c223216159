"""Features of images, kept in the store."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..manifests import FeaturesFacts, FeaturesSpec
from ..metrics.catalog import NETWORK_FILES, NETWORK_WIDTHS
from ..metrics.measures import Networks
from ..metrics.weights import WEIGHT_FILES
from ..store import ArraySpec, Artifact, Draft, lengths
from ..types import Kind
from .images import Images
from .workspace import Blueprint, Workspace

IMAGES_PER_UNIT = 256


class Features(Artifact[FeaturesSpec, FeaturesFacts]):
    """Stored features of pictures by one metric network."""

    KIND = Kind.FEATURES


@dataclass(frozen=True)
class KeptFeatures:
    """The features of stored images, computed where they are absent and kept."""

    workspace: Workspace
    networks: Networks

    def __call__(self, images: Images, network: str) -> np.ndarray:
        """Return the features (N,D) fp32 of images in the network of a name."""
        weights = {name: WEIGHT_FILES[name].sha256 for name in NETWORK_FILES[network]}
        count, width = images.count, NETWORK_WIDTHS[network]
        blueprint = Blueprint(
            FeaturesSpec(network=network, weights=weights),
            {"images": images},
            {"feature": ArraySpec((count, width), "float32", ("sample", "feature"), IMAGES_PER_UNIT)},
            -(-count // IMAGES_PER_UNIT),
        )
        fill = partial(self._extract, images, network)
        return self.workspace.produce(Features, blueprint, fill, quiet=True, retag=False).read("feature")

    def _extract(self, images: Images, network: str, draft: Draft) -> FeaturesFacts:
        missing = draft.missing_rows("feature")
        sizes = lengths(missing)
        with self.workspace.events.task(f"features ({network})", sum(sizes.values()), "image") as task:
            for unit in draft.turns(sizes, task):
                draft.write(unit, {"feature": self.networks.features(network, images, missing[unit], task)})
        return FeaturesFacts(images=images.count, width=NETWORK_WIDTHS[network])
