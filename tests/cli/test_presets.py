"""What a user types wins over a preset, whatever the value."""

import json

import pytest

from sdquant_cli.artifacts.workspace import Plan
from sdquant_cli.types import Relax, Scheduler
from tests.conftest import PROMPTS, Sdquant

SAMPLE = ("sample", "--prompts", PROMPTS / "shapes-train.txt", "--preset", "paper-sd14", "--dry-run")
CALIBRATE = ("calibrate", "--preset", "paper-sd14", "--dry-run")


@pytest.fixture
def request_of(sdquant, monkeypatch):
    """The request that a command line comes to."""

    def parse(words):
        requests = []

        def plan(request, workspace):
            requests.append(request)
            return Plan(words[0])

        monkeypatch.setattr(f"sdquant_cli.stages.{words[0]}.plan", plan)
        sdquant(*words)
        return requests[0]

    return parse


def test_a_preset_alone(request_of):
    request = request_of(SAMPLE)
    assert (request.guidance_scale, request.steps, request.scheduler) == (7.5, 50, Scheduler.PNDM)
    assert request.model == "CompVis/stable-diffusion-v1-4"
    request = request_of(CALIBRATE)
    assert (request.mixed, request.relax, request.iterations) == (True, Relax.NONE, 10_000)
    assert (request.edges, request.checkpointing) == ("none", True)
    assert request_of(("sensitivity", "--preset", "paper-sdxl", "--dry-run")).limit == 256
    assert request_of(("generate", "--preset", "paper-sdxl", "--dry-run")).limit == 5_000


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ((*SAMPLE, "--guidance-scale", 0), "guidance_scale", 0.0),
        ((*SAMPLE, "--guidance-scale", 7.5), "guidance_scale", 7.5),
        ((*SAMPLE, "--model", "shapes"), "model", "shapes"),
        ((*SAMPLE, "--limit", 1), "limit", 1),
        ((*CALIBRATE, "--no-mixed"), "mixed", False),
        ((*CALIBRATE, "--edges", "w8a8"), "edges", "w8a8"),
        ((*CALIBRATE, "--no-checkpointing"), "checkpointing", False),
        ((*CALIBRATE, "--forwards", 1000), "iterations", None),
        ((*CALIBRATE, "--iterations", 0), "iterations", 0),
        (("sensitivity", "--preset", "paper-sd14", "--ranking", "r.txt", "--dry-run"), "limit", None),
        (("generate", "--preset", "paper-sd14", "--limit", 3, "--dry-run"), "limit", 3),
        ((*CALIBRATE, "--relax", "last"), "relax", Relax.LAST),
    ],
    ids=lambda value: " ".join(map(str, value[4:])) if isinstance(value, tuple) else None,
)
def test_a_typed_flag_wins(request_of, words, name, value):
    assert getattr(request_of(words), name) == value


def test_an_option_of_the_preset_that_does_not_go_with_a_typed_one_is_named(sdquant):
    words = ("--method", "rtn", "--dry-run")
    refused = sdquant("calibrate", "--preset", "paper-sd14", *words, code=2).stderr
    assert refused.startswith("sdquant: --iterations: is not supported by --method rtn (supported by: ")
    assert refused.endswith("); --preset paper-sd14 sets --iterations; change one of them\n")
    typed = sdquant("calibrate", "--preset", "paper-sd14", "--accumulate", 2, *words, code=2).stderr
    assert "--preset" not in sdquant("calibrate", "--accumulate", 2, *words, code=2).stderr
    assert "--iterations" in typed


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A store with latents of the embedded model and their ranking."""
    sdquant = Sdquant(tmp_path_factory.mktemp("presets") / "store")
    sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", "--limit", 2, "--steps", 2)
    sdquant("sensitivity")
    return sdquant


def test_the_rows_with_and_without_mixed_precision(shapes):
    """The paper's rows 4.02/8.35 and 4/8: in the second all layers have the same bits."""
    words = ("--preset", "paper-sd14", "--iterations", 1, "--batch-size", 1, "--json")
    states = {}
    for mixed in ("--mixed", "--no-mixed"):
        states[mixed] = json.loads(shapes("calibrate", *words, mixed).stdout)
    assert states["--mixed"]["facts"]["bits"] != {}
    assert states["--no-mixed"]["facts"]["bits"] == {}
    for state in states.values():
        assert (state["spec"]["bits"], state["spec"]["edges"], state["spec"]["loss"]["sensitive"]) == (
            "w4a8",
            None,
            1.0,
        )
