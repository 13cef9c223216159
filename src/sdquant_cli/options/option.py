"""The description of one option, from which flags, help, reference pages and reports derive.

A request's field carries it: `limit: Annotated[Count | None, Option("Use only N prompts.")] = None`.
Standard library only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class Panel(StrEnum):
    """Headings under which `--help` and the reference list options, in this order."""

    EVERYDAY = "Options"
    BITS = "Bits"
    ACTIVATIONS = "Activations"
    TRAINING = "Training"
    RECONSTRUCTION = "Reconstruction"
    ATTENTION = "Attention"
    SELECTION = "Timestep selection"
    MODEL = "Model and schedule"
    RESOURCES = "Resources"
    OUTPUT = "Output"


class Needs(StrEnum):
    """A requirement on the calibration method for an option to apply."""

    TRAINING = "methods that train"
    DISTILLATION = "methods that train the network as a whole"
    RECONSTRUCTION = "methods that reconstruct blocks"
    IMAGES = "methods that train on images"


@dataclass(frozen=True)
class Option:
    """The description of a field of a request: help, panel, and the spec fields that it sets."""

    help: str
    panel: Panel = Panel.EVERYDAY
    spec: str | tuple[str, ...] = ()  # fields of specs that it becomes, as in "QuantStateSpec.bits"
    needs: Needs | None = None  # None: any method takes it
    unset: str | None = None  # how a command line says None where a method may choose something else
    negative: bool = False  # whether a switch has a --no-... too
    commas: bool = False  # whether several values are written in one word, between commas
    argument: bool = False  # whether it is a word of its own, without a flag
    metavar: str | None = None
    envvar: str | None = None

    @property
    def specs(self) -> tuple[str, ...]:
        """The fields of specs that the option becomes."""
        return (self.spec,) if isinstance(self.spec, str) else self.spec


@dataclass(frozen=True)
class Flag:
    """An option of a command: its name, type and default beside its description."""

    name: str
    annotation: Any  # type of the value; None is allowed where the default is None
    option: Option
    default: Any = None
    required: bool = False

    @property
    def spelling(self) -> str:
        """The name as it is typed: `--batch-size`, or `NAME` for an argument."""
        return self.name.upper() if self.option.argument else f"--{self.name.replace('_', '-')}"

    @property
    def type(self) -> Any:
        """The type of its value, without bounds; None is allowed where the default is None."""
        members = [member for member in get_args(self.annotation) if member is not NoneType]
        annotation = members[0] if NoneType in get_args(self.annotation) else self.annotation
        return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation

    @property
    def is_switch(self) -> bool:
        """Whether it stands alone, without a value."""
        return self.type is bool

    def words(self, value: object) -> list[str]:
        """Return the words of a command line that give the option this value; none for an unset one."""
        if value is None and self.option.unset is not None:
            return [self.spelling, self.option.unset]
        if value is True:
            return [self.spelling]
        if (value is False and self.default is None) or (not value and self.default is True):
            return [f"--no-{self.spelling.removeprefix('--')}"]
        return [] if value is None or value is False else [self.spelling, str(value)]

    def value(self, parsed: object) -> object:
        """Return what a request takes, from what the command line holds."""
        if isinstance(self.default, tuple):
            return self._values(parsed)
        return parsed

    def _values(self, parsed: object) -> tuple[str, ...]:
        if isinstance(parsed, list | tuple):
            return tuple(parsed)
        if not parsed and not self.default:
            return ()
        return tuple(part.strip() for part in str(parsed or "").split(","))


def flags_of(fields: Mapping[str, "FieldInfo"], without: frozenset[str] = frozenset()) -> list[Flag]:
    """Return the flags of a request's fields; those in `without` have none."""
    flags = []
    for name, field in fields.items():
        option = next((item for item in field.metadata if isinstance(item, Option)), None)
        if option is not None and name not in without:
            default = None if field.is_required() else field.get_default()
            flags.append(Flag(name, field.annotation, option, default, field.is_required()))
    return flags


def by_panel(flags: Iterable[Flag]) -> list[Flag]:
    """Return flags in the order of their panels, required ones first."""
    panels = list(Panel)
    return sorted(flags, key=lambda flag: (panels.index(flag.option.panel), not flag.required))
