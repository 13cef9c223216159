"""JSON documents of the store: manifests, receipts and tags, read with care and named if damaged."""

from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import DamagedArtifact, NewerFormat, SdquantError
from ..manifests import FORMAT, MANIFESTS, Frozen, Manifest
from ..sealed import CHECKSUM, is_sealed, not_finite, parse, seal
from ..types import Kind
from ..version import __version__

T = TypeVar("T", bound=Frozen)
UPGRADE = "upgrade with `pip install -U sdquant`"


def read_document(data: bytes, where: str, newest: int = 1) -> dict[str, Any]:
    """Parse a document of format 1 to `newest`; raises NewerFormat or DamagedArtifact, naming the file.

    The format counts first: a newer one may differ in all else. A document that names none is of format 1,
    and one without a checksum was written by an early version.
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
    if bad := not_finite(document):
        raise SdquantError(
            f"{manifest.kind}/{manifest.key}: {bad} is not a finite number, and nothing is published; "
            f"the model or its settings overflow, try --dtype fp32"
        )
    return seal(document)


def read_manifest(kind: Kind, key: str, data: bytes, where: str) -> Manifest:
    """Parse a manifest; raises NewerFormat or DamagedArtifact, naming the file, the field and the way out."""
    way_out = f"remove the artifact with `sdquant rm {kind}/{key} --force` and make it again"
    try:
        document = read_document(data, where, FORMAT)
    except DamagedArtifact as error:
        raise DamagedArtifact(f"{error}; {way_out}") from None
    if document.get("format", 1) > 1 and CHECKSUM not in document:
        raise DamagedArtifact(f"{where} is damaged: it has no checksum; {way_out}")
    try:
        manifest = MANIFESTS[kind].model_validate(document)
    except ValidationError as error:
        problem = _first_of(error)
        if CHECKSUM in document:  # nothing was changed since: another version has other fields
            raise NewerFormat(
                f"{where}: {problem}: it was written by another version of sdquant than this one, "
                f"{__version__}; {UPGRADE}"
            ) from None
        raise DamagedArtifact(f"{where} is damaged: {problem}; {way_out}") from None
    if manifest.key != key:
        raise DamagedArtifact(f"{where} is damaged: it is the manifest of {manifest.key}; {way_out}")
    return manifest


def read_value(cls: type[T], data: bytes, where: str) -> T:
    """Parse a receipt or a spec; raises NewerFormat or DamagedArtifact, naming the file and the field."""
    document = read_document(data, where)
    document.pop(CHECKSUM, None)
    try:
        return cls.model_validate(document)
    except ValidationError as error:
        raise DamagedArtifact(f"{where} is damaged: {_first_of(error)}") from None


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
