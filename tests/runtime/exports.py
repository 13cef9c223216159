"""What tests of exported folders do with them."""

import json

import numpy as np
from diffusers import UNet2DConditionModel

import sdquant_cli
from sdquant_cli.runtime import digests, proof

STEPS = 4
PROMPT = "a big red circle"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, seed=0):
    """The picture that `generate` draws of the first prompt."""
    drawn = quiet(pipeline)(
        PROMPT,
        generator=sdquant_cli.generator(seed),
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        height=64,
        width=64,
    )
    return np.array(drawn.images[0])


def psnr(a, b):
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def load(folder, **options):
    """The denoiser of an exported folder, by diffusers."""
    return UNet2DConditionModel.from_pretrained(folder / "unet", **options)


def weights(folder):
    return folder / "unet" / WEIGHTS


def read_config(folder):
    return json.loads((folder / "unet" / "config.json").read_text())


def change_config(folder, **fields):
    """Other fields in the denoiser's quantization_config."""
    config = read_config(folder)
    config["quantization_config"] |= fields
    (folder / "unet" / "config.json").write_text(json.dumps(config))


def seal(folder):
    """Make all digests fit the files as they are now, as somebody who means harm would."""
    config = read_config(folder)
    if isinstance(config.get("quantization_config"), dict):
        change_config(folder, sha256={WEIGHTS: digests.sha256(weights(folder))})
    proof.write_provenance(folder, {})
