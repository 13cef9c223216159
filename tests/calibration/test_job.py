"""The networks of a calibration: which it has, and what they share."""

import pytest
import torch

from sdquant_cli.calibration.checkpoints import Scratch
from sdquant_cli.calibration.items import Items
from sdquant_cli.calibration.job import CalibrationInputs, start
from sdquant_cli.calibration.tabulated import TimeFeatures
from sdquant_cli.events import SILENT
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.models.load import find_model
from sdquant_cli.models.time_table import tabulate
from sdquant_cli.options.requests import CalibrateRequest
from tests import fakes

TIMESTEPS = (981.0, 1.0)


@pytest.fixture(scope="module")
def features():
    values = tabulate(find_model("shapes").time_path(), TIMESTEPS).values()
    return TimeFeatures(TIMESTEPS, torch.cat(list(values), dim=1))


def begun(folder, features, **options):
    request = CalibrateRequest(**options)
    recipe = recipe_of(request)
    latents = Items(
        torch.zeros(4, 4, 4, 4),
        torch.zeros(4),
        torch.ones(4),
        Conditioning(torch.zeros(2, 3, 4)),
        torch.tensor(TIMESTEPS),
        3.0,
    )
    inputs = CalibrationInputs(
        model=find_model("shapes"),
        setting=fakes.setting(),
        recipe=recipe,
        spec=spec_of(request, recipe, 2, ranked=False, pictures=None),
        bits={},
        items=latents,
        time_features=features,
        rounded_time_features=features if request.time_path == "quantized" else None,
        device=torch.device("cpu"),
    )
    return start(inputs, Scratch(folder, lambda: None, SILENT))


def weights_of(network):
    return {weight.data_ptr() for weight in network.parameters()}


def test_rounding_to_nearest_needs_no_teacher(tmp_path, features):
    assert begun(tmp_path, features, method="rtn").teacher.network is None
    assert begun(tmp_path, features, method="rtn", correction=True).teacher.network is not None


def test_a_teacher_shares_the_weights_unless_it_computes_otherwise(tmp_path, features):
    shared = begun(tmp_path, features, method="pqd")
    assert weights_of(shared.teacher.network) == weights_of(shared.student.network)
    for options in ({"teacher_dtype": "bf16"}, {"time_path": "quantized"}):
        apart = begun(tmp_path, features, iterations=9, **options)
        assert not weights_of(apart.teacher.network) & weights_of(apart.student.network)


@pytest.mark.parametrize(
    ("options", "cached"),
    [
        ({"iterations": 4}, True),
        ({"iterations": 3}, False),  # of four latents in twos, less than twice
        ({"iterations": 4, "teacher_dtype": "bf16"}, False),
        ({"iterations": 4, "time_path": "quantized"}, False),
        ({"iterations": 4, "method": "serial"}, False),
    ],
)
def test_answers_are_cached_where_each_is_asked_for_twice(tmp_path, features, options, cached):
    assert (begun(tmp_path, features, **options).teacher.cache is not None) == cached
