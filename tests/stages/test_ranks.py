"""Every stage in two ranks: the artifacts of one process; of training, its numbers but for rounding."""

import json

import pytest
import yaml

from sdquant_cli.types import Kind
from tests.cli.test_parallel import torchrun
from tests.conftest import PROMPTS, Sdquant

HELDOUT = str(PROMPTS / "shapes-heldout.txt")
CHAIN = {
    "sample": {"prompts": HELDOUT, "limit": 260, "steps": 2},
    "precalc-time": {},
    "sensitivity": {"limit": 20, "micro-batch": 2},
    "calibrate": {"bits": "w4a8", "iterations": 1, "batch-size": 5},
    "generate": {"prompts": HELDOUT, "limit": 66},
    "evaluate": {"floor": False},
}
SHARED = {Kind.PROMPTS, Kind.TEXT_EMBEDS, Kind.LATENTS, Kind.TIME_TABLE, Kind.SENSITIVITY}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tiny):
    """The stores of one process and of two ranks, after all stages."""
    folder = tmp_path_factory.mktemp("ranks")
    config = folder / "chain.yaml"
    chain = {**CHAIN, "sample": {**CHAIN["sample"], "model": str(tiny("sd-v1-4/two-blocks"))}}
    config.write_text(yaml.safe_dump(chain))
    alone = Sdquant(folder / "alone")
    alone("run", "--config", config)
    done = torchrun("run", "--config", config, "--json", store=folder / "shared")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)  # one document
    return alone.opened(), Sdquant(folder / "shared").opened()


def test_what_units_make_is_the_same_to_the_byte(stores):
    alone, shared = stores
    for kind in SHARED:
        assert alone.need(kind).ref == shared.need(kind).ref, kind
    fp = [store.need(Kind.IMAGES, "latest-fp").ref for store in stores]
    assert fp[0] == fp[1]
    assert len(shared.need(Kind.IMAGES, "latest-fp").manifest.units) == 2
    assert len(shared.need(Kind.SENSITIVITY).manifest.units) == 2


def test_training_in_ranks_has_the_losses_of_one_process(stores):
    alone, shared = (store.need(Kind.QUANT_STATE) for store in stores)
    assert alone.key == shared.key
    assert shared.manifest.provenance.ranks == 2
    assert shared.facts.losses == pytest.approx(alone.facts.losses, rel=1e-5)
    metrics = [store.need(Kind.METRICS).facts.metrics["psnr"].mean for store in stores]
    assert metrics[1] == pytest.approx(metrics[0], abs=0.2)


def test_nothing_that_served_the_work_is_left(stores):
    for store in stores:
        assert not list(store.objects.local.glob("scratch/*/*"))
        assert not list(store.objects.local.glob("artifacts/*/*/leases/*"))
        assert not list(store.objects.local.rglob("*.partial"))
