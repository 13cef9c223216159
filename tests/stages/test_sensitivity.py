"""Three measures of one model, and the bits that follow from them."""

import json

import numpy as np
import pytest
import torch

from sdquant_cli.manifests import QuantStateFacts, SensitivityFacts
from sdquant_cli.models.load import find_model
from tests.conftest import PROMPTS, Sdquant

LATENTS = 3
LAYERS, END = 73, 4  # of the tiny UNet, and 5% of them
DIRECT = ("--limit", 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny):
    """A store with all three measures of a tiny SD v1, and the facts of each."""
    sdquant = Sdquant(tmp_path_factory.mktemp("measures") / "store")
    words = ("--limit", LATENTS, "--steps", 3, "--model", tiny("sd-v1-4/two-blocks"))
    sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", *words)
    facts = {}
    for measure in ("printed", "fisher", "sqnr"):
        sdquant("sensitivity", "--measure", measure, *(DIRECT if measure == "sqnr" else ("--micro-batch", 2)))
        facts[measure] = sdquant.opened().resolve("sensitivity").facts
    return sdquant, facts


def test_every_measure_ranks_all_layers_by_its_scores(measured):
    _, all_facts = measured
    for facts in all_facts.values():
        values = [facts.scores[name] for name in facts.ranking]
        assert values == sorted(values, reverse=True)
        assert len(values) == LAYERS
        assert (facts.top, facts.bottom) == (facts.ranking[:END], facts.ranking[-END:])
    assert [facts.samples for facts in all_facts.values()] == [LATENTS, LATENTS, 1]


def test_printed_and_fisher_are_two_readings_of_the_same_terms(measured):
    _, all_facts = measured
    printed, fisher = all_facts["printed"], all_facts["fisher"]
    assert printed.first_order == fisher.first_order
    for name, x in printed.first_order.items():
        assert printed.scores[name] == pytest.approx(abs(x - x * x / 2))
        assert printed.second_order[name] == pytest.approx(x * x / 2)
        assert fisher.second_order[name] == pytest.approx(fisher.scores[name] / 2)
        assert fisher.scores[name] >= x * x * (1 - 1e-9)  # Jensen


def items_of(workspace, artifact):
    """The calibration items that an artifact was made from."""
    from sdquant_cli.artifacts.latents import Latents, load_items
    from sdquant_cli.artifacts.time_table import TimeTable

    return load_items(
        workspace,
        workspace.input(Latents, artifact, "latents"),
        workspace.input(TimeTable, artifact, "time-table"),
    )


def test_the_gradients_are_those_of_the_weights_one_item_at_a_time(measured, tiny):
    """Ordinary weight gradients of the rounded UNet, each item alone, for a few kinds of layer."""
    from sdquant_cli.calibration.sensitivity import round_weights
    from sdquant_cli.types import Bits

    sdquant, _ = measured
    store = sdquant.opened()
    artifact = next(
        a for a in store.artifacts() if a.manifest.kind == "sensitivity" and a.spec.measure == "printed"
    )
    items = items_of(sdquant.workspace(), artifact)
    model = find_model(str(tiny("sd-v1-4/two-blocks")))
    teacher, rounded = model.denoiser(), model.denoiser()
    round_weights(rounded, Bits(4, 8))
    names = list(artifact.facts.scores)
    stored = artifact.read("first_order")
    picked = [names[0], "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "conv_out"]
    for latent in range(LATENTS):
        batch = items.batch([latent], torch.device("cpu"))
        for branch in range(2):
            parts = (batch.x, batch.timestep, batch.conditioning.tokens)
            inputs = [part[branch : branch + 1] for part in parts]
            weights = [rounded.get_submodule(name).weight.requires_grad_() for name in picked]
            loss = (rounded(*inputs).sample - teacher(*inputs).sample).square().mean()
            gradients = torch.autograd.grad(loss, weights)
            for name, weight, gradient in zip(picked, weights, gradients, strict=True):
                expected = (gradient * weight).sum().item()
                found = stored[latent, branch, names.index(name)]
                assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_the_direct_measure_is_one_layer_quantized_in_an_otherwise_floating_point_unet(measured, tiny):
    from sdquant_cli.quant.grid import Grid
    from sdquant_cli.quant.weights import WeightQuantizer, weight_scales

    sdquant, all_facts = measured
    store, facts = sdquant.opened(), all_facts["sqnr"]
    artifact = store.resolve("sensitivity")
    items = items_of(sdquant.workspace(), artifact)
    batch = items.batch([0], torch.device("cpu"))
    unet = find_model(str(tiny("sd-v1-4/two-blocks"))).denoiser()
    name = "up_blocks.1.attentions.1.proj_in"
    layer = unet.get_submodule(name)
    with torch.no_grad():
        before = unet(batch.x, batch.timestep, batch.conditioning.tokens).sample
        grid = Grid(4, signed=True)
        layer.weight.copy_(WeightQuantizer(weight_scales(layer.weight, grid), grid).values(layer.weight))
        after = unet(batch.x, batch.timestep, batch.conditioning.tokens).sample
    noise = ((after - before).square().sum() / before.square().sum()).item()
    assert facts.weight_noise[name] == pytest.approx(noise, rel=1e-3)
    assert facts.sqnr[name] == pytest.approx(-10 * np.log10(facts.scores[name]))
    assert facts.scores[name] != facts.weight_noise[name]


def test_an_interrupted_direct_measure_resumes_at_the_first_missing_layers(tmp_path, monkeypatch, tiny):
    """With made-up noises: what is tested is which layers are measured again."""
    from sdquant_cli.calibration.sensitivity import OneLayerAtATime

    measured, stop_at = [], 20

    def noise(self, name, state):
        measured.append(name)
        if len(measured) == stop_at:
            raise KeyboardInterrupt
        return torch.full((2,), len(name) * 1e-3)

    monkeypatch.setattr(OneLayerAtATime, "noise", noise)
    monkeypatch.setattr(OneLayerAtATime, "weight_noise", lambda *_: torch.full((2,), 1e-3))
    monkeypatch.setattr(
        "sdquant_cli.calibration.sensitivity.weight_rounding_error", lambda _, grid: 4.0**-grid.bits
    )
    digests = []
    for name in ("interrupted", "undisturbed"):
        sdquant = Sdquant(tmp_path / name)
        words = ("--limit", 1, "--steps", 2, "--model", tiny("sd-v1-4/two-blocks"))
        sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", *words)
        if name == "interrupted":
            sdquant("sensitivity", "--measure", "sqnr", code=130)
            assert sdquant.opened().latest("sensitivity") is None
        sdquant("sensitivity", "--measure", "sqnr")
        digests.append(sdquant.opened().resolve("sensitivity").manifest.digest)
    assert measured[20] == measured[16]  # two units of eight layers were stored
    assert len(measured) == 20 + (LAYERS - 16) + LAYERS
    assert digests[0] == digests[1]


def test_the_direct_measure_is_of_the_grids_that_calibrate_gives(tmp_path, monkeypatch, tiny):
    from sdquant_cli.calibration.sensitivity import OneLayerAtATime

    states = {}

    def noise(self, name, state):
        states[name] = state
        return torch.full((2,), len(name) * 1e-3)

    monkeypatch.setattr(OneLayerAtATime, "noise", noise)
    monkeypatch.setattr(OneLayerAtATime, "weight_noise", lambda *_: torch.full((2,), 1e-3))
    monkeypatch.setattr(
        "sdquant_cli.calibration.sensitivity.weight_rounding_error", lambda _, grid: 4.0**-grid.bits
    )
    sdquant = Sdquant(tmp_path / "store")
    words = ("--limit", 3, "--steps", 6, "--model", tiny("sd-v1-4/two-blocks"))
    sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", *words)
    sdquant("sensitivity", "--measure", "sqnr", "--limit", 1)
    sdquant("calibrate", "--iterations", 0, "--no-smoothing")
    state = sdquant.opened().resolve("quant-state")
    for field in ("weight_step", "activation_step", "activation_zero"):
        stored, offsets = state.read(field), state.read(f"{field}_offset")
        for i, (name, measured_on) in enumerate(states.items()):
            if name not in state.facts.bits:  # the first and the last layer have 8 bits in `calibrate`
                values = getattr(measured_on, field).numpy()
                np.testing.assert_array_equal(stored[slice(*offsets[i : i + 2])], values)
    assert len(states) - len(state.facts.bits) == LAYERS - 2


def test_a_budget_chooses_weights_and_the_rule_activations(measured):
    sdquant, all_facts = measured
    sdquant("sensitivity", "--measure", "sqnr", *DIRECT)
    sdquant("calibrate", "--budget", "4.25", "--mixed", "--iterations", 0)
    state = sdquant.opened().resolve("quant-state")
    facts, ranking = state.facts, all_facts["sqnr"]
    assert state.spec.budget == "4.25"
    assert 4.24 < facts.average_bits["weights, by parameters"] <= 4.25
    assert facts.allocation.average_bits == facts.average_bits["weights, by parameters"]
    widths = state.read("bits")[:, 0]
    assert {b: int((widths == b).sum()) for b in set(widths)} == facts.allocation.layers_by_width
    activations = dict(zip(ranking.scores, state.read("bits")[:, 1], strict=True))
    assert {name for name, bits in activations.items() if bits == 16} == set(ranking.top)
    assert {name for name, bits in activations.items() if bits == 4} == set(ranking.bottom)
    predicted = [point.predicted_sqnr for point in facts.frontier]
    assert predicted == sorted(predicted)
    ends = [point.average_bits for point in facts.frontier][:: len(predicted) - 1]
    assert ends == [2, pytest.approx(8, abs=0.05)]
    uniform = -10 * np.log10(sum(ranking.weight_noise.values()))
    assert next(p for p in facts.frontier if p.average_bits > 3.9).predicted_sqnr > uniform


def test_bytes_and_bits_of_one_size_choose_alike(measured, tiny):
    sdquant, _ = measured
    shapes = find_model(str(tiny("sd-v1-4/two-blocks"))).layer_shapes.values()
    parameters = sum(shape.numel() for shape in shapes)
    sdquant("sensitivity", "--measure", "sqnr", *DIRECT)
    found = []
    for budget in ("5", f"{parameters * 5 // 8}B"):
        sdquant("calibrate", "--budget", budget, "--iterations", 0)
        found.append(sdquant.opened().resolve("quant-state"))
    assert found[0].manifest.digest == found[1].manifest.digest
    assert found[0].facts.allocation.weight_bytes <= parameters * 5 / 8


def test_a_configuration_file_may_write_a_budget_as_a_number():
    from sdquant_cli.options.requests import CalibrateRequest

    assert CalibrateRequest.model_validate({"budget": 4.25}).budget == "4.25"
    assert CalibrateRequest.model_validate({}).budget is None


def test_facts_are_json_with_numbers_alone(measured):
    sdquant, _ = measured
    for kind, facts in (("sensitivity", SensitivityFacts), ("quant-state", QuantStateFacts)):
        shown = json.loads(sdquant("show", kind, "--json").stdout)["facts"]
        assert facts.model_validate(shown)


def test_a_published_ranking_decides_bits_and_can_be_made_again(measured, tmp_path):
    from sdquant_cli.report.reproduce import Script

    sdquant, facts = measured
    order = list(reversed(facts["printed"].ranking))
    whole, ends = tmp_path / "whole.txt", tmp_path / "ends.txt"
    whole.write_text("\n".join(order))
    rest = [name for name in facts["printed"].scores if name in order[END:-END]]
    ends.write_text("\n".join(["# both ends", *order[:END], "...", *order[-END:]]))
    plan = json.loads(sdquant("sensitivity", "--ranking", ends, "--dry-run", "--json").stdout)["plan"]
    assert plan == {"measure": "published", "layers": LAYERS}
    made = json.loads(sdquant("sensitivity", "--ranking", ends, "--json").stdout)
    assert made["facts"]["ranking"] == [*order[:END], *rest, *order[-END:]]
    assert made["facts"]["top"] == order[:END]
    again = tmp_path / "again.txt"
    again.write_text("\n".join(made["facts"]["ranking"]))
    assert json.loads(sdquant("sensitivity", "--ranking", again, "--json").stdout)["key"] == made["key"]
    assert json.loads(sdquant("sensitivity", "--ranking", whole, "--json").stdout)["key"] != made["key"]
    sdquant("verify")

    words = ("--mixed", "--method", "rtn", "--json")
    bits = json.loads(sdquant("calibrate", "--bits", "w4a8", *words).stdout)["facts"]["bits"]
    assert {name for name, value in bits.items() if value == "w8a16"} == set(order[:END])
    assert {name for name, value in bits.items() if value == "w4a4"} == set(order[-END:])

    manifest = sdquant.opened().resolve("sensitivity").manifest
    script = Script(lineage=None, prompt_files={})
    file = f"ranking-{manifest.key[:6]}.txt"
    assert script._ranking_flags(manifest) == ["--ranking", file, "--bits", "w4a8", "--micro-batch", "8"]
    assert script.remarks[0].startswith(f"{file} is a list of the {LAYERS} layers of {manifest.ref.name}")


def test_a_listed_ranking_is_not_measured(measured, tmp_path):
    sdquant, _ = measured
    file = tmp_path / "ranking.txt"
    file.write_text("conv_in\nconv_inn\n")
    assert f"--ranking {file}: line 2: 'conv_inn'" in sdquant("sensitivity", "--ranking", file, code=2).stderr
    words = ("sensitivity", "--measure")
    assert "--measure sqnr: has no effect" in sdquant(*words, "sqnr", "--ranking", file, code=2).stderr
    limited = sdquant("sensitivity", "--limit", 2, "--ranking", file, code=2).stderr
    assert "--limit 2: has no effect with --ranking" in limited
    assert "--measure published: requires --ranking" in sdquant(*words, "published", code=2).stderr
