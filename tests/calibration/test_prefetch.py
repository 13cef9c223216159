"""Prefetched batches are those of their source."""

import threading

import pytest
import torch

from sdquant_cli.calibration.prefetch import prefetched
from sdquant_cli.calibration.sources import MixedLatents, NoisedPictures, Pictures, TrajectoryBatches
from sdquant_cli.models.conditioning import Conditioning

from .test_sources import context

TEXTS = Conditioning(torch.randn(9, 3, 5, generator=torch.Generator().manual_seed(1)))
PICTURES = Pictures(torch.randn(6, 4, 4, 4), torch.arange(6), TEXTS)


@pytest.mark.parametrize("source", [MixedLatents, NoisedPictures])
@pytest.mark.parametrize("iterations", [range(5), [3, 4, 9, 2]], ids=["in order", "resumed"])
def test_batches_are_the_same(source, iterations):
    plain, early = source(context(pictures=PICTURES)), prefetched(source(context(pictures=PICTURES)))
    assert early is not plain
    for iteration in iterations:
        one, other = plain.batch(iteration), early.batch(iteration)
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.row, other.row)
        assert torch.equal(one.conditioning.tokens, other.conditioning.tokens)


class Slow(MixedLatents):
    """Tells when it begins with a batch."""

    def __init__(self, context):
        super().__init__(context)
        self.began = {iteration: threading.Event() for iteration in range(3)}

    def batch(self, iteration):
        self.began[iteration].set()
        if iteration == 2:
            raise OSError("the store is gone")
        return super().batch(iteration)


def test_the_next_batch_begins_before_it_is_asked_for():
    source = Slow(context())
    early = prefetched(source)
    early.batch(0)
    assert source.began[1].wait(timeout=60)
    assert not source.began[2].is_set()
    early.batch(1)
    with pytest.raises(OSError, match="gone"):
        early.batch(2)


def test_trajectories_wait_for_the_prediction():
    source = TrajectoryBatches(context())
    assert prefetched(source) is source
