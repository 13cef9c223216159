"""The checks of `sdquant verify`: every file of a store against its manifests."""

from collections.abc import Iterator, Sequence

from ..errors import DamagedArtifact, SdquantError
from .artifact import folder, receipt_path
from .leases import is_lease
from .store import HEADER, Entry, Store
from .tags import is_entry


def damage(entry: Entry) -> Iterator[SdquantError]:
    """Yield an error for each file of an artifact that is not as it was published."""
    if entry.problem:
        yield entry.problem
    elif entry.artifact:
        yield from entry.artifact.damage()


def tag_damage(store: Store, entries: Sequence[Entry]) -> Iterator[SdquantError]:
    """Yield an error for each tag that cannot be read or names an artifact without a manifest."""
    yield from store.tag_entries.problems()
    tags = store.tags()
    for entry in entries:
        if entry.state == "unfinished" and (names := tags.get(entry.key)):
            yield DamagedArtifact(
                f"{store.url}/{folder(entry.kind, entry.key)}/manifest.json is missing, and the artifact is "
                f"tagged {', '.join(names)}; the command that made it publishes it again"
            )


def remarks(store: Store, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a line about each unfinished artifact, old manifest, incomplete tag and unknown file."""
    for entry in entries:
        if entry.state == "unfinished":
            yield (
                f"{entry.name} is unfinished; run the command that began it again to resume, "
                f"or remove it with `sdquant rm {entry.name}`"
            )
        elif entry.artifact and entry.artifact.manifest.checksum is None:
            yield f"{entry.name}: its manifest, written by an early version, has no checksum"
    yield from store.tag_entries.gaps()
    yield from _unknown_files(store, entries)


def _unknown_files(store: Store, entries: Sequence[Entry]) -> Iterator[str]:
    known = {HEADER}
    for entry in entries:
        known |= _files_of(entry)
    unread = tuple(f"{folder(e.kind, e.key)}/" for e in entries if e.artifact is None)
    for path in sorted(store.objects.sizes("")):
        is_known = path in known or is_entry(path) or is_lease(path)
        if not is_known and not path.startswith((*unread, "scratch/")):
            yield f"{path!r} in {store.url} is not an sdquant file and is ignored"


def _files_of(entry: Entry) -> set[str]:
    if entry.artifact is None:
        return set()
    path, manifest = entry.artifact.path, entry.artifact.manifest
    objects = {f"{path}/{item.path}" for item in entry.artifact.objects()}
    receipts = {receipt_path(path, receipt.unit) for receipt in manifest.units}
    return objects | receipts | {f"{path}/spec.json", f"{path}/manifest.json"}
