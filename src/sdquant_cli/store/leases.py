"""Leases: which process writes which unit of a draft. Advice only: units are correct without them.

The process that creates `leases/000012.0` takes unit 12. If it is lost, the unit is taken again by creating
`leases/000012.1`, which one process can. A process is lost if its lock file, beside this one's, is not
locked; one on another machine, whose lock file is elsewhere, if it takes much longer for a unit than this
process does. No clocks are compared. Leases are removed on publishing.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from ..events import Events
from ..ranks import current
from ..sealed import parse, seal
from .objects import Objects
from .scratch import Member

_LEASE = re.compile(r".*/leases/(\d{6,})\.(\d+)", re.ASCII)
UNKNOWN, FEWEST, TIMES = 600.0, 60.0, 3.0  # seconds before a unit is taken again: see `_patience`
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0  # seconds between looks at what other processes have stored


def is_lease(path: str) -> bool:
    """Tell if a path of the store is a lease."""
    return _LEASE.fullmatch(path) is not None


def pauses() -> Iterator[None]:
    """Yield without end, at first soon, then after longer pauses."""
    wait = FIRST_WAIT
    while True:
        yield
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


class Leases:
    """The leases of one draft."""

    def __init__(self, objects: Objects, draft: str, member: Member, events: Events) -> None:
        self._objects, self._folder, self._member = objects, f"{draft}/leases", member
        self._events = events
        self._longest = 0.0  # seconds that this process took for a unit
        self._seen: dict[
            tuple[int, int], tuple[float, dict[str, object]]
        ] = {}  # when first seen, and by whom

    def turns(
        self, units: Sequence[int], stored: Callable[[], Collection[int]], pass_over: Callable[[int], None]
    ) -> Iterator[int]:
        """Yield the units that this process is to write, until all are stored.

        `stored` returns units that are; each that another process has stored goes to `pass_over`.
        """
        left: list[int] = []
        free = current().rotated(units)
        while free:
            unit = free.pop(0)
            if not self._take(unit, 0):
                left.append(unit)
                continue
            yield from self._timed(unit)
            if current().count > 1 and current().is_first:  # whose progress is that of all
                left = self._still_missing(left, done := stored(), pass_over)
                free = self._still_missing(free, done, pass_over)
        while left:
            for _ in pauses():
                left = self._still_missing(left, stored(), pass_over)
                retaken = self._take_again(left) if left else None
                if retaken is not None or not left:
                    break
            if retaken is not None:
                left.remove(retaken)
                yield from self._timed(retaken)

    @staticmethod
    def _still_missing(
        units: Sequence[int], stored: Collection[int], pass_over: Callable[[int], None]
    ) -> list[int]:
        """Return the units that are not stored; pass over those that are."""
        missing = []
        for unit in units:
            if unit in stored:
                pass_over(unit)
            else:
                missing.append(unit)
        return missing

    def clear(self) -> None:
        """Remove all leases."""
        self._objects.delete(list(self._objects.sizes(self._folder)))

    def _timed(self, unit: int) -> Iterator[int]:
        began = time.monotonic()
        yield unit
        self._longest = max(self._longest, time.monotonic() - began)

    def _take(self, unit: int, attempt: int) -> bool:
        document = {"member": self._member.name, "host": self._member.host, "rank": current().rank}
        path = f"{self._folder}/{unit:06d}.{attempt}"
        return self._objects.create(path, seal(document), durable=False)

    def _take_again(self, units: Collection[int]) -> int | None:
        """Return the first unit whose process is lost, taken now; None if there is none."""
        attempts: dict[int, int] = {}
        for path in self._objects.sizes(self._folder):
            name = _LEASE.fullmatch(path)
            if name and int(name[1]) in units:
                attempts[int(name[1])] = max(attempts.get(int(name[1]), 0), int(name[2]))
        for unit, attempt in sorted(attempts.items()):
            if self._is_lost(unit, attempt) and self._take(unit, attempt + 1):
                _, lease = self._seen[unit, attempt]
                if lease.get("member") != self._member.name:
                    self._events.warn(
                        f"unit {unit} was left by rank {lease.get('rank')} on {lease.get('host')}, and is "
                        f"computed here"
                    )
                return unit
        return None

    def _is_lost(self, unit: int, attempt: int) -> bool:
        if (unit, attempt) not in self._seen:
            self._seen[unit, attempt] = time.monotonic(), self._read(unit, attempt)
        since, lease = self._seen[unit, attempt]
        if self._member.is_lost(str(lease.get("member"))):
            return True
        return time.monotonic() - since > self._patience()

    def _read(self, unit: int, attempt: int) -> dict[str, object]:
        try:
            return parse(self._objects.read(f"{self._folder}/{unit:06d}.{attempt}") or b"{}")
        except ValueError:
            return {}

    def _patience(self) -> float:
        """Return the seconds after which a unit that another machine has taken is computed here, too."""
        return max(FEWEST, TIMES * self._longest) if self._longest else UNKNOWN
