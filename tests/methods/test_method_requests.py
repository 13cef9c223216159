from pathlib import Path

import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.methods.method_requests import RANKED_LATENTS, method_requests
from sdquant_cli.methods.published import METHODS
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


def test_options_about_numbers_apply_to_every_row():
    shared = {"mixed": False, "activations": "token", "group_size": 16, "budget": "4.5", "smoothing": True}
    for row in rows(methods=("rtn", "pcr", "serial-to-parallel"), bits=("w4a8",), **shared):
        if row.refused is None:
            assert row.calibrate.model_dump().items() >= {**shared, "activations": "token"}.items()
            assert row.sensitivity.measure == "sqnr"
        else:
            assert row.calibrate.method == "pcr"


def test_without_them_each_method_has_its_own():
    for row in rows(bits=("w4a8",)):
        assert row.calibrate.mixed == METHODS[row.calibrate.method].mixed
        assert row.calibrate.activations is None
        assert row.refused is None


def test_a_row_that_cannot_have_them_is_refused_and_the_others_are_not():
    nearest, single = rows(methods=("rtn", "eda-dm"), bits=("w4a8",), relax="last")
    assert nearest.refused is None
    assert single.refused == "--relax: has no effect with --tables single; it widens the rows of single steps"


def test_a_row_may_have_options_of_its_own():
    methods = ("serial", "serial --train low-rank --rank 8 --no-mixed", "serial --guided-weight 1")
    plain, low_rank, guided = rows(methods=methods, bits=("w4a8",), mixed=True)
    assert (plain.calibrate.mixed, low_rank.calibrate.mixed) == (True, False)
    assert (low_rank.calibrate.train, low_rank.calibrate.rank) == ("low-rank", 8)
    assert guided.calibrate.guided_weight == 1
    assert guided.name == "serial --guided-weight 1 w4a8"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("serial --speed 3", "--methods serial --speed 3: --speed is no option of calibrate for a row"),
        ("serial --bits w8a8", "--bits is no option of calibrate for a row"),
        ("serial --no-rank", "--no-rank is no option of calibrate for a row"),
        ("serial --rank", "--methods serial --rank: --rank needs a value"),
        ("serial --rank many", "--methods serial --rank many: --rank many: "),
        ("rtn --train steps", "--train: is not supported by --method rtn"),
        ("serial 'low", "--methods serial 'low: No closing quotation"),
    ],
)
def test_options_of_a_row_that_cannot_be_are_one_line(row, line):
    with pytest.raises(UsageProblem) as told:
        rows(methods=(row,), bits=("w4a8",))
    assert line in str(told.value)


def test_calibrations_count_their_seeds_from_those_that_a_row_has():
    usual, other = rows(methods=("serial", "serial --seed 7"), bits=("w4a8",))
    for row, first in ((usual, 0), (other, 7)):
        for seed in (0, 2):
            requests = row.of_calibration(seed)
            assert (requests.sample.seed, requests.calibrate.seed) == (seed, first + seed)
