"""`calibrate --correction`: found on calibration latents, applied by the simulated engine alone."""

import json

import pytest
import torch

from sdquant_cli.artifacts.latents import Latents, load_items
from sdquant_cli.artifacts.quant_state import QuantState, quantized_denoiser
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.calibration.tabulated import tabulated_denoiser
from sdquant_cli.models.conditioning import predict
from sdquant_cli.types import Dtype
from tests.conftest import Sdquant

CPU = torch.device("cpu")
RTN = ("--method", "rtn")
TRAINED = ("--iterations", 8, "--batch-size", 2)  # every item twice: the teacher's answers are remembered


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny):
    sdquant = Sdquant(tmp_path_factory.mktemp("corrected") / "store")
    prompts = sdquant.store.parent / "prompts.txt"
    prompts.write_text("".join(f"a red circle {i}\n" for i in range(4)))
    sdquant(
        "sample", "--prompts", prompts, "--model", tiny("sd-v1-4/two-blocks"), "--steps", 3, "--per-prompt", 2
    )
    return sdquant


def calibrated(sdquant, *words):
    return json.loads(sdquant("calibrate", *words, "--json").stdout)


def drawn(sdquant, *words):
    prompts = sdquant.store.parent / "prompts.txt"
    sdquant("generate", "--prompts", prompts, "--limit", 1, *words)
    return sdquant.opened().resolve("images").read("image")


def mean_errors(sdquant):
    """Of the latest state on its calibration latents, by row and channel."""
    workspace = sdquant.workspace()
    state = workspace.need(QuantState)
    table = workspace.input(TimeTable, state, "time-table")
    items = load_items(workspace, workspace.input(Latents, state, "latents"), table)
    setting = state.facts.setting
    student = quantized_denoiser(workspace, state, setting)
    teacher = tabulated_denoiser(workspace.model(setting), Dtype.FP32, CPU, table.features()).network
    (batch,) = items.batches(len(items), CPU)
    with torch.no_grad():
        outputs = [predict(net, batch.x, batch.timestep, batch.conditioning) for net in (student, teacher)]
    error = outputs[0] - outputs[1]
    return torch.stack([error[batch.row == r].mean((0, 2, 3)) for r in batch.row.unique()]).abs().max()


@pytest.mark.parametrize("words", [RTN, TRAINED, (*RTN, "--time-path", "quantized")])
def test_corrected_outputs_are_right_on_average_and_pictures_differ(sampled, words):
    plain = calibrated(sampled, *words, "--bits", "w3a8")
    uncorrected, before = mean_errors(sampled), drawn(sampled)
    state = calibrated(sampled, *words, "--bits", "w3a8", "--correction")
    assert "correction_slope" not in plain["arrays"]
    assert plain["facts"]["correction_slope"] is None
    assert state["facts"]["correction_slope"] >= 0
    assert state["key"] != plain["key"]
    assert state["facts"]["losses"] == plain["facts"]["losses"]
    if "quantized" not in words:  # otherwise the teacher has another time table
        assert mean_errors(sampled) < 1e-5 < uncorrected
    assert (drawn(sampled) != before).any()
    drawn(sampled, "--scheduler", "ddim", "--steps", 4, "--step-match", "nearest")


def test_what_cannot_apply_it_refuses_in_one_line(sampled, tmp_path):
    calibrated(sampled, *RTN, "--correction")
    prompts = sampled.store.parent / "prompts.txt"
    for engine in ("integer", "dequantized"):
        told = sampled("generate", "--prompts", prompts, "--engine", engine, code=2).stderr
        assert f"--engine {engine}: quant-state/" in told
    drawn = json.loads(sampled("generate", "--prompts", prompts, "--json").stdout)
    assert drawn["spec"]["engine"] == "simulated"  # what --engine auto does where no integers are computed
    assert "export: quant-state/" in sampled("export", "--output", tmp_path / "out", code=2).stderr
    assert "bench: quant-state/" in sampled("bench", code=2).stderr
    assert not (tmp_path / "out").exists()
