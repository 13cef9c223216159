"""Digests of files, and the files that a component is read from."""

import hashlib

import pytest

from sdquant_cli.models import digest
from sdquant_cli.models.digest import digest_of, file_digest, files_read


def test_a_file_is_read_again_only_after_it_changed(tmp_path, monkeypatch):
    path, read = tmp_path / "a", []
    path.write_bytes(b"one")

    def counting(file, name):
        read.append(file.name)
        return hashlib.new(name, file.read())

    monkeypatch.setattr(digest.hashlib, "file_digest", counting)
    assert file_digest(path) == file_digest(path) == hashlib.sha256(b"one").digest()
    assert len(read) == 1
    path.write_bytes(b"three")
    assert file_digest(path) == hashlib.sha256(b"three").digest()
    assert len(read) == 2


def test_the_digest_of_a_folder_covers_paths_and_contents_in_any_order(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    a, b, c = (tmp_path / name for name in ("a", "b", "c"))
    expected = hashlib.sha256(
        b"a " + hashlib.sha256(b"a").digest() + b"b " + hashlib.sha256(b"b").digest()
    ).hexdigest()
    assert digest_of(tmp_path, [b, a]).hexdigest() == expected
    assert digest_of(tmp_path, [a, c]).hexdigest() != expected
    b.rename(tmp_path / "bb")
    assert digest_of(tmp_path, [a, tmp_path / "bb"]).hexdigest() != expected


@pytest.mark.parametrize(
    ("component", "variant", "expected"),
    [
        ("tokenizer", None, ["merges.txt", "vocab.json"]),
        ("unet", None, ["config.json", "diffusion_pytorch_model.safetensors"]),
        ("unet", "fp16", ["config.json", "diffusion_pytorch_model.fp16.safetensors"]),
        ("vae", "fp16", ["config.json", "diffusion_pytorch_model.safetensors"]),
    ],
)
def test_other_formats_and_variants_are_not_read(tmp_path, component, variant, expected):
    folder = tmp_path / component
    folder.mkdir()
    names = ["README.md", "config.json", "merges.txt", "vocab.json", "diffusion_pytorch_model.bin"]
    names.append("diffusion_pytorch_model.safetensors")
    if component == "unet":
        names.append("diffusion_pytorch_model.fp16.safetensors")
    for name in names:
        (folder / name).touch()
    assert [path.name for path in files_read(folder, variant)] == expected


def test_the_index_of_a_sharded_checkpoint_is_read_too(tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    shards = ["diffusion_pytorch_model-00001-of-00002.safetensors", "x.safetensors"]
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {{"a": "{shards[1]}", "b": "{shards[0]}"}}}}')
    assert [path.name for path in files_read(folder, None)] == [index.name, *shards]
