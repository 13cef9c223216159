"""`calibrate` unit by unit and step by step: what is stored, resumed and refused."""

import json

import pytest
import torch

from sdquant_cli.calibration.activation_cache import TensorPool
from sdquant_cli.calibration.reconstruction import Reconstruction
from sdquant_cli.errors import SdquantError
from sdquant_cli.report.reproduce import spec_flags
from tests.conftest import Sdquant

SHORT = ("--iterations", 2)
UNITS, LAYERS, SHORTCUTS = 24, 73, 4  # of the tiny UNet; a split shortcut is one layer more


def latents_of(folder, model):
    """Return a store with the latents of two prompts at two of three steps."""
    sdquant = Sdquant(folder / "store")
    prompts = sdquant.store.parent / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    sdquant("sample", "--prompts", prompts, "--model", model, "--steps", 3, "--per-prompt", 2)
    return sdquant


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny):
    """Latents of a tiny SD v1 of two blocks."""
    return latents_of(tmp_path_factory.mktemp("reconstruct"), tiny("sd-v1-4/two-blocks"))


def calibrated(sdquant, *words):
    return json.loads(sdquant("calibrate", *words, "--json").stdout)


@pytest.mark.parametrize("method", ["eda-dm", "pqd", "q-diffusion", "ptq4dm", "pcr"])
def test_every_method_publishes_its_choices_and_what_units_came_to(sampled, method):
    state = calibrated(sampled, "--method", method, *SHORT)
    spec, facts = state["spec"], state["facts"]
    assert spec["method"] == method
    assert spec["train"] is None
    assert spec["reconstruct"]["layer_weight"] == (0.8 if method == "eda-dm" else 0)
    assert spec["split_shortcuts"] == (True if method == "q-diffusion" else None)
    assert spec["relax"] == ("last" if method == "pcr" else None)
    ends = 2 * (method == "pcr")  # stay in floating point
    assert len(facts["units"]) == UNITS - ends
    assert sum(unit["layers"] for unit in facts["units"]) == facts["layers"]  # each in one unit
    assert facts["forwards"] > UNITS
    split = SHORTCUTS if method == "q-diffusion" else 0
    assert facts["layers"] == LAYERS + split - ends
    prompts = sampled.store.parent / "prompts.txt"
    sampled("generate", "--prompts", prompts)
    simulated = {"q-diffusion": "--split-shortcuts"}.get(method)
    words = ("generate", "--prompts", prompts, "--engine", "dequantized")
    told = sampled(*words, code=2 if simulated else 0).stderr
    assert simulated is None or f"was made with {simulated}, which only" in told


def test_ptq4dm_without_iterations_is_ranges_alone(sampled):
    told = sampled("calibrate", "--method", "ptq4dm", "--iterations", 0, "--json")
    assert (
        "ptq4dm asks for latents of `sdquant sample --select normal`; these were selected by random"
        in told.stderr
    )
    state = json.loads(told.stdout)
    assert state["spec"]["reconstruct"] is None
    assert state["facts"]["bits"] == {"conv_in": "w8a8", "conv_out": "w8a8"}
    refused = sampled("calibrate", "--method", "rtn", "--drop", 0.5, code=2).stderr
    others = "eda-dm, pqd, q-diffusion, ptq4dm, pcr"
    assert f"--drop: is not supported by --method rtn (supported by: {others})" in refused


def test_rounding_is_learned_within_one_step_of_the_weight(sampled):
    rounded = calibrated(sampled, "--method", "rtn", "--tables", "single")
    words = ("--method", "eda-dm", "--iterations", 30, "--batch-size", 2)
    learned = calibrated(sampled, *words)
    first, second = (sampled.opened().resolve(f"quant-state/{s['key']}") for s in (rounded, learned))
    moved = first.read("codes").astype(int) - second.read("codes").astype(int)
    ends = first.read("codes_offset")[[1, -2]]  # the edges have other grids
    between = moved[ends[0] : ends[1]]
    assert abs(between).max() == 1
    assert 0 < (between != 0).mean() < 0.5


@pytest.mark.parametrize("words", [("eda-dm", "--branch-rank", 1, "--smoothing"), ("pcr",)])
def test_an_interrupted_reconstruction_resumes_to_the_same_bytes(sampled, monkeypatch, words):
    words = ("--method", *words, *SHORT, "--seed", 7)
    whole = calibrated(sampled, *words)
    sampled("rm", f"quant-state/{whole['key']}", "--force")
    fitted, fit = [], Reconstruction.fit

    def until_the_fifth(self, block, phase, index, total):
        if len(fitted) == 5:
            raise SdquantError("interrupted")
        fitted.append(index)
        return fit(self, block, phase, index, total)

    with monkeypatch.context() as patch:
        patch.setattr(Reconstruction, "fit", until_the_fifth)
        sampled("calibrate", *words, code=1)
    again = calibrated(sampled, *words)
    assert again["digest"] == whole["digest"]
    assert again["facts"]["forwards"] == pytest.approx(whole["facts"]["forwards"])


def test_a_bound_on_memory_decides_no_content(sampled):
    words = ("--method", "pqd", *SHORT, "--seed", 3)
    first = calibrated(sampled, *words)
    sampled("rm", f"quant-state/{first['key']}", "--force")
    second = calibrated(sampled, *words, "--cache-memory", 0)
    assert (first["key"], first["digest"]) == (second["key"], second["digest"])


def test_a_block_that_does_not_run_alone_falls_back_to_its_layers(sampled, monkeypatch):
    alone = Reconstruction.runs_alone
    stubborn = "mid_block.resnets.0"
    monkeypatch.setattr(
        Reconstruction, "runs_alone", lambda self, name: name != stubborn and alone(self, name)
    )
    told = sampled("calibrate", "--method", "pqd", *SHORT, "--seed", 4, "--json")
    assert f"{stubborn} cannot be reconstructed as a block" in told.stderr
    names = [unit["name"] for unit in json.loads(told.stdout)["facts"]["units"]]
    assert f"{stubborn}.conv1" in names
    assert stubborn not in names


def test_a_block_that_answers_otherwise_alone_is_noticed(sampled, monkeypatch):
    """A block that draws on something beside its arguments."""
    from diffusers.models.resnet import ResnetBlock2D

    forward, calls = ResnetBlock2D.forward, []

    def moody(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs) + len(calls)

    monkeypatch.setattr(ResnetBlock2D, "forward", moody)
    told = sampled("calibrate", "--method", "pqd", *SHORT, "--seed", 5).stderr
    assert "down_blocks.0.resnets.0 cannot be reconstructed as a block" in told


def test_a_unit_that_diverges_is_named(sampled, monkeypatch):
    from sdquant_cli.calibration.block_optimizer import BlockOptimizer

    monkeypatch.setattr(
        BlockOptimizer, "_loss", lambda self, item, progress: torch.tensor(float("nan"), requires_grad=True)
    )
    told = sampled("calibrate", "--method", "eda-dm", *SHORT, "--seed", 6, code=1).stderr
    assert "reconstruction diverged in conv_in at iteration 0" in told


def test_progressive_tables_and_relaxed_steps_go_with_any_method(sampled):
    state = calibrated(sampled, "--method", "rtn", "--tables", "progressive", "--relax", "first")
    assert state["spec"]["tables"] == "progressive"
    plain = calibrated(sampled, "--method", "rtn")
    first, second = (sampled.opened().resolve(f"quant-state/{s['key']}") for s in (state, plain))
    assert (first.read("activation_step") != second.read("activation_step")).any()
    told = sampled("calibrate", "--method", "rtn", "--tables", "single", "--relax", "last", code=2).stderr
    assert "--relax: has no effect with --tables single" in told


def test_a_split_network_is_trained_as_a_whole_too(sampled):
    words = ("--iterations", 2, "--batch-size", 2, "--split-shortcuts")
    state = calibrated(sampled, *words)
    assert state["facts"]["layers"] == LAYERS + SHORTCUTS
    refused = sampled("export", "--output", sampled.store.parent / "exported", code=2).stderr
    assert "--split-shortcuts, which only `generate --engine simulated` computes" in refused


def test_units_are_the_same_whether_reached_from_what_is_around_them_or_from_the_start(
    tmp_path, tiny, monkeypatch
):
    """Running a block alone saves what is before it and changes nothing."""
    sampled = latents_of(tmp_path, tiny("sd-v1-4"))
    words = ("--method", "eda-dm", *SHORT, "--seed", 8)
    first = calibrated(sampled, *words)
    sampled("rm", f"quant-state/{first['key']}", "--force")
    alone, tried = Reconstruction.runs_alone, []
    roots = ("mid_block", "down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1")

    def not_roots(self, name):
        tried.append(name)
        transformer = name.rpartition(".")[0].endswith("attentions")
        return name not in roots and not transformer and alone(self, name)

    monkeypatch.setattr(Reconstruction, "runs_alone", not_roots)
    second = calibrated(sampled, *words)
    assert set(roots) < set(tried)
    assert second["digest"] == first["digest"]
    assert second["facts"]["forwards"] > 1.3 * first["facts"]["forwards"]


def test_a_dry_run_tells_what_reconstruction_takes(sampled):
    plan = json.loads(sampled("calibrate", "--method", "pqd", "--dry-run", "--json").stdout)["plan"]
    assert plan["losses"] == "blocks"
    assert plan["iterations"] == 1000
    assert plan["seconds, roughly"] > 0
    assert plan["peak memory without the cache, bytes"] > 10**8


def test_a_dry_run_tells_what_is_captured(sampled, monkeypatch):
    words = ("calibrate", "--method", "pqd", *SHORT)
    told, none_in_memory = (
        json.loads(sampled(*words, "--cache-memory", gigabytes, "--dry-run", "--json").stdout)["plan"]
        for gigabytes in (4, 0)
    )
    room_left = []

    class Watched(TensorPool):
        def tensor(self, shape, dtype):
            captured = super().tensor(shape, dtype)
            room_left.append(self.bytes)
            return captured

    monkeypatch.setattr("sdquant_cli.calibration.phases.reconstruct.TensorPool", Watched)
    sampled(*words, "--seed", 11)
    assert told["cache, bytes"] == pytest.approx(4e9 - min(room_left), rel=0.05)
    assert told["scratch, bytes, roughly"] == 0
    assert none_in_memory["scratch, bytes, roughly"] == told["cache, bytes"]


@pytest.mark.parametrize("method", ["eda-dm", "q-diffusion", "pcr"])
def test_a_report_shows_how_near_each_unit_came(sampled, tmp_path, method):
    """Whatever its tables, shortcuts and grids are."""
    sampled("calibrate", "--method", method, *SHORT)
    sampled("generate", "--prompts", sampled.store.parent / "prompts.txt")
    sampled("evaluate", "--against", "fp", "--no-floor")
    sampled("report", "--output", tmp_path / "report.html")
    told = (tmp_path / "report.html").read_text()
    assert "blocks in the order in which they run, after reconstruction" in told
    assert "without training" not in told
    assert ("conv_shortcut.skipped" in told) == (method == "q-diffusion")


@pytest.mark.parametrize("method", ["eda-dm", "q-diffusion", "ptq4dm", "pcr"])
def test_the_commands_of_a_state_make_its_spec_again(sampled, method):
    without = {"q-diffusion": ("--no-split-shortcuts",), "pcr": ("--relax", "none")}.get(method, ())
    state = calibrated(sampled, "--method", method, *SHORT, *without)
    told, unset = spec_flags(sampled.opened().resolve(f"quant-state/{state['key']}").spec)
    assert unset == []
    assert calibrated(sampled, *told)["key"] == state["key"]


def test_attention_is_rounded_and_learned_with_its_block(sampled):
    words = ("--method", "eda-dm", "--attention-bits", 8, "--seed", 9)
    before = calibrated(sampled, *words, "--iterations", 0)
    after = calibrated(sampled, *words, "--iterations", 2, "--step-rate", 1e-2)
    first, second = (sampled.opened().resolve(f"quant-state/{s['key']}") for s in (before, after))
    start = first.read("activation_step_offset")[LAYERS]  # places come after the layers
    learned = first.read("activation_step")[start:] != second.read("activation_step")[start:]
    assert learned.mean() > 0.9
