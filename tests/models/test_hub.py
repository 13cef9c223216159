"""Hub ids in the local cache, without a network."""

import json
from types import SimpleNamespace

import pytest

from sdquant_cli.errors import EnvironmentProblem, UsageProblem
from sdquant_cli.models.load import ModelName, find_model

COMMIT = "0" * 39 + "1"


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A cache as huggingface_hub keeps it: blobs, links to them, and where wished the listing of the Hub."""
    from huggingface_hub import constants
    from huggingface_hub._tree_cache import TREE_CACHE_FORMAT_VERSION

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def make(repository, *, listed=(), absent=(), renamed=lambda name: name):
        root = tmp_path / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(COMMIT)
        (root / "blobs").mkdir()
        (root / ".no_exist" / COMMIT).mkdir(parents=True)
        names = []
        for number, path in enumerate(p for p in tiny("sd-v1-4").rglob("*") if p.is_file()):
            name = renamed(str(path.relative_to(tiny("sd-v1-4"))))
            names.append(name)
            if name in absent:
                continue
            blob, link = root / "blobs" / str(number), root / "snapshots" / COMMIT / name
            blob.write_bytes(path.read_bytes())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        if listed:
            files = {name: {"size": 1, "blob_id": "x"} for name in (*names, *listed)}
            (root / "trees").mkdir()
            listing = {"format_version": TREE_CACHE_FORMAT_VERSION, "files": files}
            (root / "trees" / f"{COMMIT}.json").write_text(json.dumps(listing))
        return SimpleNamespace(id=repository, folder=root / "snapshots" / COMMIT)

    return make


# what people's repositories have beside what diffusers fetches
MORE = (
    "README.md",
    "v1-5-pruned.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "text_encoder/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "vae/diffusion_pytorch_model.onnx",
)


@pytest.mark.parametrize("listed", [(), MORE], ids=["plain", "listed"])
def test_a_cached_snapshot_loads_offline(hub, tiny, listed):
    snapshot = hub("nobody/whole", listed=listed)
    model = find_model(snapshot.id)
    assert model.folder == snapshot.folder
    assert model.ref.digest == find_model(str(tiny("sd-v1-4"))).ref.digest
    assert find_model(ModelName(snapshot.id, revision=COMMIT)).folder == snapshot.folder


@pytest.mark.parametrize("listed", [(), MORE], ids=["plain", "listed"])
@pytest.mark.parametrize(
    "absent", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "unet/config.json"]
)
def test_a_snapshot_in_part_says_what_is_missing(hub, listed, absent):
    snapshot = hub("nobody/part", listed=listed, absent=[absent])
    with pytest.raises(EnvironmentProblem, match=r"`hf download nobody/part --revision main`") as caught:
        find_model(ModelName(snapshot.id, revision="main"))
    assert absent.split("/")[0] in str(caught.value)


def test_a_snapshot_of_one_variant(hub):
    def renamed(name):
        return name.replace("model.safetensors", "model.fp16.safetensors") if "unet" in name else name

    snapshot = hub("nobody/half", renamed=renamed)
    find_model(ModelName(snapshot.id, variant="fp16")).time_path()
    with pytest.raises(EnvironmentProblem, match="add `--variant fp16`"):
        find_model(snapshot.id)


def test_ids_that_are_none(hub):
    for name in ("nobody/no thing", "nobody/--"):
        with pytest.raises(UsageProblem, match="--model nobody/"):
            find_model(name)


@pytest.mark.parametrize("listed", [(), MORE], ids=["plain", "listed"])
def test_without_fetching_the_network_is_left_alone(hub, monkeypatch, listed):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def refuse(*_, **__):
        raise AssertionError("asks the network")

    snapshot = hub("nobody/whole", listed=listed)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http, "get_session", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert find_model(snapshot.id, fetch=False).folder == snapshot.folder
    with pytest.raises(EnvironmentProblem, match="nobody/absent"):
        find_model("nobody/absent", fetch=False)
