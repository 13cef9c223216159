"""Prompts: the texts of a prompt file as UTF-8 bytes end to end, with offsets."""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from ..manifests import PromptsFacts, PromptsSpec, Ref
from ..prompts import PromptFile
from ..store import ArraySpec, Artifact, Draft
from ..types import Kind
from .workspace import Blueprint, Workspace


class Prompts(Artifact[PromptsSpec, PromptsFacts]):
    """Stored prompts."""

    KIND = Kind.PROMPTS

    def texts(self) -> list[str]:
        """Return the prompts, in order."""
        text, offsets = self.read("text").tobytes(), self.read("offset")
        return [text[start:stop].decode() for start, stop in itertools.pairwise(offsets)]


def store_prompts(workspace: Workspace, file: PromptFile) -> Prompts:
    """Store the prompts of a file; report blank and repeated ones."""
    if file.blank:
        workspace.events.warn(f"{file.path}: skipped {file.blank} blank prompts")
    if file.duplicates:
        workspace.events.note(f"{file.path}: {file.duplicates} prompts are repeats; each draws its own noise")
    encoded = [prompt.encode() for prompt in file.prompts]
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    offset = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def fill(draft: Draft) -> PromptsFacts:
        for unit in draft.missing():
            draft.write(unit, {"text": text, "offset": offset})
        return PromptsFacts(source=file.path.name, prompts=len(encoded), unique=len(set(encoded)))

    arrays = {
        "text": ArraySpec(text.shape, "uint8", ("byte",), compressed=True),
        "offset": ArraySpec(offset.shape, "int64", ("boundary",)),
    }
    return workspace.produce(Prompts, Blueprint(_spec(encoded), {}, arrays), fill, quiet=True)


def planned_prompts(file: PromptFile) -> Ref:
    """Return what stands for the prompts of a file, before they are stored, in artifacts made from them."""
    sha256 = _spec([prompt.encode() for prompt in file.prompts]).sha256
    return Ref(kind=Kind.PROMPTS, key=sha256[:20], digest=sha256)


def _spec(encoded: Sequence[bytes]) -> PromptsSpec:
    digest = hashlib.sha256(b"".join(prompt + b"\0" for prompt in encoded)).hexdigest()
    return PromptsSpec(count=len(encoded), sha256=digest)
