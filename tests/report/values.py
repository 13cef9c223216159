"""Models of a page as values, without a store: only the fields that a test needs."""

import numpy as np

from sdquant_cli.manifests import Setting
from sdquant_cli.manifests.kinds import ImagesManifest, MetricsManifest, QuantStateManifest
from sdquant_cli.report.comparison import ActivationTables, ComparedModel


class Fields:
    """An object with some fields."""

    def __init__(self, **fields):
        vars(self).update(fields)


def compared_model(
    scores=None, metrics=None, *, bits="w4a8", method="rtn", mixed=False, key="0" * 20, **shared
):
    """A model with scores per image (N); `shared` must be equal in models that are compared."""
    scores = {name: np.array(values, dtype=float) for name, values in (scores or {}).items()}
    images = len(next(iter(scores.values()), ()))
    setting = Setting.model_construct(width=64, height=64)
    return ComparedModel(
        metrics=MetricsManifest.model_construct(key=key),
        images=ImagesManifest.model_construct(spec=Fields(setting=setting), facts=Fields(images=images)),
        state=QuantStateManifest.model_construct(
            key=key, inputs={}, spec=Fields(bits=bits, method=method, mixed=mixed), facts=Fields()
        ),
        drift=None,
        shared=shared,
        scores=scores,
        activations=ActivationTables(np.ones(1), np.zeros(1), np.arange(2), None),
    )
