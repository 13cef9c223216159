"""Simulate 1,000 ranks that draw 5,000,000 pictures over one bucket: efficiency, requests, bytes.

    python -m benchmarks.scale.simulate

Event by event, by the protocol of `sdquant_cli/store/leases.py`: each rank takes the units of its own part,
then looks for any that nobody has taken, then for those of lost ranks. What is measured elsewhere is put in:
seconds of a unit, latencies of requests, the mean time between failures of a node.
"""

import argparse
import heapq
import json
import math
import random
from dataclasses import dataclass, field

GPU_SECONDS = 33 * 3600 / 40_000  # of a picture of 512x512 in 50 steps, fp32, guided: docs/how-to/gpu.md
UNIT = 64  # pictures
BYTES = UNIT * 512 * 512 * 3 / 1.28  # of a stored unit
PAGE = 1000  # objects of one listing


@dataclass(frozen=True)
class World:
    """What is simulated."""

    ranks: int = 1000
    pictures: int = 5_000_000
    per_node: int = 8  # ranks that fail together
    hours_between_failures: float = 24.0  # of a node
    minutes_to_return: float = 5.0
    request_seconds: float = 0.06  # median; spread as a lognormal of 0.5
    megabytes_per_second: float = 80.0  # of one rank to the bucket
    spread: float = 0.05  # of the seconds of units, and of ranks
    seed: int = 0


@dataclass
class Counts:
    """What happened."""

    requests: dict[str, int] = field(default_factory=dict)
    bytes: float = 0.0
    failures: int = 0
    lost_seconds: float = 0.0  # of units in hand
    twice: int = 0  # units that were computed although their process was at work
    computing: float = 0.0  # seconds of all ranks
    talking: float = 0.0  # seconds of all ranks in requests, while no unit is computed

    def add(self, name: str, count: int = 1) -> None:
        self.requests[name] = self.requests.get(name, 0) + count


class Simulation:
    """Ranks, units, and a queue of what happens next."""

    def __init__(self, world: World) -> None:
        self.world, self.chance = world, random.Random(world.seed)
        self.counts = Counts()
        self.units = -(-world.pictures // UNIT)
        self.speed = [self._about(1, world.spread) for _ in range(world.ranks)]
        self.leased = bytearray(self.units)
        self.stored = bytearray(self.units)
        self.left = self.units
        self.at = [rank * self.units // world.ranks for rank in range(world.ranks)]  # where each looks next
        self.seen = [bytearray(self.units) for _ in range(world.ranks)]  # leases that each knows of
        self.began = [0.0] * world.ranks
        self.lost: list[tuple[float, int]] = []  # when a unit of a lost rank may be taken again, and the unit
        self.in_hand: list[int | None] = [None] * world.ranks
        self.life = [0] * world.ranks  # how often each rank has failed
        self.events: list[tuple[float, int, str, int, int]] = []
        self.ended = 0.0

    def _about(self, middle: float, spread: float) -> float:
        return middle * math.exp(self.chance.gauss(0, spread))

    def _request(self, name: str, megabytes: float = 0.0) -> float:
        """Return the seconds of a request, and count it."""
        self.counts.add(name)
        self.counts.bytes += megabytes * 1e6
        seconds = self._about(self.world.request_seconds, 0.5) + megabytes / self.world.megabytes_per_second
        self.counts.talking += seconds
        return seconds

    def _listing(self) -> float:
        return sum(self._request("LIST") for _ in range(-(-self.units // PAGE)))

    def _push(self, when: float, what: str, rank: int) -> None:
        heapq.heappush(self.events, (when, len(self.events), what, rank, self.life[rank]))

    def run(self) -> float:
        """Return the seconds until the artifact is published."""
        for rank in range(self.world.ranks):
            self._push(self._listing(), "free", rank)
        for first in range(0, self.world.ranks, self.world.per_node):
            self._push(self._next_failure(), "failure", first)
        while self.left:
            now, _, what, rank, life = heapq.heappop(self.events)
            if what == "failure":
                self._fail(now, rank)
            elif life == self.life[rank]:
                {"free": self._take, "computed": self._store, "back": self._return}[what](now, rank)
            self.ended = now
        receipts = sum(self._request("GET receipt") for _ in range(self.units)) / 16  # requests at a time
        return self.ended + receipts + self._listing() + self._request("PUT manifest")

    def _next_failure(self) -> float:
        return self.chance.expovariate(1 / (3600 * self.world.hours_between_failures))

    def _fail(self, now: float, first: int) -> None:
        """Have a node fail: its ranks lose what they hold, and come back later."""
        self.counts.failures += 1
        for rank in range(first, min(first + self.world.per_node, self.world.ranks)):
            self.life[rank] += 1
            if (unit := self.in_hand[rank]) is not None:
                self.counts.lost_seconds += now - self.began[rank]
                heapq.heappush(self.lost, (now + 3 * self._unit_seconds(rank), unit))
                self.in_hand[rank] = None
            self._push(now + 60 * self.world.minutes_to_return, "back", rank)
        self._push(now + self._next_failure(), "failure", first)

    def _return(self, now: float, rank: int) -> None:
        self._push(now + self._listing(), "free", rank)

    def _unit_seconds(self, rank: int) -> float:
        return GPU_SECONDS * UNIT * self.speed[rank]

    def _take(self, now: float, rank: int) -> None:
        """Have a rank take a unit: of its own part, of another's, or a lost one."""
        unit, seconds = self._choose(now, rank)
        if unit is None:  # looks at units and at leases, then waits
            wait = max(5.0, self._unit_seconds(rank) / 4)
            self._push(now + seconds + self._listing() + self._listing() + wait, "free", rank)
            return
        self.leased[unit] = 1
        self.in_hand[rank] = unit
        self.began[rank] = now
        computing = self._about(self._unit_seconds(rank), self.world.spread)
        self.counts.computing += computing
        self._push(now + seconds + computing, "computed", rank)

    def _choose(self, now: float, rank: int) -> tuple[int | None, float]:
        seconds, seen = 0.0, self.seen[rank]
        while (unit := self._next(rank)) is not None:
            seconds += self._request("PUT lease")
            if not self.leased[unit]:
                seen[unit] = 1
                return unit, seconds
            seconds += self._request("GET lease") + self._listing() + self._listing()
            seen[:] = self.leased
        while self.lost and self.stored[self.lost[0][1]]:
            heapq.heappop(self.lost)
        if self.lost and self.lost[0][0] <= now:
            return heapq.heappop(self.lost)[1], seconds + self._request("PUT lease")
        return None, seconds

    def _next(self, rank: int) -> int | None:
        """Return the next unit, from a rank's own place on, of which the rank knows no lease."""
        seen, at = self.seen[rank], self.at[rank]
        unit = seen.find(0, at)
        if unit < 0:
            unit = seen.find(0, 0, at)
        return unit if unit >= 0 else None

    def _store(self, now: float, rank: int) -> None:
        unit = self.in_hand[rank]
        assert unit is not None
        self.in_hand[rank] = None
        seconds = self._request("PUT shard", BYTES / 1e6) + self._request("GET shard", BYTES / 1e6)
        seconds += self._request("PUT receipt")
        if self.stored[unit]:
            self.counts.twice += 1
        else:
            self.stored[unit] = 1
            self.left -= 1
        self._push(now + seconds, "free", rank)


def summary(world: World) -> dict[str, object]:
    """Return what a simulation says."""
    simulation = Simulation(world)
    seconds = simulation.run()
    counts = simulation.counts
    needed = GPU_SECONDS * world.pictures
    spent = {
        "computing what is kept": needed,
        "units lost by failures": counts.lost_seconds,
        "requests": counts.talking,
    }
    spent["waiting: nodes that are away, the last units, publishing"] = seconds * world.ranks - sum(
        spent.values()
    )
    dollars = sum(
        n * (5e-6 if name.startswith(("PUT", "LIST")) else 4e-7) for name, n in counts.requests.items()
    )
    return {
        "world": vars(world),
        "hours": seconds / 3600,
        "efficiency": needed / (seconds * world.ranks),
        "failures of nodes": counts.failures,
        "units": simulation.units,
        "units computed twice": counts.twice,
        "requests": counts.requests,
        "dollars of requests": dollars,
        "terabytes": counts.bytes / 1e12,
        "share of time": {name: value / (seconds * world.ranks) for name, value in spent.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=World.ranks)
    parser.add_argument("--pictures", type=int, default=World.pictures)
    words = parser.parse_args()
    print(json.dumps(summary(World(ranks=words.ranks, pictures=words.pictures)), indent=1))


if __name__ == "__main__":
    main()
