"""Types of what requests hold: numbers with bounds, and texts with a form.

Numbers are finite and bounded: what lies beyond is a slip, and would overflow later on.
"""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from ..types import Bits, Budget, Gate, Scheduler

LARGEST = 2**31 - 1


def _no_switch(value: object) -> object:
    """Return the value; raises ValueError for true and false, which pydantic takes for numbers."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    return value


Whole = Annotated[int, Strict(), Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST)]
NonNegative = Annotated[int, Strict(), Field(ge=0, le=LARGEST)]
Steps = Annotated[int, Strict(), Field(ge=1, le=100_000)]
Seed = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
Pixels = Annotated[int, Strict(), Field(ge=8, le=2**24)]
BitWidth = Annotated[int, Strict(), Field(ge=2, le=16)]
Scale = Annotated[float, Field(ge=-1000, le=1000), BeforeValidator(_no_switch)]
Guidance = Annotated[float, Field(ge=0, le=1000), BeforeValidator(_no_switch)]
Weight = Annotated[float, Field(ge=0, le=1e6), BeforeValidator(_no_switch)]
Positive = Annotated[float, Field(gt=0, le=1e3), BeforeValidator(_no_switch)]
Cost = Annotated[float, Field(gt=0, le=1e15), BeforeValidator(_no_switch)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_no_switch)]
Quantile = Annotated[float, Field(gt=0, le=1), BeforeValidator(_no_switch)]
Decay = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_no_switch)]
Switch = Annotated[bool, Strict()]

_AGE = re.compile(r"(\d{1,6})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def _age_text(text: str) -> str:
    age(text)
    return text


def age(text: str) -> timedelta:
    """Return the time of a text as in 14d, 12h or 30m; raises ValueError."""
    words = _AGE.fullmatch(text)
    if words is None:
        raise ValueError("expected a whole number of days, hours or minutes, as in 14d, 12h or 30m")
    return timedelta(**{_UNITS[words[2]]: int(words[1])})


def _batch_text(value: object) -> str:
    text = str(value)
    if text != AUTO and not (text.isascii() and text.isdigit() and 1 <= int(text[:11]) <= LARGEST):
        raise ValueError(f"expected a number of prompts, 1 or more, or {AUTO}")
    return text


AgeText = Annotated[str, AfterValidator(_age_text)]  # as in 14d
AUTO = "auto"  # how it leaves the choice to the machine
NONE = "none"  # how a value says that there is none
FLOAT = "float"  # how it says that layers stay in floating point
BitsText = Annotated[str, AfterValidator(lambda text: str(Bits.parse(text)))]  # as in w4a8
EdgesText = Annotated[  # as in w8a16
    str, AfterValidator(lambda text: text if text in (NONE, FLOAT) else str(Bits.parse(text)))
]
BatchText = Annotated[str, BeforeValidator(_batch_text)]  # as in 8, or auto
_COMPONENT = re.compile(r"(\w+)(?:=(\w+))?", re.ASCII)


def component(text: str) -> tuple[str, str | None]:
    """Return the name of a component, and its bits where the text gives any; raises ValueError."""
    words = _COMPONENT.fullmatch(text)
    if words is None:
        raise ValueError("expected names of components, with bits where they differ: text_encoder,vae=w8a16")
    return words[1], words[2] and str(Bits.parse(words[2]))


def _component_text(text: str) -> str:
    component(text)
    return text


ComponentText = Annotated[str, AfterValidator(_component_text)]  # as in text_encoder, or vae=w8a16
BudgetText = Annotated[str, BeforeValidator(lambda value: str(Budget.parse(str(value))))]  # 4.25 or 3MB
ColumnText = Annotated[  # a name, or a number, which YAML may write as such
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value)
]
SchedulerText = Annotated[str, AfterValidator(Scheduler.parse)]  # as in euler, or HeunDiscreteScheduler
GateText = Annotated[str, AfterValidator(lambda text: str(Gate.parse(text)))]  # as in psnr>=25
