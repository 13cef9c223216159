from pathlib import Path

import pytest

from sdquant_cli.calibration.method_requests import RANKED_LATENTS, method_requests
from sdquant_cli.calibration.recipes.published import METHODS
from sdquant_cli.errors import UsageProblem
from sdquant_cli.options.requests import LeaderboardRequest


def rows(steps=50, **fields):
    return method_requests(LeaderboardRequest(prompts=Path("p.txt"), **fields), steps)


def test_rows_are_by_bits_then_by_method_without_repeats():
    names = [row.name for row in rows(methods=("pqd", "rtn", "pqd"), bits=("w8a8", "w4a8", "w8a8"))]
    assert names == ["pqd w8a8", "rtn w8a8", "pqd w4a8", "rtn w4a8"]
    assert len(rows(bits=("w8a8",))) == len(METHODS)


def test_each_method_samples_as_it_was_published_within_the_steps():
    for steps in (3, 50):
        for row in rows(steps, bits=("w8a8",), scheduler="ddim"):
            data = METHODS[row.calibrate.method].data
            assert row.sample.per_prompt == min(data.per_prompt, steps)
            assert row.sample.limit == data.prompts
            assert row.sample.scheduler == "ddim"
            assert row.calibrate.mixed == METHODS[row.calibrate.method].mixed


def test_iterations_and_rankings_are_for_methods_that_use_them():
    ours, nearest = rows(methods=("serial-to-parallel", "rtn"), bits=("w4a8",), iterations=7)
    assert (ours.calibrate.iterations, nearest.calibrate.iterations) == (7, None)
    assert ours.sensitivity.limit == RANKED_LATENTS
    assert ours.stages == ["sample", "sensitivity", "calibrate", "generate", "evaluate"]
    assert nearest.sensitivity is None
    assert nearest.stages == ["sample", "calibrate", "generate", "evaluate"]


def test_unknown_methods_are_refused():
    with pytest.raises(UsageProblem, match="--methods nobody: expected all or some of"):
        rows(methods=("rtn", "nobody"))
