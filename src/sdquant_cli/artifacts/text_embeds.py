"""Text embeddings: each distinct prompt once in fp16, the empty prompt first."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..events import Task
from ..manifests import Setting, TextEmbedsFacts, TextEmbedsSpec
from ..models.conditioning import Conditioning
from ..models.load import Model
from ..models.text import count_truncated, encode, unique_prompts
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Draft, lengths
from ..types import Kind
from .prompts import Prompts
from .rows import rows_of
from .workspace import Blueprint, Workspace

EMBEDS_PER_UNIT = 256
NOT_FINITE = "the text encoder computes NaN, or a number beyond fp16"


class TextEmbeds(Artifact[TextEmbedsSpec, TextEmbedsFacts]):
    """Stored text embeddings, with the index of each prompt's own."""

    KIND = Kind.TEXT_EMBEDS

    def texts(self, model: Model, setting: Setting) -> Conditioning:
        """Return the conditioning of all distinct prompts (P), unconditional first."""
        pooled = rows_of(self, "pooled") if model.family.pooled else None
        mask = rows_of(self, "mask") if model.family.masked else None
        return model.in_setting(Conditioning(rows_of(self, "embedding"), pooled, mask=mask), setting)

    def index(self) -> np.ndarray:
        """Return the index (N) of each prompt's text."""
        return self.read("index")


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
        embeddings = partial(encode, model.text_pipeline(str(workspace.device)), device=workspace.device)
        with workspace.events.task("encoding prompts", count, "prompt") as task:
            missing = draft.missing_rows("embedding")
            sizes = lengths(missing)
            for unit in draft.turns(sizes, task):
                rows = missing[unit]
                texts = distinct.texts[rows.start : rows.stop]
                arrays = _encoded(embeddings(texts), texts, task)
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
    if model.family.masked:
        arrays["mask"] = ArraySpec(shape[:2], "float16", ("prompt", "token"), EMBEDS_PER_UNIT)
    return arrays


def _warn_of_truncation(workspace: Workspace, model: Model, texts: Sequence[str]) -> int:
    """Return the number of texts that the tokenizer cuts."""
    tokenizer = model.tokenizer()
    limit = min(tokenizer.model_max_length, model.text_shape[0])
    truncated = count_truncated(tokenizer, texts, limit)
    if truncated:
        workspace.events.warn(
            f"{truncated} prompts are longer than the {limit} tokens the model takes; "
            f"the rest of each is ignored"
        )
    return truncated


def _encoded(embeddings: Iterable[Conditioning], texts: Sequence[str], task: Task) -> dict[str, np.ndarray]:
    """Return the embeddings of one unit; raises SdquantError for one that is not finite."""
    parts: dict[str, list[Tensor]] = {"embedding": []}
    for part in embeddings:
        parts["embedding"].append(part.tokens)
        if part.pooled is not None:
            parts.setdefault("pooled", []).append(part.pooled)
        if part.mask is not None:
            parts.setdefault("mask", []).append(part.mask)
        task.advance(len(part))
    names = [f"the text embedding of {text!r}" for text in texts]
    arrays = {}
    for array, tensors in parts.items():
        joined = torch.cat(tensors).half()
        check_finite(joined, names, NOT_FINITE)
        arrays[array] = joined.numpy()
    return arrays
