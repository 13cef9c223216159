"""Hooks see each call while the context lasts, and are gone afterwards, also after an error."""

import pytest
import torch
from torch import nn

from sdquant_cli.hooks import watching_inputs, watching_outputs


def test_inputs_are_seen_before_and_outputs_after_each_call():
    layers = {"double": nn.Linear(1, 1, bias=False), "other": nn.Identity()}
    nn.init.constant_(layers["double"].weight, 2.0)
    seen = []

    def see_input(name, args, kwargs):
        seen.append((name, len(args), sorted(kwargs)))

    def see_output(name, output):
        seen.append((name, output.item()))

    with watching_inputs(layers, see_input), watching_outputs(layers, see_output):
        layers["double"](torch.ones(1))
        layers["other"](input=torch.ones(1))
    assert seen == [("double", 1, []), ("double", 2.0), ("other", 0, ["input"]), ("other", 1.0)]


@pytest.mark.parametrize("watching", [watching_inputs, watching_outputs])
def test_hooks_come_off_after_an_error(watching):
    layer, seen = nn.Identity(), []
    with pytest.raises(ZeroDivisionError), watching({"layer": layer}, lambda *call: seen.append(call)):
        raise ZeroDivisionError
    layer(torch.ones(1))
    assert not seen
