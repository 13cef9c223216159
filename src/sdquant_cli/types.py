"""Small types that the command line and the library share. Standard library only."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"  # as people write it: no underscores


class Kind(StrEnum):
    """Kinds of artifact in a store."""

    PROMPTS = "prompts"
    TEXT_EMBEDS = "text-embeds"
    LATENTS = "latents"
    TIME_TABLE = "time-table"
    SENSITIVITY = "sensitivity"
    QUANT_STATE = "quant-state"
    IMAGES = "images"
    FEATURES = "features"
    DRIFT = "drift"
    METRICS = "metrics"
    LEADERBOARD = "leaderboard"


class Scheduler(StrEnum):
    """Samplers by their usual short names."""

    PNDM = "pndm"
    DDIM = "ddim"
    EULER = "euler"
    EULER_ANCESTRAL = "euler-ancestral"
    DPM = "dpm++"
    UNIPC = "unipc"
    LCM = "lcm"
    FLOW_EULER = "flow-euler"

    @property
    def class_name(self) -> str:
        """The class of diffusers that it stands for."""
        return _SCHEDULER_CLASSES[self]

    @classmethod
    def parse(cls, text: str) -> str:
        """Read a short name or the name of a class of diffusers, which gives its short name if it has one.

        Raises ValueError for anything else.
        """
        if text in set(cls):
            return cls(text).value
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*Scheduler", text, re.ASCII):
            raise ValueError(
                f"expected one of {', '.join(cls)}, or a class of diffusers such as HeunDiscreteScheduler, "
                f"found {text!r}"
            )
        short_names = {class_name: name.value for name, class_name in _SCHEDULER_CLASSES.items()}
        return short_names.get(text, text)


_SCHEDULER_CLASSES = {
    Scheduler.PNDM: "PNDMScheduler",
    Scheduler.DDIM: "DDIMScheduler",
    Scheduler.EULER: "EulerDiscreteScheduler",
    Scheduler.EULER_ANCESTRAL: "EulerAncestralDiscreteScheduler",
    Scheduler.DPM: "DPMSolverMultistepScheduler",
    Scheduler.UNIPC: "UniPCMultistepScheduler",
    Scheduler.LCM: "LCMScheduler",
    Scheduler.FLOW_EULER: "FlowMatchEulerDiscreteScheduler",
}


class Select(StrEnum):
    """At which steps of a trajectory calibration latents are taken."""

    RANDOM = "random"
    STRIDE = "stride"
    NORMAL = "normal"
    DENSITY = "density"


class Preset(StrEnum):
    """Settings of a published experiment."""

    SD14 = "paper-sd14"
    SD21 = "paper-sd21"
    SDXL = "paper-sdxl"


class Execution(StrEnum):
    """How a network computes."""

    FP = "fp"
    SIMULATED = "simulated"  # rounded values in floating-point weights
    DEQUANTIZED = "dequantized"  # packed weights, turned into floats layer by layer
    INTEGER = "integer"


class Engine(StrEnum):
    """What a quantized network is to be computed with."""

    SIMULATED = "simulated"
    AUTO = "auto"  # integer where the machine can, else dequantized
    DEQUANTIZED = "dequantized"
    INTEGER = "integer"


class ExportFormat(StrEnum):
    """What the weights of an exported network are."""

    PACKED = "packed"  # integer codes: small, and computed in integers
    DEQUANT = "dequant"  # on their grids, as fp16: loads anywhere, without sdquant


class Relax(StrEnum):
    """Which steps have wider activation grids."""

    NONE = "none"
    FIRST = "first"  # near the noise
    LAST = "last"  # near the picture


class StepMatch(StrEnum):
    """Which activation quantizers a timestep that was not calibrated takes."""

    NEAREST = "nearest"


class Dtype(StrEnum):
    """Floating-point formats of the denoiser."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Measure(StrEnum):
    """How a layer's sensitivity is measured."""

    PRINTED = "printed"  # eq. (10) of the paper, as printed
    FISHER = "fisher"  # with the empirical Fisher matrix
    SQNR = "sqnr"  # directly: the network with one layer quantized


class Tables(StrEnum):
    """How many activation quantizers a layer has."""

    PER_STEP = "per-step"
    SINGLE = "single"
    PROGRESSIVE = "progressive"  # per step, on inputs that the quantized steps before it give


class Ranges(StrEnum):
    """How an activation's range is found from data."""

    MIN_MAX = "min-max"
    MSE = "mse"
    L24 = "l2.4"

    @property
    def power(self) -> float:
        """Of the rounding error that the search minimises."""
        return {Ranges.MSE: 2.0, Ranges.L24: 2.4}[self]


class Train(StrEnum):
    """What a calibration trains."""

    WEIGHTS_AND_STEPS = "weights+steps"
    STEPS = "steps"
    LOW_RANK = "low-rank"


class TimePath(StrEnum):
    """How the time path's table is computed."""

    PRECALCULATED = "precalculated"
    QUANTIZED = "quantized"


@dataclass(frozen=True)
class Gate:
    """A bound on a metric; written `psnr>=25`."""

    metric: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{self.bound:g}"

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read `metric<=number` or `metric>=number`; raises ValueError for anything else."""
        match = re.fullmatch(rf"\s*([^<>=\s]+)\s*(<=|>=)\s*({_DECIMAL})\s*", text, re.ASCII)
        if match is not None and math.isfinite(bound := float(match[3])):
            return cls(match[1], match[2], bound)
        raise ValueError(f"expected metric<=number or metric>=number such as psnr>=25, found {text!r}")

    def passes(self, value: float) -> bool:
        return value <= self.bound if self.operator == "<=" else value >= self.bound


@dataclass(frozen=True)
class Bits:
    """Bit widths of weights and activations; written `w4a8`."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"

    def at_least(self, other: "Bits") -> "Bits":
        """The wider of both, for weights and for activations."""
        return Bits(max(self.weights, other.weights), max(self.activations, other.activations))

    @classmethod
    def parse(cls, text: str) -> "Bits":
        """Read `w4a8`; raises ValueError unless weights are 2..8 and activations 2..16 bits."""
        match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", text.strip().lower(), re.ASCII)
        bits = cls(int(match[1]), int(match[2])) if match else None
        if bits is None or not (2 <= bits.weights <= 8 and 2 <= bits.activations <= 16):
            raise ValueError(f"expected w<2..8>a<2..16> such as w4a8, found {text!r}")
        return bits


_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BYTES_BY_LOWER = {unit.lower(): unit for unit in _BYTES}


@dataclass(frozen=True)
class Budget:
    """Room for all weights' codes: bits per weight on average, written `4.25`, or bytes, written `3MB`."""

    amount: Decimal
    unit: str = ""  # of bytes; empty: bits per weight

    def __str__(self) -> str:
        return f"{self.amount.normalize():f}{self.unit}"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `4.25` or `3MB`; raises ValueError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)\s*", text, re.ASCII | re.IGNORECASE)
        unit = _BYTES_BY_LOWER.get(match[2].lower(), match[2]) if match else ""
        if match is None or unit not in ("", *_BYTES) or not Decimal(match[1]):
            raise ValueError(
                f"expected average weight bits such as 4.25 or bytes such as 3MB or 2.5MiB, found {text!r}"
            )
        return cls(Decimal(match[1]), unit)

    def bits(self, parameters: int) -> int:
        """Whole bits for the codes of so many weights."""
        return int(self.amount * (8 * _BYTES[self.unit] if self.unit else parameters))
