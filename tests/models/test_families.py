"""Every family at tiny width against diffusers' own pipelines, and counts at published sizes."""

import copy
import json

import pytest
import torch

from sdquant_cli.artifacts.settings import guidance_fields
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.context import box_contexts
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.families import FAMILIES
from sdquant_cli.models.guidance import batch_conditioning
from sdquant_cli.models.layers import projections, quantizable_layers, time_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.models.text import encode
from sdquant_cli.models.time_table import embed_timesteps, run_on_prompt_tables, run_on_table, tabulate
from sdquant_cli.quant.allocate import extremes
from sdquant_cli.quant.rows import Rows
from tests import fakes
from tests.conftest import ROOT
from tools.random_models.configurations import DISTILLED, PIPELINES

NAMES = tuple(PIPELINES)
PAPER = json.loads((ROOT / "tests" / "data" / "paper_layers.json").read_text())
PROMPTS = ["", "a big red circle on a plain white background", "a small cyan star"]


def conditions(model, setting):
    """Of PROMPTS: tokens, pooled text and sizes as the model takes them."""
    parts = list(encode(model.text_pipeline(), PROMPTS, torch.device("cpu")))
    tokens = torch.cat([part.tokens for part in parts])
    pooled = torch.cat([part.pooled for part in parts]) if model.family.pooled else None
    mask = torch.cat([part.mask for part in parts]) if model.family.masked else None
    return model.in_setting(Conditioning(tokens, pooled, mask=mask), setting)


def setting(model, scheduler=None, steps=3):
    height, width = model.default_size
    name, guidance = scheduler or model.default_scheduler, guidance_fields(model, 4.0)
    return fakes.setting(name, steps, height=height, width=width, model=model.ref, **guidance)


def prompts(model, texts):
    """Two prompts as a pipeline takes them: in words, or where T5 is in half precision here, encoded."""
    if not model.family.masked:
        return {"prompt": PROMPTS[1:]}
    return {
        "negative_prompt": None,
        "prompt_embeds": texts.tokens[1:],
        "prompt_attention_mask": texts.mask[1:],
        "negative_prompt_embeds": texts.tokens[:1].repeat(2, 1, 1),
        "negative_prompt_attention_mask": texts.mask[:1].repeat(2, 1),
        "use_resolution_binning": False,
    }


def inpainted(model, drawn):
    """The masks and masked pictures of two prompts, as an inpainting pipeline takes them."""
    if not model.family.context:
        return {}
    size = drawn.height, drawn.width
    mask, latents = box_contexts(model.vae(), size, model.latent_factor, 3, [0, 1]).split((1, 4), dim=1)
    return {
        "image": torch.zeros(2, 3, *size),
        "mask_image": torch.nn.functional.interpolate(mask, size),
        "masked_image_latents": latents,
        "strength": 1.0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_our_loop_draws_what_the_familys_own_pipeline_draws(tiny, name):
    import diffusers

    folder = tiny(name)
    model = find_model(str(folder))
    drawn = setting(model)
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name.startswith("sd3") else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    shape = model.latent_shape(drawn.height, drawn.width)
    noise = initial_noise(shape, 3, [0, 1])
    expected = pipeline(
        **prompts(model, conditions(model, drawn)),
        latents=noise.clone(),
        generator=step_generators(3, [0, 1]),
        num_inference_steps=3,
        guidance_scale=4.0,
        height=drawn.height,
        width=drawn.width,
        output_type="latent",
        **inpainted(model, drawn),
    ).images
    path, scale = model.trajectory(drawn, 3, [0, 1]), drawn.guidance_scale
    found = denoise(
        model.denoiser(), path, batch_conditioning(conditions(model, drawn), [1, 2], scale), scale
    )
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_on_tables_equals_the_original_for_every_prompt(tiny, name):
    model = find_model(str(tiny(name)))
    drawn = setting(model, steps=5)
    network, texts = model.denoiser(), conditions(model, drawn)
    schedule, guidance = schedule_of(model.sampler(drawn)), model.embedded_guidance(drawn)
    rows, lean = Rows(schedule.timesteps), copy.deepcopy(network)
    if model.family.pooled:
        run_on_prompt_tables(lean, embed_timesteps(lean, schedule.timesteps, guidance), rows)
    else:
        run_on_table(lean, tabulate(lean, schedule.timesteps, guidance), rows)
    assert not time_layers(lean)
    assert list(quantizable_layers(lean)) == list(quantizable_layers(network))
    removed = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in lean.parameters())
    assert removed == model.time_parameters > 0
    x = torch.randn(4, *model.input_shape(drawn.height, drawn.width))
    first, second = texts.guided([1, 2]), texts.guided([2, 2])
    mixed = torch.tensor([schedule.timesteps[i] for i in (3, 0, 4, 3)])
    one = torch.tensor(schedule.timesteps[2])
    calls = [(one, first), (mixed, first), (one, second), (one, second), (mixed, second)]
    with torch.no_grad():
        for timestep, conditioning in calls:
            wanted = predict(network, x, timestep, conditioning)
            torch.testing.assert_close(predict(lean, x, timestep, conditioning), wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageProblem, match="not among the"):
        predict(lean, x, torch.tensor(12.5), first)


def skeleton(name):
    """The denoiser of a published configuration, on the meta device."""
    import diffusers

    parts = (PIPELINES | DISTILLED)[name][1]
    cls, config = parts.get("unet") or parts["transformer"]
    with torch.device("meta"):
        return getattr(diffusers, cls)(**config)


@pytest.mark.parametrize(
    ("name", "layers", "removed"),
    [
        ("sd-v1-4", 258, 27.9e6),
        ("sd-v2-1", 258, 27.9e6),
        ("sdxl", 773, 24.9e6),
        ("sd3-medium", 288, 683.5e6),
        ("sd3.5-medium", 340, 775.5e6),
        ("pixart-sigma", 284, 9.6e6),
        ("lcm", 258, 28.0e6),
        ("sd-inpainting", 258, 27.9e6),
        ("sdxl-inpainting", 773, 24.9e6),
        ("ssd-1b", 409, 23.3e6),
        ("vega", 219, 23.3e6),
    ],
)
def test_counts_at_published_sizes(name, layers, removed):
    network = skeleton(name)
    assert len(quantizable_layers(network)) == layers
    parameters = sum(p.numel() for layer in time_layers(network).values() for p in layer.parameters())
    assert parameters == pytest.approx(removed, rel=2e-3)
    assert projections(network)


@pytest.mark.parametrize(("name", "key", "count"), [("sd-v1-4", "sd-v1-4", 13), ("sdxl", "sdxl-1.0", 39)])
def test_the_layers_that_the_paper_names_are_there(name, key, count):
    layers = quantizable_layers(skeleton(name))
    named = [layer for part in ("sensitive", "insensitive") for layer in PAPER[key][part]]
    assert set(named) <= set(layers)
    assert len(named) == 2 * count
    assert [len(end) for end in extremes(list(layers))] == [count, count]


def test_a_scheduler_of_another_kind_is_refused(tiny):
    model = find_model(str(tiny("sd3-medium")))
    with pytest.raises(
        UsageProblem, match="--scheduler pndm: Stable Diffusion 3 needs a flow-matching scheduler"
    ):
        model.sampler(setting(model, "pndm"))


def test_an_unknown_family_is_refused_by_the_name_of_its_class(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UsageProblem, match="is a FluxPipeline; supported: Stable Diffusion 1 and 2") as error:
        find_model(str(tmp_path))
    assert all(family.pipelines[0] in str(error.value) for family in FAMILIES)
