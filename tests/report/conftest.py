"""A store with two small quantized models, and metrics of them published by hand.

The pictures are real; of the numbers only PSNR is, so that a report is tested without the cost of
`evaluate`.
"""

import shutil

import numpy as np
import pytest

from sdquant_cli.manifests import DriftFacts, DriftSpec, MetricsFacts, MetricsSpec, MetricSummary
from sdquant_cli.store import ArraySpec, Artifact, Store
from tests.conftest import PROMPTS, Sdquant

TRAIN, HELDOUT = PROMPTS / "shapes-train.txt", PROMPTS / "shapes-heldout.txt"
PAIRED = ("psnr", "ssim", "feature_distance[shapes-clip]", "clip_score[shapes-clip]")
LAYERS, BLOCKS = 73, 2  # of the tiny UNet, and on its way down
SMALL = ("--iterations", 2, "--batch-size", 2)
GENERATE = ("generate", "--prompts", HELDOUT, "--limit", 6)


def publish_metrics(store: Store, images: Artifact, reference: Artifact, floor=None) -> Artifact:
    """A metrics artifact: PSNR as it is, the other metrics by chance, LPIPS skipped."""
    n = images.facts.images
    random = np.random.default_rng(n)
    ours, theirs = (a.read("image").astype(float) for a in (images, reference))
    error = ((ours - theirs) ** 2).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(255**2 / error)
    # one pair is said to be identical: its score is infinite, and left out of the mean
    psnr[-1] = np.inf
    values = {"psnr": psnr, "ssim": random.uniform(0.8, 1, n)}
    values |= {"feature_distance[shapes-clip]": random.uniform(0, 0.1, n)}
    values |= {"clip_score[shapes-clip]": random.uniform(0.2, 0.4, n)}
    spec = MetricsSpec(metrics=PAIRED, weights={})
    inputs = {"images": images.ref, "reference": reference.ref} | ({"floor": floor.ref} if floor else {})
    arrays = {name: ArraySpec((n,), "float64", ("sample",), finite=False) for name in PAIRED}
    draft = store.begin(spec, inputs, arrays)
    if isinstance(draft, Artifact):
        return draft
    draft.write(0, values)
    skipped = MetricSummary(mean=None, n=n, skipped="needs vgg16-397923af.pth")
    distribution = {"fid[shapes-clip]": MetricSummary(mean=12.345, ci95=None, n=n), "lpips": skipped}
    far = {"psnr": 11.2, "ssim": 0.31, "feature_distance[shapes-clip]": 0.41, "fid[shapes-clip]": 33.1}
    near = {"ssim": 1.0, "feature_distance[shapes-clip]": 0.0, "fid[shapes-clip]": 0.0}
    clip = {"clip_score[shapes-clip]": MetricSummary(mean=0.3012, n=n)}
    facts = MetricsFacts(
        metrics={name: summary(column) for name, column in values.items()} | distribution,
        floor={name: MetricSummary(mean=v, n=n) for name, v in far.items()} | clip if floor else {},
        itself={"psnr": MetricSummary(mean=None, n=n, identical=n)}
        | {name: MetricSummary(mean=v, n=n) for name, v in near.items()}
        | clip,
    )
    artifact = draft.publish(facts, store.provenance(1))
    store.tag(artifact)
    return artifact


def summary(column: np.ndarray) -> MetricSummary:
    finite = column[np.isfinite(column)]
    mean, std = float(finite.mean()), float(finite.std())
    return MetricSummary(
        mean=mean,
        std=std,
        ci95=(mean - std / 3, mean + std / 3),
        n=len(column),
        identical=len(column) - len(finite),
    )


def publish_drift(store: Store, images: Artifact) -> Artifact:
    """A drift artifact of the state behind `images`; equal at the first call."""
    calls, random = images.spec.setting.steps + 1, np.random.default_rng(1)
    fall = np.linspace(30, 12, calls) + random.normal(0, 0.5, calls)
    spec = DriftSpec(setting=images.spec.setting, prompts=4, seed=0, micro_batch=8)
    draft = store.begin(
        spec, images.manifest.inputs, {"latent_snr": ArraySpec((calls,), "float64", ("call",))}
    )
    if isinstance(draft, Artifact):
        return draft
    draft.write(0, {"latent_snr": fall})
    facts = DriftFacts(
        timesteps=tuple(np.linspace(981, 1, calls).tolist()),
        latent_cosine=(None, *(1 - 10 ** (-fall[1:] / 20)).tolist()),
        latent_snr=(None, *fall[1:].tolist()),
        prediction_sqnr=tuple((fall + 3).tolist()),
    )
    return draft.publish(facts, store.provenance(1))


@pytest.fixture(scope="session")
def sample(tiny) -> tuple[object, ...]:
    """The command that begins a store of a tiny model."""
    model = ("--model", tiny("sd-v1-4/two-blocks"))
    return ("sample", "--prompts", TRAIN, "--limit", 4, "--steps", 2, "--seed", 3, *model)


@pytest.fixture(scope="session")
def measured(tmp_path_factory, sample) -> Sdquant:
    """Two models on the same prompts and noise: w8a8 (latest), and w4a8 mixed with drift. Read only."""
    sdquant = Sdquant(tmp_path_factory.mktemp("report") / "store")
    sdquant(*sample)
    sdquant("sensitivity")
    sdquant("calibrate", "--bits", "w4a8", "--mixed", "--activations", "per-step", *SMALL)
    sdquant(*GENERATE)
    sdquant("generate", *GENERATE[1:], "--model", "fp", "--seed", 1)
    sdquant("generate", *GENERATE[1:], "--model", "fp")
    store = sdquant.opened()
    floor, reference = (a for a in store.artifacts() if a.manifest.kind == "images" and a.spec.engine == "fp")
    if floor.spec.seed == 0:
        floor, reference = reference, floor
    publish_drift(store, store.resolve("images/latest-quantized"))
    store.tag(publish_metrics(store, store.resolve("images/latest-quantized"), reference, floor), "mixed")
    words = ("--activations", "per-step", "--edges", "float", "--iterations", 0)
    sdquant("calibrate", "--bits", "w8a8", *words)
    sdquant(*GENERATE)
    publish_metrics(store, store.resolve("images/latest-quantized"), reference, floor)
    return sdquant


@pytest.fixture
def changeable(measured, tmp_path) -> Sdquant:
    """A copy of the store, to be damaged."""
    shutil.copytree(measured.store, tmp_path / "store")
    return Sdquant(tmp_path / "store")
