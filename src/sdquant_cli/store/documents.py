"""The JSON documents of a store: manifests, receipts, specs and tags, checked when read."""

from typing import TypeVar

from pydantic import ValidationError

from ..errors import DamagedArtifact, NewerFormat, SdquantError
from ..manifests import FORMAT, MANIFESTS, Frozen, Manifest
from ..sealed import CHECKSUM, is_sealed, not_finite, parse, seal
from ..types import Kind
from ..version import __version__

T = TypeVar("T", bound=Frozen)
CONDEMNED = seal({"state": "condemned"})  # in place of a manifest, while `sdquant gc` removes a draft
UPGRADE = "upgrade with `pip install -U sdquant`"


def read_document(data: bytes, where: str, newest: int = 1) -> dict[str, object]:
    """Parse a document of format 1 to `newest`; raises NewerFormat or DamagedArtifact, naming the file.

    The format is checked first, since a newer one may differ in everything else. A document without a
    format has format 1; one without a checksum was written by an early version.
    """
    try:
        document = parse(data)
        version = document.get("format", 1)
        if type(version) is not int or version < 1:
            raise ValueError(f"format {version!r}, expected 1 to {newest}")
        if version > newest:
            raise NewerFormat(f"{where}: format {version}, this sdquant reads up to {newest}; {UPGRADE}")
        is_sealed(document)
    except ValueError as error:
        raise DamagedArtifact(f"{where} is damaged: {error}") from None
    return document


def write_manifest(manifest: Manifest) -> bytes:
    """Return a manifest's JSON with its checksum; raises SdquantError for numbers that are not finite."""
    document = manifest.model_dump(mode="json", exclude={CHECKSUM})
    if field := not_finite(document):
        raise SdquantError(
            f"{manifest.ref.name}: {field} is not a finite number, and nothing is published; "
            f"the model or its settings overflow, try --dtype fp32"
        )
    return seal(document)


def read_manifest(kind: Kind, key: str, data: bytes, where: str) -> Manifest:
    """Parse a manifest; raises NewerFormat or DamagedArtifact, naming the file, the field and the remedy."""
    remedy = remedy_for(kind, key)
    try:
        document = read_document(data, where, FORMAT)
    except DamagedArtifact as error:
        raise DamagedArtifact(f"{error}; {remedy}") from None
    if document.get("format", 1) != 1 and CHECKSUM not in document:
        raise DamagedArtifact(f"{where} is damaged: it has no checksum; {remedy}")
    try:
        manifest = MANIFESTS[kind].model_validate(document)
    except ValidationError as error:
        problem = _first_of(error)
        if CHECKSUM in document:  # the file is intact: another version has other fields
            raise NewerFormat(
                f"{where}: {problem}: it was written by a version of sdquant other than {__version__}; "
                f"{UPGRADE}"
            ) from None
        raise DamagedArtifact(f"{where} is damaged: {problem}; {remedy}") from None
    if manifest.key != key:
        raise DamagedArtifact(f"{where} is damaged: it is the manifest of {manifest.key}; {remedy}")
    return manifest


def read_value(cls: type[T], data: bytes, where: str) -> T:
    """Parse a receipt or a spec; raises NewerFormat or DamagedArtifact, naming the file and the field."""
    document = read_document(data, where)
    document.pop(CHECKSUM, None)
    try:
        return cls.model_validate(document)
    except ValidationError as error:
        raise DamagedArtifact(f"{where} is damaged: {_first_of(error)}") from None


def remedy_for(kind: Kind, key: str) -> str:
    """Return the end of a message about a damaged artifact: how to replace it."""
    return f"remove it with `sdquant rm {kind}/{key} --force`, then run the command that made it"


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"field {field}: {first['msg']}"
