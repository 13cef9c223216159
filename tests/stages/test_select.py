"""`sample --select`: latents at other steps than random ones."""

import json

import pytest
import torch

from sdquant_cli.calibration.selection import pilot
from sdquant_cli.errors import SdquantError
from sdquant_cli.models.load import find_model
from sdquant_cli.report.reproduce import spec_flags
from sdquant_cli.stages import sample as stage


def sample(sdquant, tmp_path, *words, **more):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a red circle {i}\n" for i in range(6)))
    return sdquant("sample", "--prompts", prompts, "--scheduler", "ddim", "--steps", 5, *words, **more)


def test_steps_are_taken_as_asked_and_the_artifact_says_so(sdquant, tmp_path, tiny):
    model = ("--model", tiny("sd-v1-4"))
    plain = json.loads(sample(sdquant, tmp_path, *model, "--json").stdout)
    assert plain["spec"]["select"] is None
    made = json.loads(sample(sdquant, tmp_path, *model, "--select", "stride", "--json").stdout)
    assert made["spec"]["select"]["rule"] == "stride"
    latents = sdquant.opened().resolve("latents")
    assert latents.read("call").tolist() == [0, 1, 2, 3, 4, 0]
    near = ("--select", "normal", "--select-mean", 0, "--select-deviation", 0.01)
    sample(sdquant, tmp_path, *model, *near)
    latents = sdquant.opened().resolve("latents")
    assert latents.read("call").tolist() == [4] * 6
    words, unset = spec_flags(latents.spec)
    assert " ".join(words[-6:]) == "--select normal --select-mean 0.0 --select-deviation 0.01"
    assert not unset


def test_a_mean_without_meaning_is_refused(sdquant, tmp_path):
    said = sample(sdquant, tmp_path, "--select-mean", 0.2, code=2).stderr
    assert "requires --select normal" in said
    assert "--select-mean 2.0" in sample(sdquant, tmp_path, "--select-mean", 2, code=2).stderr


@pytest.mark.parametrize(("name", "scheduler"), [("sd-v1-4", "ddim"), ("sd3-medium", "flow-euler")])
def test_density_takes_one_latent_of_each_prompt_and_resumes_to_the_same(
    sdquant, tmp_path, tiny, monkeypatch, name, scheduler
):
    words = ("--model", tiny(name), "--scheduler", scheduler, "--select", "density")
    monkeypatch.setattr(stage, "LATENTS_PER_UNIT", 2)
    whole = json.loads(sample(sdquant, tmp_path, *words, "--json").stdout)
    latents = sdquant.opened().resolve("latents")
    assert latents.read("prompt_index").tolist() == list(range(6))
    call = latents.read("call")
    assert set(call.tolist()) <= set(range(5))
    assert whole["facts"]["unet_calls"] == 2 * 6 * 5 + sum(2 * 2 * max(two) for two in call.reshape(3, 2))
    found, unset = spec_flags(latents.spec)
    assert " ".join(found[-6:]) == "--select density --select-variety 5.0 --select-radius 0.3"
    assert not unset
    sdquant("rm", "latents", "--force")
    with monkeypatch.context() as patch:
        ordinary, units = stage._sample_batch, []

        def break_down(*given):
            units.append(given)
            if len(units) == 2:
                raise SdquantError("power cut")
            return ordinary(*given)

        patch.setattr(stage, "_sample_batch", break_down)
        sample(sdquant, tmp_path, *words, code=1)
    monkeypatch.setattr(pilot, "_chosen", None)  # a resumed run remembers the pilot's choice
    again = json.loads(sample(sdquant, tmp_path, *words, "--json").stdout)
    assert (again["key"], again["digest"]) == (whole["key"], whole["digest"])
    assert again["facts"] == whole["facts"]


def test_what_the_pilot_compares_is_the_input_of_the_middle_block(tiny):
    network = find_model(str(tiny("sd-v1-4"))).denoiser()
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, network.config.cross_attention_dim)
    with pilot.keeping_inputs(network) as kept:
        network(x, 7, text)
    entered = []
    network.mid_block.resnets[0].register_forward_hook(lambda *call: entered.append(call[2]))
    network(x, 7, text)  # the hook is gone: nothing more is kept
    assert len(kept) == 1
    torch.testing.assert_close(kept[0], entered[0].flatten(2).transpose(1, 2))


def test_steps_that_are_alike_count_the_same(sdquant, tmp_path, tiny):
    """A radius that takes in everything makes densities equal; variety has no weight."""
    even = ("--select-variety", 0, "--select-radius", 1)
    sample(sdquant, tmp_path, "--model", tiny("sd-v1-4"), "--select", "density", *even)
    call = sdquant.opened().resolve("latents").read("call")
    assert sorted(call.tolist()) == [0, 0, 1, 2, 3, 4]  # 6 of 5 steps: the one over goes to the first


def test_a_dry_run_makes_no_pilot(sdquant, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(pilot, "choose", None)
    words = ("--model", tiny("sd-v1-4"), "--select", "density", "--dry-run", "--json")
    plan = json.loads(sample(sdquant, tmp_path, *words).stdout)["plan"]
    assert plan["UNet calls of the pilot"] == 2 * 6 * 5
    assert plan["UNet calls at least, roughly"] == 2 * 6 * 5 + 2 * sum([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--select", "density", "--per-prompt", 2), "--per-prompt 2: --select density takes one"),
        (("--select-radius", 0.5), "--select-radius 0.5: requires --select density"),
        (("--select", "normal", "--select-variety", 1), "--select-variety 1.0: requires --select"),
        (("--select", "density", "--select-mean", 0.5), "--select-mean 0.5: requires --select"),
        (("--select", "density", "--select-radius", 0), "--select-radius 0"),
    ],
)
def test_flags_without_meaning_are_refused(sdquant, tmp_path, words, says):
    assert says in sample(sdquant, tmp_path, *words, code=2).stderr
