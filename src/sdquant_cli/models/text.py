"""Prompts to text embeddings: each distinct prompt once, the unconditional text first."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UsageProblem, first_line
from .conditioning import Conditioning
from .folder import read_json

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

AT_ONCE = 32  # prompts
FURTHER_PROMPTS = ("prompt_2", "prompt_3")  # for the other encoders: None stands for the same text


@dataclass(frozen=True)
class UniquePrompts:
    """Distinct texts, the empty one first, and the position of each prompt among them."""

    texts: tuple[str, ...]
    index: tuple[int, ...]


def unique_prompts(prompts: Sequence[str]) -> UniquePrompts:
    """Return the distinct prompts in order of first use, after the empty prompt."""
    position = {"": 0}
    for prompt in prompts:
        position.setdefault(prompt, len(position))
    return UniquePrompts(tuple(position), tuple(position[prompt] for prompt in prompts))


def load_tokenizer(cls: str, folder: Path) -> "PreTrainedTokenizerBase":
    """Return a tokenizer of a transformers class; raise UsageProblem if it cannot be read."""
    import transformers

    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        return getattr(transformers, cls).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UsageProblem(f"{folder}: {cls} cannot be read ({first_line(error)})") from None


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", folder: Path) -> None:
    """Raise UsageProblem if a tokenizer has token ids beyond its text encoder's embeddings."""
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number >= config.vocab_size:
        raise UsageProblem(
            f"{folder}: {token!r} is token {number}; expected less than the text encoder's vocab_size "
            f"{config.vocab_size}"
        )


def count_truncated(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], limit: int) -> int:
    """Return how many texts have more than `limit` tokens."""
    tokens = tokenizer(list(texts), truncation=False).input_ids
    return sum(len(ids) > limit for ids in tokens)


@torch.no_grad()
def encode(
    pipeline: "DiffusionPipeline", texts: Sequence[str], device: torch.device
) -> Iterator[Conditioning]:
    """Yield text embeddings fp32 in batches, as the pipeline computes them.

    The empty text stands for the unconditional half of guidance, which some pipelines do not encode: SDXL
    uses zeros.
    """
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    further = dict.fromkeys(parameters.keys() & set(FURTHER_PROMPTS))
    masked = "prompt_attention_mask" in parameters

    def run(batch: list[str], *, unconditional: bool) -> Conditioning:
        outputs = pipeline.encode_prompt(
            prompt=batch,
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=unconditional,
            **further,
        )
        if masked:  # tokens and mask of the prompt, then of the empty prompt
            tokens, mask = (part.float().cpu() for part in outputs[2 * unconditional :][:2])
            return Conditioning(tokens, mask=mask)
        # tokens with the prompt and without, then in some pipelines the pooled text with and without
        tokens = outputs[unconditional].float().cpu()
        pooled = outputs[2 + unconditional] if len(outputs) > 2 else None
        return Conditioning(tokens, None if pooled is None else pooled.float().cpu())

    rest = list(texts)
    if rest and not rest[0]:
        yield run([""], unconditional=True)
        rest = rest[1:]
    for start in range(0, len(rest), AT_ONCE):
        yield run(rest[start : start + AT_ONCE], unconditional=False)
