"""Calibration items: which inputs each latent becomes, and in which order they come."""

import pytest
import torch

from sdquant_cli.calibration.items import shuffled
from tests.calibration.toy import ROWS, items


def test_batches_hold_each_latent_without_and_with_its_prompt():
    batch = items().batch([4, 7], torch.device("cpu"))
    data = items()
    assert torch.equal(batch.x[:2], batch.x[2:])
    assert torch.equal(batch.timestep, ROWS[torch.tensor([0, 1, 0, 1])])
    assert torch.equal(batch.conditioning.tokens[:2], data.texts.tokens[[0, 0]].float())
    assert torch.equal(batch.conditioning.tokens[2:], data.texts.tokens[data.text[[4, 7]]].float())


def test_an_epoch_visits_every_item_once_and_epochs_differ():
    epoch = torch.cat([shuffled(12, 4, i, seed=1) for i in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(epoch, torch.cat([shuffled(12, 4, i, seed=1) for i in range(3, 6)]))
    assert not torch.equal(epoch[:4], shuffled(12, 4, 0, seed=2))


@pytest.mark.parametrize(("scale", "count"), [(3.0, 24), (1.0, 12), (0.0, 12)])
def test_items_are_halved_without_guidance_and_parts_keep_a_latents_items_together(scale, count):
    ours = items(scale=scale)
    assert ours.count == count
    batch = ours.batch([4, 1, 7], torch.device("cpu"))
    assert len(batch.x) == 3 * batch.halves
    assert torch.equal(batch.x[-3:], ours.x[[4, 1, 7]].float())
    assert torch.equal(batch.conditioning.tokens[-3:], ours.texts.tokens[ours.text[[4, 1, 7]]].float())
    parts = [batch[index] for index in batch.parts(2)]
    latents = [(part.item % len(ours)).view(batch.halves, -1) for part in parts]
    assert torch.equal(torch.cat(latents, dim=1), torch.tensor([[4, 1, 7]]).expand(batch.halves, 3))
    assert all(torch.equal(ours.some(part.item, torch.device("cpu")).x, part.x) for part in parts)
