"""Trajectories of numbered prompts: each depends on its own number alone."""

import numpy as np
import torch

from sdquant_cli.calibration.selection.trajectories import Trajectories
from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.models.load import find_model
from tests import fakes


def inputs(unet, prompts, calls):
    """Inputs of the first calls of these prompts, denoised together."""
    tokens = torch.randn(3, 6, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(3))
    setting = fakes.setting("euler-ancestral", 3, height=32, width=32)
    texts, index = Conditioning(tokens), np.array([1, 2, 1])
    paths = Trajectories(find_model("shapes"), setting, 5, unet, texts, index, torch.device("cpu"))
    seen = []

    def visit(call, x):
        seen.append(x)
        return call < calls - 1

    paths.follow(prompts, visit)
    return torch.stack(seen)


def test_a_trajectory_does_not_depend_on_the_prompts_beside_it(embedded_unet):
    together, alone = inputs(embedded_unet, [0, 2], 2), inputs(embedded_unet, [2], 2)
    torch.testing.assert_close(together[:, 1], alone[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[:, 0], together[:, 1])


def test_a_visitor_ends_the_trajectory(embedded_unet):
    assert len(inputs(embedded_unet, [1], 1)) == 1
    assert len(inputs(embedded_unet, [1], 3)) == 3
