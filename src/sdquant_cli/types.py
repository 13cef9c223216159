"""Small types that the command line and the library share. Standard library only."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"  # without the underscores that float() takes


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
    """Schedulers by their usual short names."""

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
        """The diffusers class that the name stands for."""
        return _SCHEDULER_CLASSES[self]

    @classmethod
    def parse(cls, text: str) -> str:
        """Parse a short name or a diffusers class name, and return the short name if there is one.

        Raises ValueError for anything else.
        """
        if text in set(cls):
            return cls(text).value
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*Scheduler", text, re.ASCII):
            raise ValueError(
                f"expected one of {', '.join(cls)}, or a diffusers class such as HeunDiscreteScheduler, "
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
    """The rule that chooses the steps of calibration latents."""

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
    """The computation of a network's layers."""

    FP = "fp"
    SIMULATED = "simulated"  # fake quantization: rounded values in floating-point weights
    DEQUANTIZED = "dequantized"  # packed weights, converted to floating point layer by layer
    INTEGER = "integer"


class Engine(StrEnum):
    """The engine requested for a quantized network."""

    AUTO = "auto"  # integer where machine and state allow it, else simulated
    SIMULATED = "simulated"
    DEQUANTIZED = "dequantized"
    INTEGER = "integer"


class ExportFormat(StrEnum):
    """The format of an exported network's weights."""

    PACKED = "packed"  # integer codes: small, and computed with integers
    DEQUANT = "dequant"  # quantized values as fp16: loads without sdquant
    SINGLE_FILE = "single-file"  # likewise, all networks in one file in the original code's names
    COMFYUI_INT8 = "comfyui-int8"  # such a file whose linear layers ComfyUI computes in int8
    ONNX = "onnx"  # a graph for ONNX Runtime, with calibrated scales
    OPENVINO = "openvino"  # likewise for OpenVINO


class Relax(StrEnum):
    """The timesteps with 10-bit activations."""

    NONE = "none"
    FIRST = "first"  # near the noise
    LAST = "last"  # near the clean image


class StepMatch(StrEnum):
    """The activation quantizers that a timestep without calibration uses."""

    NEAREST = "nearest"  # those of the nearest calibrated timestep
    INTERPOLATE = "interpolate"  # between two calibrated ones, linearly in log-SNR


class Dtype(StrEnum):
    """Floating-point formats of the denoiser."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Measure(StrEnum):
    """The measure of a layer's sensitivity."""

    PRINTED = "printed"  # eq. (10) of the paper, as printed
    FISHER = "fisher"  # with the empirical Fisher matrix
    SQNR = "sqnr"  # of the network's output with one layer quantized
    PUBLISHED = "published"  # as the file of --ranking lists them


class Activations(StrEnum):
    """The kind of a network's activation scales."""

    PER_STEP = "per-step"  # calibrated, one for each timestep or one for all
    TOKEN = "token"  # found at run time, one for each token or pixel


class Tables(StrEnum):
    """The calibrated activation quantizers of a layer."""

    PER_STEP = "per-step"
    SINGLE = "single"
    PROGRESSIVE = "progressive"  # per step, on the outputs of the quantized steps before it


class Ranges(StrEnum):
    """The rule that computes an activation's range from data."""

    MIN_MAX = "min-max"
    MSE = "mse"
    L24 = "l2.4"

    @property
    def power(self) -> float:
        """The exponent of the rounding error that the search minimises."""
        return {Ranges.MSE: 2.0, Ranges.L24: 2.4}[self]


class Train(StrEnum):
    """The parameters that a calibration trains."""

    WEIGHTS_AND_STEPS = "weights+steps"
    STEPS = "steps"
    LOW_RANK = "low-rank"


class TimePath(StrEnum):
    """The computation of the time path's table."""

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
        """Parse `metric<=number` or `metric>=number`; raises ValueError for anything else."""
        match = re.fullmatch(rf"\s*([^<>=\s]+)\s*(<=|>=)\s*({_DECIMAL})\s*", text, re.ASCII)
        if match is not None and math.isfinite(bound := float(match[3])):
            return cls(match[1], match[2], bound)
        raise ValueError(f"expected metric<=number or metric>=number such as psnr>=25, found {text!r}")

    def passes(self, value: float) -> bool:
        """Tell if a metric's value keeps the bound."""
        return value <= self.bound if self.operator == "<=" else value >= self.bound


@dataclass(frozen=True)
class Bits:
    """Bit widths of weights and activations; written `w4a8`."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"

    def at_least(self, other: "Bits") -> "Bits":
        """Return the larger of both bit widths, for weights and for activations."""
        return Bits(max(self.weights, other.weights), max(self.activations, other.activations))

    @classmethod
    def parse(cls, text: str) -> "Bits":
        """Parse `w4a8`; raises ValueError unless weights are 2..8 and activations 2..16 bits."""
        match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", text.strip().lower(), re.ASCII)
        bits = cls(int(match[1]), int(match[2])) if match else None
        if bits is None or not (2 <= bits.weights <= 8 and 2 <= bits.activations <= 16):
            raise ValueError(f"expected w<2..8>a<2..16> such as w4a8, found {text!r}")
        return bits

    @classmethod
    def of_layer(cls, text: str) -> "Bits":
        """Parse the bits of a layer, which may be those of one that stays in floating point."""
        return FLOATING if text == str(FLOATING) else cls.parse(text)


FLOATING = Bits(32, 32)  # of a layer that stays in floating point


_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BYTES_BY_LOWER = {unit.lower(): unit for unit in _BYTES}


@dataclass(frozen=True)
class Budget:
    """A size limit for all weight codes: average bits per weight, written `4.25`, or bytes, written `3MB`."""

    amount: Decimal
    unit: str = ""  # a unit of bytes; empty for bits per weight

    def __str__(self) -> str:
        return f"{self.amount.normalize():f}{self.unit}"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse `4.25` or `3MB`; raises ValueError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)\s*", text, re.ASCII | re.IGNORECASE)
        unit = _BYTES_BY_LOWER.get(match[2].lower(), match[2]) if match else ""
        if match is None or unit not in ("", *_BYTES) or not Decimal(match[1]):
            raise ValueError(
                f"expected average weight bits such as 4.25 or bytes such as 3MB or 2.5MiB, found {text!r}"
            )
        return cls(Decimal(match[1]), unit)

    def bits(self, parameters: int) -> int:
        """Return the number of whole bits for the codes of this many weights."""
        return int(self.amount * (8 * _BYTES[self.unit] if self.unit else parameters))
