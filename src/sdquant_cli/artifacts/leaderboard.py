"""Leaderboard: methods on one ground, with the metrics of each."""

from ..manifests import LeaderboardFacts, LeaderboardSpec
from ..store import Artifact
from ..types import Kind


class Leaderboard(Artifact[LeaderboardSpec, LeaderboardFacts]):
    """A stored leaderboard."""

    KIND = Kind.LEADERBOARD
