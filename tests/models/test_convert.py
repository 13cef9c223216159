"""Single checkpoint files: converted once, whole or not at all, with the prediction type they ask for."""

import json
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models import convert
from sdquant_cli.models.load import ModelName, find_model
from tests.models import ldm

MARKS = {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sdquant"


def test_v_prediction_of_a_file_is_the_schedulers(tiny, tmp_path, cache):
    folder, file = tiny("sd-v1-4"), tmp_path / "v.safetensors"
    ldm.write(folder, file)
    save_file(load_file(file) | MARKS, file)
    model = find_model(ModelName(str(file), base=str(folder)))
    scheduler = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert torch.equal(model.denoiser().conv_in.weight, find_model(str(folder)).denoiser().conv_in.weight)


@pytest.mark.parametrize(
    ("tensors", "metadata", "fields"),
    [
        (MARKS, None, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ({"v_pred": torch.ones(1)}, None, {"prediction_type": "v_prediction"}),
        ({"ztsnr": torch.ones(1)}, None, {}),
        ({}, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ({}, {"modelspec.prediction_type": "epsilon"}, {}),
        ({}, None, {}),
    ],
)
def test_marks_of_a_checkpoint(tmp_path, tensors, metadata, fields):
    save_file({"x": torch.zeros(1)} | tensors, tmp_path / "x.safetensors", metadata)
    assert convert._marks(tmp_path / "x.safetensors") == fields


@pytest.fixture
def conversions(monkeypatch):
    """Stand-ins for diffusers' conversion: how many there were, and what runs during one."""
    record = SimpleNamespace(count=0, during=lambda: None)

    def save(folder, **_):
        record.count += 1
        (folder / "unet").mkdir(parents=True)
        record.during()
        (folder / "model_index.json").write_text("{}")

    pipeline = SimpleNamespace(save_pretrained=save, scheduler=SimpleNamespace())
    monkeypatch.setattr(convert, "_convert", lambda *_: pipeline)
    return record


def checkpoint(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_a_conversion_is_there_whole_or_not_at_all(tmp_path, cache, conversions):
    file = checkpoint(tmp_path)

    def fail():
        raise KeyboardInterrupt

    conversions.during = fail
    with pytest.raises(KeyboardInterrupt):
        convert.converted(file, None)
    assert not [path for path in (cache / "models").iterdir() if (path / "model_index.json").exists()]
    conversions.during = lambda: None
    folder = convert.converted(file, None)
    assert [path.name for path in (cache / "models").iterdir()] == [folder.name]
    assert convert.converted(file, None) == folder
    assert conversions.count == 2
    (folder / "model_index.json").unlink()  # as an older version left it
    (folder / "stray").touch()
    assert convert.converted(file, None) == folder
    assert not (folder / "stray").exists()


def test_two_processes_convert_once(tmp_path, cache, conversions, monkeypatch):
    """The second waits for the lock, and then finds the folder."""
    file = checkpoint(tmp_path)
    first = convert.converted(file, None)
    kept = tmp_path / "kept"
    first.rename(kept)
    acquire = FileLock.acquire

    def wait(self, *args, **kwargs):
        kept.rename(first)  # the other process is done
        return acquire(self, *args, **kwargs)

    monkeypatch.setattr(FileLock, "acquire", wait)
    assert convert.converted(file, None) == first
    assert conversions.count == 1


def test_a_base_of_other_merges_is_another_conversion(tiny, tmp_path, cache, conversions):
    import shutil

    file, base = checkpoint(tmp_path), shutil.copytree(tiny("sd-v1-4"), tmp_path / "base")
    first = convert.converted(file, base)
    (base / "README.md").write_text("x")
    (base / "unet" / "notes.json").write_text("{}")
    assert convert.converted(file, base) == first
    (base / "tokenizer" / "merges.txt").write_text("x")
    assert convert.converted(file, base) != first


def test_a_file_that_is_cut(tmp_path, cache):
    file = checkpoint(tmp_path)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UsageProblem, match=r"x\.safetensors: cannot be read as safetensors"):
        find_model(str(file))
