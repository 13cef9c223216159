"""`sample --select`: latents at other steps than random ones."""

import json

from sdquant_cli.stages.commands import spec_flags


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
    assert "--select normal alone" in said
    assert "--select-mean 2.0" in sample(sdquant, tmp_path, "--select-mean", 2, code=2).stderr
