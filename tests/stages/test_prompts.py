"""The prompts that each command takes of a file."""

import pytest

from sdquant_cli.artifacts.prompts import Prompts
from sdquant_cli.methods.method_requests import method_requests
from sdquant_cli.options.requests import LeaderboardRequest, SampleRequest
from sdquant_cli.prompts import read_prompts

TITLES = tuple(f"a big red circle, {i}" for i in range(6))
SHUFFLED = tuple(TITLES[i] for i in (5, 0, 3, 2, 1, 4))  # by seed 0
TAKEN = ("--column", "title", "--shuffle", 0, "--limit", 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id;title\n" + "".join(f"{i};{title}\n" for i, title in enumerate(TITLES)))
    return path


def test_sample_and_generate_take_the_same_prompts_of_a_shuffle(sdquant, file):
    assert read_prompts(file, column="title", shuffle=0).prompts == SHUFFLED
    sdquant("sample", "--prompts", file, *TAKEN, "--steps", 2)
    sdquant("generate", "--model", "fp", "--prompts", file, *TAKEN)
    workspace = sdquant.workspace()
    for name in ("latents", "images"):
        prompts = workspace.input(Prompts, workspace.store.resolve(name), "prompts")
        assert tuple(prompts.texts()) == SHUFFLED[:2]


def test_a_leaderboard_passes_on_how_its_files_are_read(file):
    request = LeaderboardRequest(
        prompts=file, column="title", test_prompts=file, test_column="id", shuffle=3, methods=("rtn",)
    )
    for row in method_requests(request, steps=4):
        assert (row.sample.prompts, row.sample.column, row.sample.shuffle) == (file, "title", 3)
        assert (row.generate.prompts, row.generate.column, row.generate.shuffle) == (file, "id", 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sample", "--prompts", "FILE"), "--prompts FILE: the first line names no column"),
        (("sample", "--prompts", "FILE", "--column", "x"), "--prompts FILE: has no column x (--column)"),
        (("sample", "--prompts", "FILE", "--shuffle", -1), "--shuffle -1"),
        (("generate", "--model", "fp", "--column", "x"), "--column x: requires --prompts"),
        (("leaderboard", "--prompts", "FILE"), "--prompts FILE: the first line names no column"),
        (
            ("leaderboard", "--prompts", "FILE", "--column", "title", "--test-prompts", "FILE"),
            "--test-prompts FILE: the first line names no column",
        ),
        (
            ("leaderboard", "--prompts", "FILE", "--column", "title", "--test-column", "x"),
            "--test-column x: needs --test-prompts",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(sdquant, file, words, says):
    words = [str(file) if word == "FILE" else word for word in words]
    lines = [line for line in sdquant(*words, code=2).stderr.splitlines() if line.startswith("sdquant: ")]
    assert len(lines) == 1
    assert says.replace("FILE", str(file)) in lines[0]


def test_a_configuration_file_may_write_a_column_as_a_number(file):
    assert SampleRequest(prompts=file, column=2).column == "2"
    assert SampleRequest(prompts=file).column is None
