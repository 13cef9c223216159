"""Stores a set of prompts and its text embeddings, for `sample` and `generate`."""

import hashlib
import itertools

import numpy as np
import torch

from ..events import Events
from ..manifests import PromptsFacts, PromptsSpec, Setting, TextEmbedsFacts, TextEmbedsSpec
from ..models.conditioning import Conditioning, size_ids
from ..models.load import Model
from ..models.text import count_truncated, encode, unique_prompts
from ..prompts import PromptFile
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Store
from .workspace import publish, refs

EMBEDS_PER_UNIT = 256
NOT_FINITE = "the text encoder computes NaN, or a number beyond fp16"


def read_texts(embeds: Artifact, model: Model, setting: Setting) -> Conditioning:
    """The texts of an artifact (P), unconditional first, with what else the model is told of a picture."""
    pooled = torch.from_numpy(embeds.read("pooled")) if model.family.pooled else None
    return with_sizes(Conditioning(torch.from_numpy(embeds.read("embedding")), pooled), model, setting)


def with_sizes(texts: Conditioning, model: Model, setting: Setting) -> Conditioning:
    """The texts, with a setting's sizes where the model's family is told them."""
    if not model.family.sized:
        return texts
    size = size_ids(setting.height, setting.width).expand(len(texts), -1)
    return Conditioning(texts.tokens, texts.pooled, size)


def store_prompts(store: Store, file: PromptFile, events: Events) -> Artifact:
    """The prompts artifact: UTF-8 bytes end to end, with offsets."""
    if file.blank:
        events.warn(f"{file.path}: skipped {file.blank} blank prompts")
    if file.duplicates:
        events.note(f"{file.path}: {file.duplicates} prompts are repeats; each draws its own noise")
    encoded = [prompt.encode() for prompt in file.prompts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    digest = hashlib.sha256(b"".join(prompt + b"\0" for prompt in encoded)).hexdigest()
    spec = PromptsSpec(count=len(encoded), sha256=digest)
    arrays = {
        "text": ArraySpec(text.shape, "uint8", ("byte",), compressed=True),
        "offset": ArraySpec(offsets.shape, "int64", ("boundary",)),
    }
    draft = store.begin(spec, {}, arrays)
    if isinstance(draft, Artifact):
        store.tag(draft)
        return draft
    for unit in draft.missing():
        draft.write(unit, {"text": text, "offset": offsets})
    unique = len(set(file.prompts))
    return publish(store, draft, PromptsFacts(source=file.path.name, prompts=len(encoded), unique=unique))


def read_prompts(artifact: Artifact) -> list[str]:
    """The prompts of an artifact, in order."""
    text, offsets = artifact.read("text").tobytes(), artifact.read("offset")
    return [text[a:b].decode() for a, b in itertools.pairwise(offsets)]


def store_embeddings(
    store: Store, model: Model, prompts: Artifact, device: torch.device, events: Events
) -> Artifact:
    """The text-embeds artifact: each distinct prompt once, fp16, the empty prompt first."""
    distinct = unique_prompts(read_prompts(prompts))
    tokenizer, count = model.tokenizer(), len(distinct.texts)
    shape = (count, *model.text_shape)
    arrays = {
        "embedding": ArraySpec(shape, "float16", ("prompt", "token", "channel"), EMBEDS_PER_UNIT, 4),
        "index": ArraySpec((len(distinct.index),), "int64", ("sample",), len(distinct.index)),
    }
    if (width := model.pooled_width) is not None:
        arrays["pooled"] = ArraySpec((count, width), "float16", ("prompt", "channel"), EMBEDS_PER_UNIT)
    units = -(-count // EMBEDS_PER_UNIT)
    draft = store.begin(TextEmbedsSpec(model=model.ref), refs({"prompts": prompts}), arrays, units)
    if isinstance(draft, Artifact):
        store.tag(draft)
        return draft
    truncated = count_truncated(tokenizer, distinct.texts)
    if truncated:
        events.warn(
            f"{truncated} prompts are longer than the {tokenizer.model_max_length} tokens the model takes; "
            f"the rest of each is ignored"
        )
    pipeline = model.text_pipeline(str(device))
    with events.task("encoding prompts", len(distinct.texts), "prompt") as task:
        for unit in draft.missing():
            start, stop = draft.rows(unit, "embedding")
            parts = []
            for part in encode(pipeline, distinct.texts[start:stop], device):
                parts.append(part)
                task.advance(len(part))
            tensors = {"embedding": torch.cat([part.tokens for part in parts]).half()}
            if width is not None:
                pooled = [part.pooled for part in parts if part.pooled is not None]
                tensors["pooled"] = torch.cat(pooled).half()
            names = [f"the text embedding of {text!r}" for text in distinct.texts[start:stop]]
            for tensor in tensors.values():
                check_finite(tensor, names, NOT_FINITE)
            values = {name: tensor.numpy() for name, tensor in tensors.items()}
            if unit == 0:
                values["index"] = np.array(distinct.index, dtype=np.int64)
            draft.write(unit, values)
    return publish(store, draft, TextEmbedsFacts(unique=len(distinct.texts), truncated=truncated))
