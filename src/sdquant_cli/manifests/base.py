"""The parts that manifests of all kinds share, and the key of an artifact."""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import UsageProblem
from ..sealed import canonical, not_finite
from ..types import Kind

FORMAT = 2  # of new manifests; format 1 had no checksum


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Frozen):
    """A pointer to a published artifact."""

    kind: Kind
    key: str
    digest: str  # of the artifact's content

    @property
    def name(self) -> str:
        """The artifact's name in commands and messages, `kind/key`."""
        return f"{self.kind}/{self.key}"


class ModelRef(Frozen):
    """A model: where it comes from, and the digest of its files, those of an adapter included."""

    source: str
    digest: str
    revision: str | None = None  # of a Hub id
    variant: str | None = None  # of the weight files, such as fp16
    base: str | None = None  # the pipeline that a single file is a fine-tune of
    lora: str | None = None  # file of the adapter fused into the model
    lora_scale: float | None = None


_OPTIONAL = Field(exclude_if=lambda value: value is None)


class Setting(Frozen):
    """The settings of image generation: everything that two comparable images share."""

    model: ModelRef
    scheduler: str  # a short name, or the diffusers class of a scheduler without one
    steps: int
    guidance_scale: float  # at or below 1 there is no guidance: each latent is one item, with its prompt
    height: int  # pixels
    width: int
    dtype: str  # of the denoiser
    # what few models have; left out of manifests where it is None, so that older versions read them too
    context: Annotated[str | None, _OPTIONAL] = None  # source of an inpainting denoiser's masks and pictures
    embedded_guidance: Annotated[float | None, _OPTIONAL] = None  # scale embedded; guidance_scale is 1 then

    @property
    def as_requested(self) -> "Setting":
        """The same setting with the guidance scale as a user gives it, embedded or not."""
        if self.embedded_guidance is None:
            return self
        return self.model_copy(update={"guidance_scale": self.embedded_guidance, "embedded_guidance": None})


class Spec(Frozen):
    """Base class of all specs."""

    kind: ClassVar[Kind]
    stage_version: ClassVar[int] = 1  # raised by hand when the same spec gives other content


def artifact_key(spec: Spec, inputs: dict[str, Ref], layout: dict[str, object]) -> str:
    """Return 20 hex digits of the sha256 over the canonical JSON of spec, inputs' digests and array layout.

    Fields that are None are left out, so that a field added by a later version does not change the keys of
    existing artifacts. Raises UsageProblem for a number that is not finite.
    """
    identity = {
        "kind": spec.kind.value,
        "stage_version": spec.stage_version,
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "inputs": {role: ref.digest for role, ref in inputs.items()},
        "layout": layout,
    }
    if field := not_finite(identity["spec"]):
        raise UsageProblem(f"{spec.kind}: {field} is not a finite number; leave it out or pass another value")
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:20]


class StoredObject(Frozen):
    """One file of an artifact."""

    path: str  # relative to the artifact
    size: int  # bytes
    sha256: str


class Receipt(Frozen):
    """The record that one unit of work is stored, with the digests of its objects."""

    unit: int
    objects: tuple[StoredObject, ...]
    counts: dict[str, int] = {}


class ArrayInfo(Frozen):
    """The layout of one stored array; each unit of work has `unit_rows` rows of its first axis."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    chunk_rows: int
    unit_rows: int
    compressed: bool


class Provenance(Frozen):
    """The versions, time and memory behind an artifact; not part of its key."""

    sdquant: str
    python: str
    packages: dict[str, str]
    threads: int
    created_at: str  # UTC, ISO 8601
    seconds: float = 0.0  # of the run that published it, with the time up to the checkpoint it resumed from
    peak_memory: int | None = None  # bytes, the largest resident set of the process during the run
    ranks: int = 1  # processes that torchrun started


class Manifest(Frozen):
    """The description of one published artifact; each kind's subclass has its own spec and facts."""

    format: Literal[1, 2] = 2
    kind: Kind
    key: str
    digest: str  # sha256 over (path, size, sha256) of all objects
    inputs: dict[str, Ref]
    arrays: dict[str, ArrayInfo]
    metadata: tuple[StoredObject, ...]  # the arrays' zarr.json files
    units: tuple[Receipt, ...]
    provenance: Provenance
    checksum: str | None = None  # sha256 over the canonical JSON of all other fields; None in format 1
    spec: Spec
    facts: Frozen

    @property
    def ref(self) -> Ref:
        """The pointer that dependent artifacts store."""
        return Ref(kind=self.kind, key=self.key, digest=self.digest)
