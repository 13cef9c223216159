"""Prompts to text embeddings: each distinct prompt once, the unconditional text first."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageProblem, first_line
from .conditioning import Conditioning
from .folder import read_json

AT_ONCE = 32  # prompts
_ALSO = ("prompt_2", "prompt_3")  # for the further encoders: the same text


@dataclass(frozen=True)
class UniquePrompts:
    """Distinct texts, the empty prompt at 0, and where each prompt is among them."""

    texts: tuple[str, ...]
    index: tuple[int, ...]


def unique_prompts(prompts: Sequence[str]) -> UniquePrompts:
    """Distinct prompts in order of first use, behind the empty prompt."""
    texts = tuple(dict.fromkeys(("", *prompts)))
    place = {text: i for i, text in enumerate(texts)}
    return UniquePrompts(texts, tuple(place[prompt] for prompt in prompts))


def load_tokenizer(cls: str, folder: Path) -> Any:
    """Return a tokenizer of a class of transformers; raise UsageProblem for one that cannot be read."""
    import transformers

    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        return getattr(transformers, cls).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UsageProblem(f"{folder}: {cls} cannot be read ({first_line(error)})") from None


def check_vocabulary(tokenizer: Any, config: Any, folder: Path) -> None:
    """Raise UsageProblem where a tokenizer has numbers that its text encoder has no embedding of."""
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number >= config.vocab_size:
        raise UsageProblem(
            f"{folder}: {token!r} is token {number}; expected less than the text encoder's vocab_size "
            f"{config.vocab_size}"
        )


def count_truncated(tokenizer: Any, texts: Sequence[str]) -> int:
    """How many texts have more tokens than the tokenizer takes."""
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False).input_ids]
    return sum(length > tokenizer.model_max_length for length in lengths)


@torch.no_grad()
def encode(pipeline: Any, texts: Sequence[str], device: torch.device) -> Iterator[Conditioning]:
    """Text embeddings fp32 in batches, as the pipeline makes them.

    The empty text stands for guidance without a prompt, which is not the same: SDXL takes zeros.
    """
    takes = inspect.signature(pipeline.encode_prompt).parameters
    also = dict.fromkeys((name for name in _ALSO if name in takes), None)

    def run(batch: list[str], *, unconditional: bool) -> Conditioning:
        found = pipeline.encode_prompt(
            prompt=batch,
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=unconditional,
            **also,
        )
        tokens, pooled = found[:2], found[2:] or (None, None)  # each with the prompt, and without
        return _conditioning(tokens[unconditional], pooled[unconditional])

    rest = list(texts)
    if rest and not rest[0]:
        yield run([""], unconditional=True)
        rest = rest[1:]
    for start in range(0, len(rest), AT_ONCE):
        yield run(rest[start : start + AT_ONCE], unconditional=False)


def _conditioning(tokens: Tensor, pooled: Tensor | None) -> Conditioning:
    return Conditioning(tokens.float().cpu(), None if pooled is None else pooled.float().cpu())
