"""Text embeddings: each distinct prompt once in fp16, the empty prompt first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..events import Task
from ..manifests import Setting, TextEmbedsFacts, TextEmbedsSpec
from ..models.conditioning import Conditioning, size_ids
from ..models.load import Model
from ..models.text import count_truncated, encode, unique_prompts
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Draft
from ..types import Kind
from .prompts import Prompts
from .workspace import Blueprint, Workspace

EMBEDS_PER_UNIT = 256
NOT_FINITE = "the text encoder computes NaN, or a number beyond fp16"


class TextEmbeds(Artifact[TextEmbedsSpec, TextEmbedsFacts]):
    """Stored text embeddings, with the index of each prompt's own."""

    KIND = Kind.TEXT_EMBEDS

    def texts(self, model: Model, setting: Setting) -> Conditioning:
        """Return the conditioning of all distinct prompts (P), unconditional first."""
        pooled = torch.from_numpy(self.read("pooled")) if model.family.pooled else None
        return with_sizes(Conditioning(torch.from_numpy(self.read("embedding")), pooled), model, setting)

    def index(self) -> np.ndarray:
        """Return the index (N) of each prompt's text."""
        return self.read("index")


def with_sizes(texts: Conditioning, model: Model, setting: Setting) -> Conditioning:
    """Return the texts with a setting's sizes, where the model's family takes them."""
    if not model.family.sized:
        return texts
    size = size_ids(setting.height, setting.width).expand(len(texts), -1)
    return Conditioning(texts.tokens, texts.pooled, size)


def store_embeddings(workspace: Workspace, model: Model, prompts: Prompts) -> TextEmbeds:
    """Encode stored prompts; warns of those longer than the tokenizer takes."""
    distinct = unique_prompts(prompts.texts())
    count = len(distinct.texts)
    blueprint = Blueprint(
        TextEmbedsSpec(model=model.ref),
        {"prompts": prompts},
        _layout(model, count, len(distinct.index)),
        -(-count // EMBEDS_PER_UNIT),
    )

    def fill(draft: Draft) -> TextEmbedsFacts:
        truncated = _warn_of_truncation(workspace, model, distinct.texts)
        pipeline = model.text_pipeline(str(workspace.device))
        with workspace.events.task("encoding prompts", count, "prompt") as task:
            for unit in draft.missing():
                start, stop = draft.rows(unit, "embedding")
                texts = distinct.texts[start:stop]
                arrays = _encoded(pipeline, texts, workspace.device, task)
                if unit == 0:
                    arrays["index"] = np.array(distinct.index, dtype=np.int64)
                draft.write(unit, arrays)
        return TextEmbedsFacts(unique=count, truncated=truncated)

    return workspace.produce(TextEmbeds, blueprint, fill, quiet=True)


def _layout(model: Model, count: int, prompts: int) -> dict[str, ArraySpec]:
    shape = (count, *model.text_shape)
    arrays = {
        "embedding": ArraySpec(shape, "float16", ("prompt", "token", "channel"), EMBEDS_PER_UNIT, 4),
        "index": ArraySpec((prompts,), "int64", ("sample",), prompts),
    }
    if (width := model.pooled_width) is not None:
        arrays["pooled"] = ArraySpec((count, width), "float16", ("prompt", "channel"), EMBEDS_PER_UNIT)
    return arrays


def _warn_of_truncation(workspace: Workspace, model: Model, texts: Sequence[str]) -> int:
    """Return the number of texts that the tokenizer cuts."""
    tokenizer = model.tokenizer()
    truncated = count_truncated(tokenizer, texts)
    if truncated:
        workspace.events.warn(
            f"{truncated} prompts are longer than the {tokenizer.model_max_length} tokens the model takes; "
            f"the rest of each is ignored"
        )
    return truncated


def _encoded(pipeline: Any, texts: Sequence[str], device: torch.device, task: Task) -> dict[str, np.ndarray]:
    """Return the embeddings of one unit; raises SdquantError for one that is not finite."""
    parts = []
    for part in encode(pipeline, texts, device):
        parts.append(part)
        task.advance(len(part))
    tensors = {"embedding": torch.cat([part.tokens for part in parts]).half()}
    pooled = [part.pooled for part in parts if part.pooled is not None]
    if pooled:
        tensors["pooled"] = torch.cat(pooled).half()
    names = [f"the text embedding of {text!r}" for text in texts]
    for tensor in tensors.values():
        check_finite(tensor, names, NOT_FINITE)
    return {name: tensor.numpy() for name, tensor in tensors.items()}
