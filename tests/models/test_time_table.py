import copy

import pytest
import torch

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.models.time_table import run_on_table, tabulate
from sdquant_cli.quant.rows import Rows
from tests import fakes


def test_pndm_50_makes_51_calls_over_50_rows():
    schedule = schedule_of(fakes.sampler())
    assert len(schedule.calls) == 51
    assert len(schedule.timesteps) == 50
    assert schedule.rows[:4] == (0, 1, 1, 2)
    assert schedule.calls[1] == schedule.calls[2]


@pytest.mark.parametrize("name", ["pndm", "ddim", "euler", "euler-ancestral", "dpm++", "unipc", "lcm"])
def test_the_unet_on_the_table_equals_the_original(embedded_unet, name):
    schedule = schedule_of(fakes.sampler(name, 7))
    table = tabulate(embedded_unet, schedule.timesteps)
    assert len(table) == 22
    lean = copy.deepcopy(embedded_unet)
    rows = Rows(schedule.timesteps)
    run_on_table(lean, table, rows)
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in embedded_unet.parameters())
    assert not any("time_emb" in key and key.endswith("weight") for key in lean.state_dict())
    x = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(3, 32, 96, generator=torch.Generator().manual_seed(1))
    mixed = torch.tensor([schedule.timesteps[i] for i in (5, 0, 3)])
    with torch.no_grad():
        for t in (torch.tensor(schedule.calls[1]), mixed):
            torch.testing.assert_close(
                lean(x, t, text).sample, embedded_unet(x, t, text).sample, atol=1e-5, rtol=1e-5
            )
        with pytest.raises(UsageProblem, match="not among the"):
            lean(x, 12345, text)


def test_steps_out_of_range_are_refused():
    with pytest.raises(UsageProblem, match="--steps 0"):
        fakes.sampler(steps=0)
