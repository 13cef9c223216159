"""Leases: which process writes which unit of a draft. Advice only: units are correct without them.

The process that creates `leases/000012.0` takes unit 12. If it is lost, the unit is taken again by creating
`leases/000012.1`, which one process can. A process is lost if its lock file, beside this one's, is not
locked; one on another machine, whose lock file is elsewhere, if it takes much longer for a unit than this
process does. No clocks are compared. Leases are removed on publishing.
"""

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from ..events import Events
from ..ranks import current
from ..sealed import parse, seal
from .objects import Objects
from .scratch import Member

_LEASE = re.compile(r".*/leases/(\d{6,})\.(\d+)", re.ASCII)
Stored = Callable[[], Collection[int]]  # returns the units that are stored
UNKNOWN, FEWEST, TIMES = 600.0, 60.0, 3.0  # seconds before a unit is taken again: see `_patience`
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0  # seconds between looks at what other processes have stored


def is_lease(path: str) -> bool:
    """Tell if a path of the store is a lease."""
    return _LEASE.fullmatch(path) is not None


def pauses(longest: float = LONGEST_WAIT) -> Iterator[None]:
    """Yield without end, at first soon, then after longer pauses, of at most so many seconds."""
    wait = FIRST_WAIT
    while True:
        yield
        time.sleep(wait)
        wait = min(2 * wait, longest)


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


class Leases:
    """The leases of one draft."""

    def __init__(self, objects: Objects, draft: str, member: Member, events: Events) -> None:
        self._objects, self._folder, self._member = objects, f"{draft}/leases", member
        self._events = events
        self._longest = 0.0  # seconds that this process took for a unit
        self._seen: dict[
            tuple[int, int], tuple[float, dict[str, object]]
        ] = {}  # when first seen, and by whom

    def turns(self, units: Sequence[int], stored: Stored, pass_over: Callable[[int], None]) -> Iterator[int]:
        """Yield the units that this process is to write, until all are stored.

        `stored` returns units that are; each that another process has stored goes to `pass_over`.
        """
        left: list[int] = []
        yield from self._first_turns(current().rotated(units), left, stored, pass_over)
        while left:
            for _ in pauses(max(LONGEST_WAIT, self._longest / 4)):  # a look lists all units
                still = _still_missing(left, stored(), pass_over)
                retaken = self._take_again(still) if still else None
                if retaken is not None or not still:
                    break
            left = [unit for unit in still if unit != retaken]
            if retaken is not None:
                yield from self._timed(retaken)

    def _first_turns(
        self, free: list[int], left: list[int], stored: Stored, pass_over: Callable[[int], None]
    ) -> Iterator[int]:
        """Yield units that nobody has taken; others that are not stored yet go to `left`."""
        while free:
            unit = free.pop(0)
            is_mine = self._take(unit, 0) or self._take_again([unit]) is not None
            if not is_mine:  # then others are likely to have taken more
                taken = {unit, *self._attempts()}
                left.extend(sorted(taken.intersection([unit, *free])))
                free = [unit for unit in free if unit not in taken]
                continue
            yield from self._timed(unit)
            if current().count > 1 and current().is_first:  # whose progress is that of all
                done = stored()
                left[:] = _still_missing(left, done, pass_over)
                free = _still_missing(free, done, pass_over)

    def clear(self) -> None:
        """Remove all leases."""
        self._objects.delete(list(self._objects.sizes(self._folder)))

    def _timed(self, unit: int) -> Iterator[int]:
        began = time.monotonic()
        yield unit
        self._longest = max(self._longest, time.monotonic() - began)

    def _take(self, unit: int, attempt: int) -> bool:
        """Create a lease; a request that is repeated since its answer was lost finds its own lease."""
        token = secrets.token_hex(8)
        lease = {"member": self._member.name, "host": self._member.host, "rank": current().rank}
        path = f"{self._folder}/{unit:06d}.{attempt}"
        is_new = self._objects.create(path, seal(lease | {"token": token}), durable=False)
        return is_new or self._read(unit, attempt).get("token") == token

    def _take_again(self, units: Collection[int]) -> int | None:
        """Return the first unit whose process is lost, taken now; None if there is none."""
        for unit, attempt in sorted(self._attempts().items()):
            if unit in units and self._is_lost(unit, attempt) and self._take(unit, attempt + 1):
                _, lease = self._seen[unit, attempt]
                if lease.get("member") != self._member.name:
                    self._events.warn(
                        f"unit {unit} was left by rank {lease.get('rank')} on {lease.get('host')}, and is "
                        f"computed here"
                    )
                return unit
        return None

    def _attempts(self) -> dict[int, int]:
        """Return the last attempt at each unit that was taken; costs one listing."""
        attempts: dict[int, int] = {}
        for path in self._objects.sizes(self._folder):
            if name := _LEASE.fullmatch(path):
                unit, attempt = map(int, name.groups())
                attempts[unit] = max(attempts.get(unit, 0), attempt)
        return attempts

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
