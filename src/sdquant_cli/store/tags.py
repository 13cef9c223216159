"""Tags: movable names of artifacts. Each move appends a numbered entry; the highest number is current."""

import re
from collections.abc import Iterator

from ..errors import DamagedArtifact, SdquantError, UsageProblem
from ..sealed import seal
from ..types import Kind
from .documents import read_document
from .objects import Objects

KEY = re.compile(r"[0-9a-f]{20}")
_ENTRY = re.compile(r"tags/([^/]+)/[^/]+/\d{8}\.json", re.ASCII)


class Tags:
    """The tags of a store; other files in their folders are ignored."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def key(self, kind: Kind, name: str) -> str | None:
        """Return the key that a tag names, or None; raises DamagedArtifact or NewerFormat."""
        numbers = self._numbers(f"tags/{kind}/{check_name(name)}").get((kind, name))
        return self._read(kind, name, numbers[-1]) if numbers else None

    def append(self, kind: Kind, name: str, key: str) -> None:
        """Move a tag to this key."""
        numbers = self._numbers(f"tags/{kind}/{check_name(name)}").get((kind, name), [])
        try:
            if numbers and self._read(kind, name, numbers[-1]) == key:
                return
        except DamagedArtifact:
            pass  # the new entry replaces it
        number = numbers[-1] + 1 if numbers else 0
        while not self._objects.create(_path(kind, name, number), seal({"key": key})):
            if self._read(kind, name, number) == key:
                return  # stored by another writer, or by a request whose answer was lost
            number += 1

    def names(self) -> list[tuple[Kind, str]]:
        """Return kind and name of all tags, in order."""
        return sorted(self._numbers("tags"))

    def problems(self) -> Iterator[SdquantError]:
        """Yield an error for each entry that cannot be read."""
        for (kind, name), numbers in sorted(self._numbers("tags").items()):
            for number in numbers:
                try:
                    self._read(kind, name, number)
                except SdquantError as error:
                    yield error

    def gaps(self) -> Iterator[str]:
        """Yield a line for each tag that has lost earlier entries, which does not change its current one."""
        for (kind, name), numbers in sorted(self._numbers("tags").items()):
            lost = sorted(set(range(numbers[-1])) - set(numbers))
            if lost:
                path = f"{self._objects.url}/tags/{kind}/{name}"
                yield f"{path}: entries {', '.join(map(str, lost))} are missing; entry {numbers[-1]} is used"

    def _numbers(self, prefix: str) -> dict[tuple[Kind, str], list[int]]:
        """Return the numbers of each tag's entries, in order, by kind and name."""
        numbers: dict[tuple[Kind, str], list[int]] = {}
        for path in sorted(self._objects.sizes(prefix)):
            if is_entry(path):
                _, kind, name, file = path.split("/")
                numbers.setdefault((Kind(kind), name), []).append(int(file[:8]))
        return numbers

    def _read(self, kind: Kind, name: str, number: int) -> str:
        path = _path(kind, name, number)
        where = f"{self._objects.url}/{path}"
        remedy = f"set it again with `sdquant tag {kind}/KEY {name}`"
        try:
            key = read_document(self._objects.read(path) or b"", where).get("key")
        except DamagedArtifact as error:
            raise DamagedArtifact(f"{error}; {remedy}") from None
        if not (isinstance(key, str) and KEY.fullmatch(key)):
            raise DamagedArtifact(f"{where} is damaged: key {key!r}, expected 20 hex digits; {remedy}")
        return key


def is_entry(path: str) -> bool:
    """Tell if a path of the store is a tag's entry."""
    entry = _ENTRY.fullmatch(path)
    return entry is not None and entry[1] in set(Kind)


def check_name(name: str) -> str:
    """Return a tag's name; raises UsageProblem if it has other characters than a name may have."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageProblem(f"tag {name!r}: expected letters, digits, '-', '_' and '.'")
    return name


def _path(kind: Kind, name: str, number: int) -> str:
    return f"tags/{kind}/{name}/{number:08d}.json"
