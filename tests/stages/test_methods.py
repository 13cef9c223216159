"""`calibrate` with every method and option that changes what is stored, on a tiny model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sdquant_cli.artifacts.latents import Latents, load_items
from sdquant_cli.artifacts.quant_state import QuantState, quantized_denoiser
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.calibration import phases
from sdquant_cli.models.conditioning import predict
from sdquant_cli.resources import predicted
from tests.conftest import PROMPTS, Sdquant

TRAIN = PROMPTS / "shapes-train.txt"
SHORT = ("--iterations", 2, "--batch-size", 2)
DRAW = ("generate", "--prompts", TRAIN, "--limit", 1)
STEPS = 3
LAYERS, TEXT_FED, PLACES = 73, 8, 32  # of the tiny UNet, and of its attention


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny):
    """A store with the latents of four prompts at three steps."""
    sdquant = Sdquant(tmp_path_factory.mktemp("methods") / "store")
    words = ("--limit", 4, "--steps", STEPS, "--per-prompt", 2, "--model", tiny("sd-v1-4/two-blocks"))
    sdquant("sample", "--prompts", TRAIN, *words)
    sdquant("sensitivity", "--limit", 2)
    return sdquant


def calibrated(sdquant, *words):
    return json.loads(sdquant("calibrate", *words, "--json").stdout)


@pytest.mark.parametrize(
    ("method", "loss", "ends"),
    [
        ("serial-to-parallel", {"output": None, "sensitive": 1, "blocks": 1, "guided": 0}, "w8a16"),
        ("serial", {"output": 0, "sensitive": 0, "blocks": 0, "guided": 1}, "w8a8"),
        ("parallel", {"output": None, "sensitive": 1, "blocks": 1, "guided": 0}, None),
    ],
)
def test_every_trained_method_publishes_what_it_did(sampled, method, loss, ends):
    state = calibrated(sampled, "--method", method, *SHORT)
    assert state["spec"]["method"] == method
    assert state["spec"]["loss"] == loss
    assert len(state["facts"]["losses"]) == 1
    assert state["facts"]["bits"] == (dict.fromkeys(("conv_in", "conv_out"), ends) if ends else {})
    assert ("pictures" in state["inputs"]) == (method == "parallel")


def test_where_a_ranking_decides_the_first_and_the_last_layer_are_as_any_other(sampled):
    for method, bits in (("serial-to-parallel", "w8a16"), ("ptq4dm", "w8a8")):
        words = ("--method", method, "--iterations", 0)
        free = calibrated(sampled, *words)
        ranked = calibrated(sampled, *words, "--mixed")
        assert (free["spec"].get("edges"), ranked["spec"].get("edges")) == (bits, None)


@pytest.mark.parametrize(
    "words",
    [
        ("--edges", "float", "--bits", "w8a8", "--smoothing", "--branch-rank", 1),
        ("--edges", "float", "--activations", "per-step"),
        ("--edges", "float", "--method", "eda-dm", "--split-shortcuts"),
    ],
)
def test_the_first_and_the_last_layer_can_stay_in_floating_point(sampled, tmp_path, words):
    state = calibrated(sampled, *words, *SHORT)
    assert state["facts"]["bits"] == {"conv_in": "w32a32", "conv_out": "w32a32"}
    usual, total = int(state["spec"]["bits"][1]), state["facts"]["layers"] + 2
    average = state["facts"]["average_bits"]["weights, by layers"]
    assert average == pytest.approx(usual + 2 * (32 - usual) / total)
    packs = "--split-shortcuts" not in words
    assert (total == LAYERS) == packs
    workspace = sampled.workspace()
    stored = workspace.need(QuantState)
    network = quantized_denoiser(workspace, stored, stored.facts.setting)
    plain = workspace.model(stored.facts.setting).tensors({"conv_in.weight", "conv_out.weight"})
    for name, weight in plain.items():
        assert torch.equal(network.get_parameter(name), weight)
    drawn = []
    for engine in ("simulated", "auto") if packs else ("simulated",):
        images = json.loads(sampled(*DRAW, "--engine", engine, "--json").stdout)
        drawn.append(sampled.opened().resolve(f"images/{images['key']}").read("image").astype(int))
    assert np.abs(drawn[0] - drawn[-1]).mean() < 1
    if packs:
        sampled("export", "--output", tmp_path / "out")
        sampled("verify", tmp_path / "out")


def test_rtn_has_nothing_trained_and_its_tables_and_ranges_count(sampled):
    keys = set()
    for words in ([], ["--tables", "single"], ["--ranges", "min-max"], ["--time-path", "quantized"]):
        state = calibrated(sampled, "--method", "rtn", *words)
        assert state["spec"]["train"] is None
        assert "sensitivity" not in state["inputs"]  # there is a ranking, without a use
        assert state["facts"]["losses"] == []
        keys.add(state["key"])
        size = state["arrays"]["activation_step"]["shape"][0]
        assert size == (LAYERS if "single" in words else TEXT_FED + (LAYERS - TEXT_FED) * STEPS)
    assert len(keys) == 4
    sampled(*DRAW)  # a state on a rounded time path draws too


def test_rounded_attention_is_part_of_the_state_and_of_what_is_drawn(sampled, monkeypatch, tmp_path):
    students, capture = [], phases.capture
    monkeypatch.setattr(phases, "capture", lambda net, bits: students.append(net) or capture(net, bits))
    plain = calibrated(sampled, "--method", "rtn")
    before = json.loads(sampled(*DRAW, "--json").stdout)
    words = ("--method", "rtn", "--attention-bits", 8, "--softmax-bits", 16)
    made = calibrated(sampled, *words)
    assert (made["spec"]["attention_bits"], made["spec"]["softmax_bits"]) == (8, 16)
    for fact in ("layers", "average_bits", "bits"):
        assert made["facts"][fact] == plain["facts"][fact]
    assert made["arrays"]["codes"] == plain["arrays"]["codes"]
    after = json.loads(sampled(*DRAW, "--json").stdout)
    assert after["digest"] != before["digest"]

    workspace = sampled.workspace()
    state = workspace.need(QuantState)
    network = quantized_denoiser(workspace, state, state.facts.setting)
    latents, table = (
        workspace.input(*role) for role in ((Latents, state, "latents"), (TimeTable, state, "time-table"))
    )
    items = load_items(workspace, latents, table)
    batch = items.batch([0, 3], torch.device("cpu"))
    with torch.no_grad():
        outputs = [predict(n, batch.x, batch.timestep, batch.conditioning) for n in (students[-1], network)]
    torch.testing.assert_close(*outputs)

    needs = []
    monkeypatch.setattr(predicted, "_resident", lambda: 0)
    for more in ([], ["--attention-bits", 8]):
        planned = json.loads(sampled("calibrate", *more, "--dry-run", "--json").stdout)["plan"]
        needs.append(planned["peak memory, bytes"])
    assert needs[1] > 1.1 * needs[0]

    for line in (
        (*DRAW, "--engine", "dequantized"),
        ("export", "--output", tmp_path / "out"),
        ("bench",),
    ):
        told = sampled(*line, code=2).stderr
        assert f"quant-state/{made['key']} was made with --attention-bits 8, which only" in told


def test_step_sizes_of_attention_are_trained_and_softmax_has_the_bits_of_the_rest(sampled):
    states = []
    words = ("--activations", "per-step", "--attention-bits", 8, *SHORT)
    for iterations in (0, 2):
        states.append(calibrated(sampled, *words, "--iterations", iterations))
    assert states[0]["spec"]["softmax_bits"] == 8
    steps = [sampled.opened().resolve(f"quant-state/{s['key']}").read("activation_step") for s in states]
    of_layers = TEXT_FED + (LAYERS - TEXT_FED) * STEPS
    assert len(steps[0]) == of_layers + TEXT_FED + (PLACES - TEXT_FED) * STEPS
    assert (steps[0] != steps[1])[of_layers:].mean() > 0.5


def test_scales_found_at_run_time_are_not_stored_and_draw_any_schedule_and_size(sampled):
    words = ("--attention-bits", 8, "--group-size", 8, "--branch-rank", 1, "--smoothing")
    state = calibrated(sampled, *words, *SHORT)
    assert state["spec"]["activations"] == "token"
    assert state["arrays"]["activation_step"]["shape"] == [0]
    assert state["facts"]["average_bits"]["weights with groups and branches, by parameters"] > 5
    other = ("--scheduler", "euler", "--steps", 2, "--height", 32, "--width", 48, "--guidance-scale", 1)
    images = json.loads(sampled(*DRAW, *other, "--json").stdout)
    setting = images["spec"]["setting"]
    assert (setting["scheduler"], setting["steps"], setting["height"], setting["width"]) == (
        "euler",
        2,
        32,
        48,
    )
    told = sampled(*DRAW, "--step-match", "nearest", code=2).stderr
    assert "--step-match nearest: has no effect" in told


CLOSE = 36  # dB: of two pictures whose roundings differ where a value lies between two codes


def drawn_by(sampled, *engines):
    """The pictures (N,H,W,3) of the latest state, by each engine."""
    for engine in engines:
        images = json.loads(sampled(*DRAW, "--engine", engine, "--json").stdout)
        assert images["spec"]["engine"] == engine
        yield sampled.opened().resolve(f"images/{images['key']}").read("image").astype(int)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9))


@pytest.mark.parametrize(
    "words",
    [
        ("--group-size", 8, "--branch-rank", 1, "--smoothing"),
        ("--bits", "w4a8", "--time-path", "quantized"),
    ],
)
def test_packed_weights_of_such_a_state_draw_what_the_simulation_draws(sampled, words, monkeypatch):
    monkeypatch.setattr(
        "sdquant_cli.native.attention.available", lambda dtype: False
    )  # sums in torch's order
    calibrated(sampled, *words, *SHORT)
    simulated, dequantized, integer = drawn_by(sampled, "simulated", "dequantized", "integer")
    assert np.abs(simulated - dequantized).max() <= 1
    assert psnr(simulated, integer) > CLOSE


@pytest.mark.parametrize("words", [("--method", "pcr"), ("--method", "eda-dm"), ("--tables", "progressive")])
def test_smoothed_inputs_have_tables_too(sampled, words):
    state = calibrated(sampled, *words, "--activations", "per-step", "--smoothing", *SHORT)
    assert state["arrays"]["smoothing"]["shape"] != [0]
    simulated, dequantized, integer = drawn_by(sampled, "simulated", "dequantized", "integer")
    assert np.abs(simulated - dequantized).mean() < 1
    assert psnr(simulated, integer) > CLOSE


def test_a_branch_that_would_shrink_no_layer_is_named_and_left_out(sampled):
    told = sampled("calibrate", "--branch-rank", 5000, "--iterations", 0, "--json")
    assert f"--branch-rank 5000: {LAYERS} layers that a branch would not make smaller" in told.stderr
    sampled(*DRAW)


def test_softmax_bits_alone_are_refused(sampled):
    told = sampled("calibrate", "--softmax-bits", 8, code=2).stderr
    assert "--softmax-bits 8: has no effect without --attention-bits" in told


@pytest.mark.parametrize(
    "words",
    [
        ("--train", "steps"),
        ("--train", "low-rank", "--rank", 4),
        ("--checkpointing", "--accumulate", 2),
        ("--teacher-dtype", "bf16", "--amp"),
        ("--block-weight", 1, "--guided-weight", 1, "--averaging", 0.9, "--freezing", 0.1),
    ],
)
def test_every_choice_of_training_runs(sampled, words):
    state = calibrated(sampled, *words, *SHORT)
    assert np.isfinite(state["facts"]["losses"]).all()


def test_checkpointing_decides_memory_and_no_content(sampled):
    words = (*SHORT, "--seed", 4)
    first = calibrated(sampled, *words)
    sampled("rm", f"quant-state/{first['key']}", "--force")
    second = calibrated(sampled, *words, "--checkpointing")
    assert (first["key"], first["digest"]) == (second["key"], second["digest"])


def test_a_folder_of_pictures_stands_in_for_the_models_own(sampled, tmp_path):
    for i in range(3):
        Image.new("RGB", (80, 70), (80 * i, 10, 10)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    words = ("--method", "parallel", "--images", tmp_path, *SHORT)
    first = calibrated(sampled, *words)
    assert len(first["spec"]["pictures"]) == 64
    (tmp_path / "0.txt").write_text("another caption")
    assert calibrated(sampled, *words)["key"] != first["key"]
    (tmp_path / "1.txt").unlink()
    told = sampled("calibrate", *words, code=2).stderr
    assert "1.png has no caption 1.txt" in told


def test_latents_of_another_schedule_are_refused(sampled, monkeypatch):
    """As if the schedule had changed since: rows that were right are not any more."""
    from sdquant_cli.models.schedule import Schedule

    monkeypatch.setattr(Schedule, "rows", property(lambda self: tuple(2 for _ in self.calls)))
    told = sampled("calibrate", "--iterations", 1, "--seed", 9, code=2).stderr
    assert "which pndm with 3 steps does not have" in told
