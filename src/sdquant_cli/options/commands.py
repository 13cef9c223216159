"""The commands: which request each builds, and the options that are not part of a request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..types import Preset
from . import requests
from .base import Fields
from .option import Flag, Option, Panel, by_panel, flags_of
from .values import AgeText, Switch

STORE = Flag(
    "store",
    str,
    Option("Folder or URL of the store.", Panel.OUTPUT, envvar="SDQUANT_STORE"),
    default="./sdquant-store",
)
JSON = Flag("json", bool, Option("Print one JSON document to stdout.", Panel.OUTPUT), default=False)
DRY_RUN = Flag(
    "dry_run", bool, Option("Print what would be done, and do nothing.", Panel.OUTPUT), default=False
)
PRESET = Flag(
    "preset", Preset | None, Option("Settings of the paper's experiments; other flags override them.")
)
STAGE = (STORE, DRY_RUN, JSON)


class DemoRequest(Fields):
    """Options of `demo`."""

    output: Annotated[Path, Option("PNG file to write.")] = Path("sdquant-demo.png")


class RunRequest(Fields):
    """Options of `run`."""

    config: Annotated[Path, Option("YAML file with a section per stage, or several such chains.")]


class ListRequest(Fields):
    """Options of `ls`: none."""


class CollectRequest(Fields):
    """Options of `gc`."""

    older_than: Annotated[
        AgeText, Option("Leave what something was written to since: 14d, 12h or 30m.", metavar="AGE")
    ] = "14d"


NAME = "kind, kind/key, kind/tag, or the beginning of a key."


class ShowRequest(Fields):
    """Options of `show`."""

    name: Annotated[str, Option(f"Artifact: {NAME}", argument=True)]


class VerifyRequest(Fields):
    """Options of `verify`."""

    name: Annotated[
        str | None,
        Option("Artifact, or an exported folder. Default: the whole store.", argument=True),
    ] = None


class RemoveRequest(Fields):
    """Options of `rm`."""

    name: Annotated[str, Option(f"Artifact: {NAME}", argument=True)]
    force: Annotated[Switch, Option("Remove it even if other artifacts depend on it.")] = False


class TagRequest(Fields):
    """Options of `tag`."""

    name: Annotated[str, Option(f"Artifact: {NAME}", argument=True)]
    tag_name: Annotated[str, Option("Tag to set.", argument=True, metavar="TAG")]


@dataclass(frozen=True)
class CommandOptions:
    """The options of one command: its request's, and those that are not part of a request."""

    request: type[Fields]
    shared: tuple[Flag, ...]

    @property
    def is_stage(self) -> bool:
        """Whether the command makes artifacts, which ranks share."""
        return set(STAGE) <= set(self.shared)

    @property
    def request_flags(self) -> list[Flag]:
        """The flags of the request's fields."""
        return flags_of(self.request.model_fields, self.request.without_flag)

    @property
    def flags(self) -> list[Flag]:
        """All flags, by panel."""
        return by_panel([*self.request_flags, *self.shared])


COMMANDS = {
    "sample": CommandOptions(requests.SampleRequest, (PRESET, *STAGE)),
    "precalc-time": CommandOptions(requests.PrecalcTimeRequest, STAGE),
    "sensitivity": CommandOptions(requests.SensitivityRequest, (PRESET, *STAGE)),
    "calibrate": CommandOptions(requests.CalibrateRequest, (PRESET, *STAGE)),
    "generate": CommandOptions(requests.GenerateRequest, (PRESET, *STAGE)),
    "evaluate": CommandOptions(requests.EvaluateRequest, STAGE),
    "quantize": CommandOptions(requests.QuantizeRequest, (DRY_RUN,)),
    "export": CommandOptions(requests.ExportRequest, (STORE,)),
    "bench": CommandOptions(requests.BenchRequest, (STORE, JSON)),
    "report": CommandOptions(requests.ReportRequest, (STORE,)),
    "leaderboard": CommandOptions(requests.LeaderboardRequest, STAGE),
    "demo": CommandOptions(DemoRequest, (STORE,)),
    "doctor": CommandOptions(requests.DoctorRequest, (JSON,)),
    "run": CommandOptions(RunRequest, STAGE),
    "ls": CommandOptions(ListRequest, (STORE, JSON)),
    "show": CommandOptions(ShowRequest, (STORE, JSON)),
    "verify": CommandOptions(VerifyRequest, (STORE,)),
    "gc": CommandOptions(CollectRequest, (STORE, DRY_RUN)),
    "rm": CommandOptions(RemoveRequest, (STORE,)),
    "tag": CommandOptions(TagRequest, (STORE,)),
}


def flags_by_spec() -> dict[str, Flag]:
    """Return the flag that sets each field of a spec, by names such as `QuantStateSpec.bits`."""
    flags: dict[str, Flag] = {}
    for command in COMMANDS.values():
        for flag in command.request_flags:
            for spec in flag.option.specs:
                flags.setdefault(spec, flag)
    return flags
