"""What a user types wins over a preset, whatever the value."""

import pytest

from sdquant_cli.artifacts.workspace import Plan
from sdquant_cli.types import Relax, Scheduler
from tests.conftest import PROMPTS

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


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ((*SAMPLE, "--guidance-scale", 0), "guidance_scale", 0.0),
        ((*SAMPLE, "--guidance-scale", 7.5), "guidance_scale", 7.5),
        ((*SAMPLE, "--model", "shapes"), "model", "shapes"),
        ((*SAMPLE, "--limit", 1), "limit", 1),
        ((*CALIBRATE, "--no-mixed"), "mixed", False),
        ((*CALIBRATE, "--iterations", 0), "iterations", 0),
        ((*CALIBRATE, "--relax", "last"), "relax", Relax.LAST),
    ],
    ids=lambda value: " ".join(map(str, value[4:])) if isinstance(value, tuple) else None,
)
def test_a_typed_flag_wins(request_of, words, name, value):
    assert getattr(request_of(words), name) == value
