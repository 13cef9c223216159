"""Every scheduler class of diffusers against plain diffusers: the same picture, or a refusal in one line."""

import inspect
import json
from functools import partial

import diffusers
import pytest
import torch

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.condition import Condition
from sdquant_cli.models.denoise import decode, denoise
from sdquant_cli.models.guidance import condition_of
from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.text import encode
from tests import fakes

STEPS, SCALE, SIDE = 3, 3.0, 32
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SETTINGS = {  # of each what a class has
    "as it is": {},
    "trailing, v, zero SNR": {
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "clip_sample": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "Karras, an old configuration": {
        "use_karras_sigmas": True,
        "timestep_spacing": "leading",
        "clip_sample": True,
        "set_alpha_to_one": False,
        "steps_offset": 0,
    },
}


def has_steps(cls):
    try:
        return hasattr(cls, "set_timesteps") and hasattr(cls, "step")
    except ImportError:  # a class whose library is not installed
        return False


CLASSES = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(getattr(diffusers, name), type)
    if has_steps(getattr(diffusers, name))
]
# of other kinds of model: other arguments, other outputs, or no scale of the first noise
REFUSED = {
    "AmusedScheduler",
    "BlockRefinementScheduler",
    "CogVideoXDPMScheduler",
    "DDPMWuerstchenScheduler",
    "DiscreteDDIMScheduler",
    "EntropyBoundScheduler",
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeliosDMDScheduler",
    "HeliosScheduler",
    "KarrasVeScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
    "PiflowScheduler",
    "RFD4ProteinaScheduler",
    "RePaintScheduler",
    "SCMScheduler",
    "VQDiffusionScheduler",
}


def test_there_are_schedulers_to_try():
    assert set(CLASSES) > REFUSED
    assert len(set(CLASSES) - REFUSED) >= 20


def with_scheduler(folder, name, config, source=EMBEDDED_FOLDER):
    """A model folder that is `source` but for its scheduler."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name not in ("scheduler", "model_index.json"):
            (folder / path.name).symlink_to(path)
    index = json.loads((source / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    (folder / "scheduler").mkdir()
    config = {"_class_name": name, **config}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def texts():
    """The condition of one prompt, the empty one first."""
    prompts = ["", "a big red circle on a plain white background"]
    parts = list(encode(find_model("shapes").text_pipeline(), prompts, torch.device("cpu")))
    return Condition(torch.cat([part.tokens for part in parts]))


@pytest.fixture(scope="module")
def vae():
    return find_model("shapes").vae()


@pytest.fixture
def plain(embedded_unet, vae, texts):
    """Draws one picture (H,W,3) in 0..1 with diffusers' pipeline of the embedded model."""

    def draw(scheduler, scale=SCALE):
        pipeline = diffusers.StableDiffusionPipeline(
            vae, None, None, embedded_unet, scheduler, None, None, requires_safety_checker=False
        )
        pipeline.set_progress_bar_config(disable=True)
        side = SIDE // pipeline.vae_scale_factor
        return pipeline(
            prompt_embeds=texts.tokens[1:],
            negative_prompt_embeds=texts.tokens[:1],
            latents=initial_noise((4, side, side), 0, [0]),
            generator=step_generators(0, [0]),
            num_inference_steps=STEPS,
            guidance_scale=scale,
            height=SIDE,
            width=SIDE,
            output_type="pt",
        ).images[0]

    return draw


@pytest.fixture
def ours(embedded_unet, vae, texts):
    """Draws one picture as the stages do."""

    def draw(model, scheduler=None, scale=SCALE):
        setting = fakes.setting(
            scheduler or model.default_scheduler, STEPS, height=SIDE, width=SIDE, guidance_scale=scale
        )
        model.rehearse(setting)
        latents = denoise(
            embedded_unet,
            model.sampler(setting),
            initial_noise(model.latent_shape(SIDE, SIDE), 0, [0]),
            condition_of(texts, [1], scale),
            scale,
            step_generators(0, [0]),
        )
        return decode(vae, latents)[0].permute(2, 0, 1) / 255

    return draw


def assert_same_picture(drawn, expected):
    assert (drawn - expected).abs().mean() < 1e-3 + 0.25 / 255  # rounded to 8 bits


def drawn_by_diffusers(plain, scheduler):
    """The picture, or None where diffusers cannot draw it."""
    try:
        picture = plain(scheduler())
    except Exception:
        return None
    return picture if bool(picture.isfinite().all()) else None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_a_scheduler_of_diffusers_draws_its_picture_or_is_refused(tmp_path, plain, ours, name):
    cls, tried = getattr(diffusers, name), []
    takes = inspect.signature(cls.__init__).parameters
    for place, setting in enumerate(SETTINGS.values()):
        config = {key: value for key, value in (BETAS | setting).items() if key in takes}
        if config in tried:
            continue
        tried.append(config)
        folder = with_scheduler(tmp_path / str(place), name, config)
        load = partial(cls.from_pretrained, folder, subfolder="scheduler")
        expected = drawn_by_diffusers(plain, load)
        if expected is None or name in REFUSED:
            with pytest.raises(UsageProblem, match=name):
                ours(find_model(str(folder)))
        else:
            assert_same_picture(ours(find_model(str(folder))), expected)
