"""Write a pipeline with random weights in diffusers layout.

    uv run python -m tools.random_models.make sdxl --output runs/models/sdxl --dtype bf16
    uv run python -m tools.random_models.make sd3-medium --output runs/models/tiny-sd3 --tiny

Real classes and, but for --tiny, published sizes: what is proven on it are names, counts, memory, speed
and loading. Its pictures are noise.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from sdquant_cli.models.source import EMBEDDED_FOLDER

from .configurations import PIPELINES, TINY, WITH_T5

TOKENS = 77
SHARD = "2GB"
ALL = {**PIPELINES, **WITH_T5}

Parts = dict[str, dict[str, Any]]


def make(
    name: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tiny: bool = False,
    changes: Parts | None = None,
    weights: bool = True,
) -> Path:
    """Write the pipeline `name` into `folder`, its weights from seed 0; `changes` by folder and option.

    Without `weights` the files of weights are empty: enough for names, shapes and what `--dry-run` predicts.
    """
    save = _save if weights else _save_empty
    cls, parts = ALL[name]
    overrides, changes = TINY[name] if tiny else {}, changes or {}
    index: dict[str, Any] = {"_class_name": cls, "_diffusers_version": diffusers.__version__}
    for part, (kind, config) in parts.items():
        config = {**config, **overrides.get(part, {}), **changes.get(part, {})}
        library = transformers if part.startswith("text_encoder") else diffusers
        save(getattr(library, kind), config, folder / part, dtype)
        index[part] = [library.__name__, kind]
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", _save_tokenizer(kind, folder / tokenizer)]
    if cls == "StableDiffusion3Pipeline" and "text_encoder_3" not in index:
        index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    return folder


def _save(cls: Any, config: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    if cls.__name__.endswith("Scheduler"):
        cls(**config).save_pretrained(folder)
        return
    torch.manual_seed(0)
    _new(cls, config, dtype).save_pretrained(folder, max_shard_size=SHARD)


def _save_empty(cls: Any, config: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    if cls.__name__.endswith("Scheduler"):
        cls(**config).save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        part = _new(cls, config, dtype)
    nothing = {"dtype": torch.empty(0, dtype=dtype)}  # a header that says of what
    if isinstance(part, transformers.PreTrainedModel):
        part.config.save_pretrained(folder)
        save_file(nothing, folder / "model.safetensors")
    else:
        part.save_config(folder)
        save_file(nothing, folder / "diffusion_pytorch_model.safetensors")


def _new(cls: Any, config: dict[str, Any], dtype: torch.dtype) -> Any:
    torch.set_default_dtype(dtype)
    try:
        if cls.__name__.startswith("CLIP"):
            ids = {"bos_token_id": 617, "eos_token_id": 618, "pad_token_id": 618}  # of that tokenizer
            return cls(transformers.CLIPTextConfig(max_position_embeddings=TOKENS, **ids, **config))
        if cls is transformers.T5EncoderModel:
            return cls(transformers.T5Config(**config))
        return cls(**config)
    finally:
        torch.set_default_dtype(torch.float32)


def _save_tokenizer(encoder: str, folder: Path) -> str:
    """The embedded model's, padded to the length of the published ones, or one of T5 with few tokens."""
    if encoder == "T5EncoderModel":
        letters = [(letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
        tokenizer = transformers.T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters])
    else:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "tokenizer")
        tokenizer.model_max_length = TOKENS
    tokenizer.save_pretrained(folder)
    return type(tokenizer).__name__


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ALL)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    print(make(asked.name, asked.output, dtype=formats[asked.dtype], tiny=asked.tiny))


if __name__ == "__main__":
    main()
