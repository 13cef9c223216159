"""Stores a set of prompts and its text embeddings, for `sample` and `generate`."""

import hashlib
import itertools

import numpy as np
import torch

from ..events import Events
from ..manifests import PromptsFacts, PromptsSpec, TextEmbedsFacts, TextEmbedsSpec
from ..models.load import Model
from ..models.prompt_files import PromptFile
from ..models.text import count_truncated, encode, unique_prompts
from ..store import ArraySpec, Artifact, Store
from .chain import publish, refs

EMBEDS_PER_UNIT = 256


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
    tokenizer, config = model.tokenizer(), model.text_config
    shape = (len(distinct.texts), tokenizer.model_max_length, int(config["hidden_size"]))
    arrays = {
        "embedding": ArraySpec(shape, "float16", ("prompt", "token", "channel"), EMBEDS_PER_UNIT, 4),
        "index": ArraySpec((len(distinct.index),), "int64", ("sample",), len(distinct.index)),
    }
    units = -(-shape[0] // EMBEDS_PER_UNIT)
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
    encoder = model.text_encoder(str(device))
    with events.task("encoding prompts", len(distinct.texts), "prompt") as task:
        for unit in draft.missing():
            start, stop = draft.rows(unit, "embedding")
            parts = []
            for part in encode(tokenizer, encoder, distinct.texts[start:stop]):
                parts.append(part.half().numpy())
                task.advance(len(part))
            values = {"embedding": np.concatenate(parts)}
            if unit == 0:
                values["index"] = np.array(distinct.index, dtype=np.int64)
            draft.write(unit, values)
    return publish(store, draft, TextEmbedsFacts(unique=len(distinct.texts), truncated=truncated))
