"""A call on random numbers is always the same one, in the shapes of its model."""

import pytest
import torch

from sdquant_cli.models.example_call import ExampleCall
from sdquant_cli.models.load import find_model
from tests import fakes


@pytest.mark.parametrize("name", ["sd-v1-4", "sdxl"])
def test_a_call_runs_and_is_the_same_each_time(tiny, name):
    model = find_model(str(tiny(name)))
    height, width = model.default_size
    setting = fakes.setting(model.default_scheduler, 3, height=height, width=width, model=model.ref)
    first, second = (ExampleCall.of(model, setting, 2, 500.0) for _ in range(2))
    assert torch.equal(first.x, second.x)
    output = first.run(model.denoiser())
    assert output.shape == first.x.shape == (2, *model.latent_shape(height, width))
