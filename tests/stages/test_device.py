"""Every stage on another device than the CPU."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from sdquant_cli.quant import weights
from sdquant_cli.quant.rows import Rows
from tests.conftest import PROMPTS, Sdquant
from tests.elsewhere import DEVICE, elsewhere

TRAIN, HELDOUT = PROMPTS / "shapes-train.txt", PROMPTS / "shapes-heldout.txt"
ON = ("--device", DEVICE)
SAMPLE = ("sample", "--prompts", TRAIN, "--limit", 1, "--steps", 2, "--model")
DRAW = ("generate", "--prompts", HELDOUT, "--limit", 1, *ON)


@pytest.fixture
def chain(sdquant, tiny, monkeypatch):
    """Latents of a tiny pipeline, drawn on that device. Few clippings are tried: operations take long."""
    monkeypatch.setattr(weights, "CLIPPINGS", 3)

    def begun(name):
        sdquant(*SAMPLE, tiny(name), *ON)
        return sdquant

    with elsewhere():
        yield begun


def test_what_a_gpu_refuses_is_refused():
    with elsewhere():
        there = torch.ones(2, 3).to(DEVICE)
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there[0].long()],
            there.numpy,
            lambda: torch.randn(2, generator=torch.Generator(), device=DEVICE),
        ):
            with pytest.raises(RuntimeError):
                wrong()
        assert (there + 1).sum().item() == 12
        assert there[torch.tensor([0])].shape == (1, 3)
        assert (there + 1).cpu().numpy().sum() == 12


def test_rows_are_taken_to_the_device_once_for_all_layers():
    rows = Rows([3.0, 1.0])
    with elsewhere():
        rows.set(torch.tensor([1.0, 3.0]).to(DEVICE))
        assert rows.current(2).device.type == DEVICE
        assert rows.current(2).tolist() == [1, 0]


def test_latents_are_those_of_the_cpu(chain, tiny, tmp_path):
    here = Sdquant(tmp_path / "here")
    here(*SAMPLE, tiny("sd-v1-4/two-blocks"))
    there = chain("sd-v1-4/two-blocks")
    drawn = [store.opened().resolve("latents").read("x") for store in (here, there)]
    np.testing.assert_allclose(*drawn, atol=2e-3, rtol=2e-3)  # stored in fp16


def test_the_chain(chain):
    sdquant = chain("sd-v1-4/two-blocks")
    sdquant("precalc-time", *ON)
    sdquant("sensitivity", *ON)
    sdquant("calibrate", "--mixed", "--iterations", 1, *ON)
    for engine in ("simulated", "auto"):
        sdquant(*DRAW, "--engine", engine)
    sdquant("evaluate", "--no-floor", "--drift", "--drift-prompts", 1, *ON)
    assert np.isfinite(sdquant.opened().resolve("metrics").read("psnr")).all()


@pytest.mark.parametrize(
    "how",
    [
        ("--method", "serial", "--correction", "--amp", "--checkpointing", "--train", "low-rank"),
        ("--method", "parallel", "--attention-bits", 8, "--relax", "last", "--teacher-dtype", "bf16"),
        ("--method", "pcr", "--split-shortcuts"),
    ],
)
def test_other_ways_to_calibrate(chain, how):
    sdquant = chain("sd-v1-4/two-blocks")
    sdquant("calibrate", "--iterations", 1, *how, *ON)
    sdquant(*DRAW)


def test_an_exported_pipeline(chain, tmp_path):
    sdquant = chain("sd-v1-4/two-blocks")
    sdquant("calibrate", "--method", "rtn", *ON)
    sdquant("export", "--output", tmp_path / "packed")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "packed").to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline("a red circle", num_inference_steps=2, output_type="latent").images
    assert latents.device.type == DEVICE
    assert latents.isfinite().all()


@pytest.mark.parametrize("name", ["sdxl", "sd3-medium"])
def test_other_families(chain, name):
    sdquant = chain(name)
    sdquant("calibrate", "--iterations", 1, *ON)
    sdquant(*DRAW)
    assert len(sdquant.opened().resolve("images").read("image")) == 1
