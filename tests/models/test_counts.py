"""Counts of layers from shapes alone."""

import pytest

from sdquant_cli.artifacts.settings import setting_of
from sdquant_cli.hooks import watching_inputs, watching_outputs
from sdquant_cli.models.counts import layer_counts
from sdquant_cli.models.example_call import ExampleCall
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.options.base import SettingRequest


@pytest.mark.parametrize("name", ["sd-v1-4", "sdxl", "sd3-medium"])
def test_they_are_those_of_a_real_call(tiny, name):
    model = find_model(str(tiny(name)))
    setting = setting_of(model, SettingRequest())
    network = model.denoiser()
    layers, inputs, outputs = quantizable_layers(network), {}, {}
    with (
        watching_inputs(layers, lambda name, args, _: inputs.update({name: args[0].shape})),
        watching_outputs(layers, lambda name, output: outputs.update({name: output.shape})),
    ):
        ExampleCall.of(model, setting, 1, 500.0).run(network)
    counts = layer_counts(model, setting)
    assert counts.keys() == layers.keys()
    for layer, count in counts.items():
        assert count.inputs == inputs[layer].numel()
        assert count.positions * len(layers[layer].weight) == outputs[layer].numel()
        assert count.weight_shape == layers[layer].weight.shape
    assert all(parameter.is_meta for parameter in model.skeleton.parameters())
