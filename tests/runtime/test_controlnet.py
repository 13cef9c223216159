"""A ControlNet beside a quantized denoiser, in diffusers' pipelines: its residuals enter between blocks."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)

from sdquant_cli.artifacts.quant_state import find_state, quantized_denoiser
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.models.example_call import ExampleCall
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.runtime.network import packed_layers
from sdquant_cli.runtime.plugin import SdquantConfig
from sdquant_cli.types import Execution
from tests.conftest import Sdquant
from tests.runtime.exports import PROMPT, psnr, quiet

PIPELINES = {"sd-v1-4": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}
STEPS = 2
SIDE = 64


@pytest.fixture(scope="module", params=tuple(PIPELINES))
def model(request, tiny):
    """A pipeline's name and folder, and a ControlNet of its UNet whose last layers are not zero."""
    folder = tiny(request.param)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return request.param, folder, net.eval()


@pytest.fixture(scope="module", params=["per-step", "token"])
def exported(request, model, tmp_path_factory):
    """A store with a state of the model, and its exported folder."""
    root = tmp_path_factory.mktemp("controlled")
    run, prompts = Sdquant(root / "store"), root / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n")
    run("sample", "--prompts", prompts, "--model", model[1], "--steps", STEPS, "--per-prompt", STEPS)
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", request.param)
    run("export", "--output", root / "model")
    return run, root / "model"


def controlled(name, parts, net, scale):
    """The picture (H,W,3) that a ControlNet steers at a scale."""
    given = (
        {"controlnet": net, "requires_safety_checker": False} if name == "sd-v1-4" else {"controlnet": net}
    )
    pipeline = quiet(PIPELINES[name](**parts, **given))
    lines = torch.zeros(1, 3, SIDE, SIDE)
    lines[..., ::8, :] = 1
    return pipeline(
        PROMPT,
        image=lines,
        generator=torch.Generator().manual_seed(0),
        controlnet_conditioning_scale=scale,
        num_inference_steps=STEPS,
        height=SIDE,
        width=SIDE,
        output_type="np",
    ).images[0]


def difference(a, b):
    return psnr(255 * a, 255 * b)


@pytest.mark.parametrize("engine", ["dequantized", "integer"])
def test_residuals_steer_a_quantized_denoiser(model, exported, monkeypatch, engine):
    (name, folder, net), (_, export) = model, exported
    monkeypatch.setenv("SDQUANT_ENGINE", engine)
    parts = DiffusionPipeline.from_pretrained(folder).components
    expected, without = (controlled(name, parts, net, scale) for scale in (1.0, 0.0))
    quantized = DiffusionPipeline.from_pretrained(export).components
    found = controlled(name, quantized, net, 1.0)
    assert difference(found, expected) > 25
    assert difference(found, expected) > difference(without, expected) + 4
    assert difference(controlled(name, quantized, net, 0.0), without) > 25


def test_engines_agree_on_residuals(exported):
    workspace = exported[0].workspace()
    state = find_state(workspace, None)
    setting = state.facts.setting
    model = workspace.model(setting)
    call = ExampleCall.of(model, setting, 2, schedule_of(model.sampler(setting)).timesteps[0])
    *residuals, middle = _residuals(model.denoiser(), call)
    further = {"down_block_additional_residuals": residuals, "mid_block_additional_residual": middle}
    answers = {}
    for execution in (Execution.SIMULATED, Execution.INTEGER):
        network = quantized_denoiser(workspace, state, setting, execution)
        plain = call.run(network)
        network.forward = partial(network.forward, **further)
        answers[execution] = call.run(network)
        assert float(snr(plain[None], answers[execution][None])) < 20
    assert float(snr(*(answer[None] for answer in answers.values()))) > 30


def _residuals(unet, call):
    """Random residuals in the shapes of a UNet's skip connections, then of its middle block."""
    shapes = []
    modules = [unet.conv_in, unet.mid_block]
    for block in unet.down_blocks:
        modules += [*block.resnets, *(block.downsamplers or ())]
    handles = [m.register_forward_hook(lambda *call: shapes.append(call[2].shape)) for m in modules]
    call.run(unet)
    for handle in handles:
        handle.remove()
    torch.manual_seed(1)
    return [torch.randn(shape) for shape in shapes]


def test_the_controlnet_is_packed_while_it_is_loaded(model, tmp_path):
    name, folder, net = model
    net.save_pretrained(tmp_path)
    packed = ControlNetModel.from_pretrained(tmp_path, quantization_config=SdquantConfig(bits="w8a8"))
    assert len(packed_layers(packed)) > 20
    parts = DiffusionPipeline.from_pretrained(folder).components
    expected, found, without = (
        controlled(name, parts, network, scale) for network, scale in ((net, 1.0), (packed, 1.0), (net, 0.0))
    )
    assert difference(found, expected) > 25
    assert difference(found, expected) > difference(without, expected) + 4
    packed.save_pretrained(tmp_path / "again")
    again = ControlNetModel.from_pretrained(tmp_path / "again")
    assert np.array_equal(controlled(name, parts, again, 1.0), found)
