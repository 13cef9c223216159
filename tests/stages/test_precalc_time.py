"""`precalc-time`: the table of the latest latents' schedule."""

import json

import pytest
import torch

from sdquant_cli.artifacts.latents import Latents
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.time_table import tabulate
from sdquant_cli.options.requests import PrecalcTimeRequest
from sdquant_cli.stages import precalc_time
from tests.conftest import PROMPTS

SAMPLE = ("sample", "--prompts", PROMPTS / "shapes-train.txt", "--limit", 1, "--steps", 3, "--model")


@pytest.fixture
def workspace(sdquant, tiny):
    sdquant(*SAMPLE, tiny("sd-v1-4/two-blocks"))
    return sdquant.workspace()


def test_the_table_holds_the_projections_of_each_timestep(workspace):
    table = precalc_time.run(PrecalcTimeRequest(), workspace)
    model = workspace.model(workspace.need(Latents).spec.setting)
    expected = torch.cat(list(tabulate(model.time_path(), table.timesteps()).values()), dim=1)
    torch.testing.assert_close(table.features().values, expected, rtol=0, atol=0)
    assert table.facts.rows == len(table.timesteps()) == 3
    assert workspace.need(TimeTable).ref == table.ref


def test_a_dry_run_tells_the_rows_and_stores_nothing(workspace, sdquant):
    plan = json.loads(sdquant("precalc-time", "--dry-run", "--json").stdout)
    assert plan == {"stage": "precalc-time", "plan": {"rows": 3}}
    assert workspace.latest(TimeTable) is None


def test_another_schedule_than_that_of_the_latents_is_refused(workspace):
    with pytest.raises(UsageProblem, match=r"--steps 4: latents/.* was made with 3"):
        precalc_time.run(PrecalcTimeRequest(steps=4), workspace)
