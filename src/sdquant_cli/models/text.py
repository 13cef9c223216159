"""Prompts to text embeddings: each distinct prompt once, the empty one (unconditional) first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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


def count_truncated(tokenizer: Any, texts: Sequence[str]) -> int:
    """How many texts have more tokens than the tokenizer takes."""
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False).input_ids]
    return sum(length > tokenizer.model_max_length for length in lengths)


@torch.no_grad()
def encode(tokenizer: Any, encoder: nn.Module, texts: Sequence[str], batch: int = 32) -> Iterator[Tensor]:
    """Text embeddings (n, L, D) fp32 in batches, padded and truncated to L tokens as diffusers does."""
    for start in range(0, len(texts), batch):
        tokens = tokenizer(
            list(texts[start : start + batch]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = next(encoder.parameters()).device
        yield encoder(tokens.input_ids.to(device)).last_hidden_state.float().cpu()
