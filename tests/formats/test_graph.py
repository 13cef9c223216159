"""Graphs for ONNX Runtime and OpenVINO: written by `export`, run by their runtimes inside a pipeline."""

import importlib
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import sdquant_cli
from sdquant_cli.errors import EnvironmentProblem, UsageProblem
from sdquant_cli.formats import graph
from sdquant_cli.stages import export
from sdquant_cli.types import ExportFormat
from tests.runtime.exports import psnr, quiet

GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)


@pytest.fixture(scope="module")
def state(tiny, tmp_path_factory):
    """W7A8 with a scale for each timestep: 8-bit weights overflow on a CPU without VNNI."""
    from tests.conftest import Sdquant

    root = tmp_path_factory.mktemp("graphs")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text("a big red circle\na small cyan star\n")
    words = ("--model", tiny("sd-v1-4/two-blocks"), "--steps", 3, "--per-prompt", 3)
    run("sample", "--prompts", root / "prompts.txt", *words)
    run("calibrate", "--method", "rtn", "--bits", "w7a8", "--activations", "per-step", "--edges", "none")
    return run


@pytest.fixture(scope="module", params=GRAPHS)
def folder(request, state, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "model"
    said = state("export", "--format", request.param, "--output", path).stderr
    assert "signal to noise of a call beside the state's own arithmetic" in said
    return path


def drawn(pipeline):
    words = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 64, "width": 64, "output_type": "np"}
    generator = torch.Generator().manual_seed(0)
    return quiet(pipeline)("a big red circle", generator=generator, **words).images[0] * 255


def test_a_pipeline_draws_with_the_graph(folder, state, tmp_path):
    pipeline = sdquant_cli.load(str(folder))
    assert isinstance(pipeline.unet, graph.GraphDenoiser)
    images = drawn(pipeline)
    packed = tmp_path / "packed"
    state("export", "--output", packed)
    assert psnr(images, drawn(StableDiffusionPipeline.from_pretrained(packed))) > 30


def test_products_are_integers(folder):
    loaded = graph.load(folder / "unet", threads=1)
    assert 0 < loaded.integer <= loaded.products
    if (folder / "unet" / graph.IR_FILE).is_file():
        assert loaded.integer == loaded.products  # convolutions included
        assert str(folder.parent) not in (folder / "unet" / graph.IR_FILE).read_text()


def test_a_timestep_that_was_not_calibrated(folder):
    unet = graph.GraphDenoiser(folder / "unet", threads=1)
    x, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 16)
    with pytest.raises(UsageProblem, match="timestep 5 is not among the"):
        unet(x, torch.tensor(5), text)
    known = json.loads((folder / "unet" / graph.ROWS_FILE).read_text())[0]
    assert unet(x, torch.tensor(known), text)[0].shape == (1, 4, 8, 8)
    assert unet(x.repeat(3, 1, 1, 1), known, text.repeat(3, 1, 1))[0].shape[0] == 3


def test_states_with_scales_of_tokens_and_relaxed_steps(state, tmp_path):
    words = ("--method", "rtn", "--bits", "w8a8")
    state("calibrate", *words, "--activations", "token")
    export = ("export", "--format", "onnx", "--output", tmp_path / "x")
    assert "calibrate --activations per-step" in state(*export, code=2).stderr
    state("calibrate", *words, "--activations", "per-step", "--relax", "last")
    assert "the 10-bit activations of --relax last" in state(*export, code=2).stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("form", "name"), [(ExportFormat.ONNX, "onnxruntime"), (ExportFormat.OPENVINO, "openvino")]
)
def test_a_package_that_is_missing_or_too_old(form, name, monkeypatch):
    graph.need(form)
    monkeypatch.setattr(importlib.import_module(name), "__version__", "1.2.3")
    with pytest.raises(EnvironmentProblem, match=rf"{name} 1\.2\.3 is too old"):
        graph.need(form)
    monkeypatch.setitem(importlib.sys.modules, name, None)
    with pytest.raises(
        EnvironmentProblem, match=rf"{name} is not installed; pip install 'sdquant\[{form}\]'"
    ):
        graph.need(form)


def test_inputs_of_a_call():
    from sdquant_cli.models.conditioning import Conditioning

    conditioning = Conditioning(torch.zeros(2, 3, 4), torch.zeros(2, 5), torch.zeros(2, 6))
    arrays = graph.inputs(torch.zeros(2, 4, 8, 8), torch.tensor(7), conditioning)
    assert list(arrays) == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]
    assert np.array_equal(arrays["timestep"], [7])


@pytest.mark.parametrize(("ratio", "lines"), [(36.2, 1), (19.6, 2), (float("nan"), 2)])
def test_what_a_call_in_the_runtime_says(ratio, lines):
    said = export._verdict(ExportFormat.OPENVINO, graph.Loaded(lambda _: None, 160, 258), ratio)
    assert len(said) == lines
    assert "160 of 258 products" in said[0]
    assert "--bits w7a8" in said[-1] or lines == 1
