"""Every scheduler class of diffusers against plain diffusers: the same picture, or a refusal in one line."""

import inspect
import json
import shutil
from functools import partial
from types import SimpleNamespace

import diffusers
import pytest
import torch

from sdquant_cli.artifacts.settings import new_setting
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.errors import SdquantError, UsageProblem
from sdquant_cli.models.autoencoder import decode, encode_pictures
from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.guidance import batch_conditioning
from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.text import encode
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.options.requests import SampleRequest
from sdquant_cli.store import Store
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
    """The conditioning of one prompt, the empty one first."""
    prompts = ["", "a big red circle on a plain white background"]
    parts = list(encode(find_model("shapes").text_pipeline(), prompts, torch.device("cpu")))
    return Conditioning(torch.cat([part.tokens for part in parts]))


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
        noise = initial_noise(model.latent_shape(SIDE, SIDE), 0, [0])
        path = Trajectory(model.sampler(setting), noise, step_generators(0, [0]))
        latents = denoise(embedded_unet, path, batch_conditioning(texts, [1], scale), scale)
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


def test_another_scheduler_draws_what_it_draws_from_the_models_configuration(tmp_path, plain, ours):
    folder = with_scheduler(
        tmp_path / "m", "EulerDiscreteScheduler", {**BETAS, "prediction_type": "v_prediction"}
    )
    own = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    expected = plain(diffusers.HeunDiscreteScheduler.from_config(own.config))
    assert_same_picture(ours(find_model(str(folder)), "HeunDiscreteScheduler"), expected)


def test_a_class_that_refuses_anothers_algorithm_is_used_with_its_own(tmp_path, plain, ours):
    config = {**BETAS, "algorithm_type": "deis", "solver_type": "logrho", "steps_offset": 1}
    folder = with_scheduler(tmp_path / "m", "DEISMultistepScheduler", config)
    expected = plain(diffusers.DPMSolverMultistepScheduler(**BETAS, steps_offset=1))
    model = find_model(str(folder))
    assert model.default_scheduler == "DEISMultistepScheduler"
    assert_same_picture(ours(model, "dpm++"), expected)


@pytest.mark.parametrize(
    ("name", "config", "steps", "says"),
    [
        ("DDIMScheduler", {"steps_offset": 1, "clip_sample": False}, 1000, "DDIMScheduler cannot run"),
        (
            "DPMSolverMultistepScheduler",
            {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True, "steps_offset": 1},
            20,
            "DPMSolverMultistepScheduler cannot run",
        ),
        (
            "DDIMScheduler",
            {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "steps_offset": 1},
            4,
            "NaN or infinity at call 0, prediction_type epsilon",
        ),
        ("DPMSolverSDEScheduler", {}, 4, "DPMSolverSDEScheduler cannot be used .*torchsde"),
        ("NoSuchScheduler", {}, 4, "has no NoSuchScheduler; expected one of pndm, ddim"),
        ("os", {}, 4, "expected .*a scheduler of diffusers"),
        ("EulerDiscreteScheduler", {"beta_schedule": "none"}, 4, "scheduler_config.json: beta_schedule is"),
    ],
)
def test_what_diffusers_cannot_run_is_refused_before_anything_is_computed(
    tmp_path, name, config, steps, says
):
    folder = with_scheduler(tmp_path / "m", name, {**BETAS, **config})
    request = SampleRequest(prompts="p.txt", model=str(folder), steps=steps)
    workspace = Workspace(Store(str(tmp_path / "store")))
    with pytest.raises(UsageProblem, match=says):
        new_setting(request, workspace)


def test_a_scheduler_whose_noise_no_seed_decides_is_refused(monkeypatch):
    def step(self, model_output, timestep, sample):
        return SimpleNamespace(prev_sample=torch.randn_like(sample))

    monkeypatch.setattr(diffusers.DEISMultistepScheduler, "step", step)
    state = torch.random.get_rng_state()
    with pytest.raises(UsageProblem, match="it adds noise that no seed decides"):
        find_model("shapes").rehearse(fakes.setting("DEISMultistepScheduler", 4))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_guidance_at_or_below_one_is_none(plain, ours, scale):
    own = diffusers.PNDMScheduler.from_pretrained(EMBEDDED_FOLDER, subfolder="scheduler")
    assert_same_picture(ours(find_model("shapes"), scale=scale), plain(own, scale))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "name", "config"),
    [
        ("sdxl", "HeunDiscreteScheduler", BETAS),
        # repeats its first timestep: the pipeline says where it begins
        ("sdxl", "DPMSolverMultistepScheduler", {**BETAS, "use_karras_sigmas": True, "steps_offset": 0}),
        ("sdxl", "DDIMScheduler", {**BETAS, "clip_sample": True, "steps_offset": 0}),  # not mended here
        ("sd3-medium", "FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
        (
            "sd3-medium",
            "UniPCMultistepScheduler",
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        ),
    ],
)
def test_other_families_schedulers_are_their_pipelines(monkeypatch, tiny, tmp_path, family, name, config):
    folder = with_scheduler(tmp_path / "m", name, config, source=tiny(family))
    model = find_model(str(folder))
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3-medium" else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    height, width = model.default_size
    setting = fakes.setting(model.default_scheduler, 20, height=height, width=width)
    model.rehearse(setting)
    path = Trajectory(model.sampler(setting), torch.randn(1, *model.latent_shape(height, width)))
    network = getattr(pipeline, model.family.folder)
    answers = torch.randn(len(path.sampler.timesteps), *path.latents.shape)
    calls = iter(answers)
    monkeypatch.setattr(network, "forward", lambda *_, **__: (next(calls).repeat(2, 1, 1, 1),))
    expected = pipeline(
        "a",
        latents=path.latents / getattr(path.sampler, "init_noise_sigma", 1.0),
        num_inference_steps=20,
        guidance_scale=2.0,
        output_type="latent",
    ).images
    for answer in answers:
        path.input()
        path.advance(answer)
    torch.testing.assert_close(path.latents, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["sd-v1-4", "sdxl", "sd3-medium"])
def test_autoencoders_are_read_as_the_familys_pipeline_reads_them(tiny, tmp_path, family):
    """One of every family, with all that a configuration may say of its latents."""
    source, folder = tiny(family), tmp_path / "m"
    shutil.copytree(source, folder)
    config = json.loads((folder / "vae" / "config.json").read_text())
    channels = config["latent_channels"]
    said = {"latents_mean": [0.1 * i for i in range(channels)], "latents_std": [1.5] * channels}
    (folder / "vae" / "config.json").write_text(json.dumps(config | said | {"shift_factor": 0.3}))
    model = find_model(str(folder))
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3-medium" else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *model.latent_shape(*model.default_size))
    shared = {"latents": noise, "num_inference_steps": 1, "guidance_scale": 1.0}
    latents = pipeline("a", **shared, output_type="latent").images
    expected = pipeline("a", **shared, output_type="pt").images
    vae = model.vae()
    pictures = decode(vae, latents)
    assert_same_picture(pictures.permute(0, 3, 1, 2) / 255, expected)
    again = encode_pictures(vae, pictures)
    moments = vae.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    back = {
        "sd-v1-4": moments,
        "sdxl": (moments - torch.tensor(said["latents_mean"]).view(1, -1, 1, 1)) / 1.5,
    }
    back["sd3-medium"] = moments - 0.3
    torch.testing.assert_close(again, back[family] * config["scaling_factor"], atol=1e-4, rtol=1e-4)


def test_a_tiny_autoencoder_is_drawn(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    shutil.rmtree(folder / "vae")
    sides = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    tiny = diffusers.AutoencoderTiny(**sides, **blocks).eval()
    tiny.save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderTiny"]}))
    vae, latents = find_model(str(folder)).vae(), torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        expected = (tiny.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    pictures = decode(vae, latents)
    assert_same_picture(pictures.permute(0, 3, 1, 2) / 255, expected)
    with torch.no_grad():
        assert torch.equal(
            encode_pictures(vae, pictures), tiny.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latents
        )
    with pytest.raises(SdquantError, match="picture 5 is not finite: the autoencoder"):
        decode(vae, latents * torch.nan, 5)


@pytest.mark.parametrize(("size", "expected"), [(16, (64, 64)), ([16, 24], (64, 96))])
def test_sample_size_is_a_side_or_height_and_width(size, expected):
    model = find_model("shapes")
    model.config = {**model.config, "sample_size": size}
    assert model.default_size == expected
