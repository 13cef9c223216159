"""A calibration in progress: its inputs, the networks, and the results so far."""

import gc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ..events import Events
from ..manifests import LossSpec, QuantStateFacts, QuantStateSpec, Setting, UnitFacts
from ..models.layers import block_names
from ..models.load import Model
from ..types import Bits, Dtype
from .bit_allocation import Choice, mean_bits
from .checkpoints import EVERY, Scratch
from .distillation import LossTargets
from .items import Items
from .output_correction import mean_slope
from .recipe import Recipe
from .sources import Pictures
from .tabulated import TabulatedDenoiser, TimeFeatures, tabulated_denoiser
from .teacher import CachedTeacher, TeacherAccess, TeacherNetwork


@dataclass(frozen=True)
class CalibrationInputs:
    """All values that decide a quantizer state, and the resources that may be used for it."""

    model: Model  # its shortcut convolutions split, if the spec has them so
    setting: Setting
    recipe: Recipe
    spec: QuantStateSpec
    bits: Mapping[str, Bits]  # of each layer and each tap of attention
    items: Items
    time_features: TimeFeatures
    rounded_time_features: TimeFeatures | None  # the student's, of a rounded time path; None: the same
    device: torch.device
    sensitive_layers: Sequence[str] = ()  # of L_sen
    pictures: Pictures | None = None
    cache_bytes: int = 4 * 10**9  # of captured activations in main memory
    checkpointing: bool = False  # of gradients

    @property
    def targets(self) -> LossTargets:
        """The targets of training; empty for a method that does not train the network as a whole."""
        return LossTargets(
            weights=self.spec.loss or LossSpec(sensitive=0, blocks=0, guided=0),
            sensitive=self.sensitive_layers,
            blocks=block_names(self.model.skeleton),
            guidance_scale=self.setting.guidance_scale,
        )


@dataclass
class Results:
    """The results of a calibration's phases."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # of the state and its correction
    table_rows: dict[str, int] = field(default_factory=dict)  # of each layer's activation table
    borrowed_rows: int = 0  # table entries without latents
    losses: list[float] = field(default_factory=list)  # by iteration
    units: tuple[UnitFacts, ...] = ()  # of the last phase of reconstruction, in running order
    forwards: float = 0.0  # cost in runs of the network by one item

    def mean_losses(self) -> tuple[float, ...]:
        """Return the mean loss of the iterations between checkpoints."""
        starts = range(0, len(self.losses), EVERY)
        return tuple(statistics.fmean(self.losses[start : start + EVERY]) for start in starts)


@dataclass
class Job:
    """A calibration in progress."""

    inputs: CalibrationInputs
    student: TabulatedDenoiser  # the network that becomes quantized, in place
    teacher: TeacherAccess
    scratch: Scratch
    results: Results = field(default_factory=Results)

    @property
    def spec(self) -> QuantStateSpec:
        """The spec of the state."""
        return self.inputs.spec

    @property
    def events(self) -> Events:
        """The listener."""
        return self.scratch.events

    def release_teacher(self) -> None:
        """Free the memory of the teacher's network."""
        if self.teacher.network is not None:
            self.teacher.network = None
            gc.collect()  # networks and their hooks refer to each other


def start(inputs: CalibrationInputs, scratch: Scratch) -> Job:
    """Load the networks of a calibration."""
    trains = inputs.spec.train or inputs.spec.reconstruct
    dtype = Dtype.FP32 if trains else Dtype(inputs.setting.dtype)
    features = inputs.rounded_time_features or inputs.time_features
    student = tabulated_denoiser(inputs.model, dtype, inputs.device, features)
    teacher = TeacherAccess(_teacher_network(inputs, student), _teacher_cache(inputs, student))
    return Job(inputs, student, teacher, scratch)


def _teacher_network(inputs: CalibrationInputs, student: TabulatedDenoiser) -> nn.Module | None:
    """Return the floating-point denoiser, sharing every weight with the student if it can; None if unused."""
    spec = inputs.spec
    if not (spec.train or spec.reconstruct or spec.correction):
        return None
    dtype = spec.train.teacher if spec.train else Dtype.FP32
    if dtype is not Dtype.FP32 or inputs.rounded_time_features is not None:
        return tabulated_denoiser(inputs.model, dtype, inputs.device, inputs.time_features).network
    return student.copy_sharing()


def _teacher_cache(inputs: CalibrationInputs, student: TabulatedDenoiser) -> CachedTeacher | None:
    """Return a cache to fill during observation, if the student is the teacher until then.

    It pays if training asks for every stored item at least twice.
    """
    spec, items = inputs.spec, inputs.items
    if not (spec.train and inputs.recipe.stored_items and inputs.rounded_time_features is None):
        return None
    if spec.train.teacher is not Dtype.FP32 or spec.iterations * spec.batch_size < 2 * len(items):
        return None
    return CachedTeacher(TeacherNetwork(student.network, inputs.targets.watched), items.count)


def facts_of(inputs: CalibrationInputs, choice: Choice, results: Results) -> QuantStateFacts:
    """Return the facts of a quantizer state."""
    usual = Bits.parse(inputs.spec.bits)
    return QuantStateFacts(
        setting=inputs.setting,
        layers=len(choice.quantized),
        bits={name: str(bits) for name, bits in choice.bits.items() if bits != usual},
        average_bits=mean_bits(choice.bits, inputs.model, inputs.setting, results.table_rows, inputs.spec),
        losses=results.mean_losses(),
        borrowed_rows=results.borrowed_rows,
        allocation=choice.allocation,
        frontier=choice.frontier,
        units=results.units,
        forwards=results.forwards,
        correction_slope=mean_slope(results.arrays),
    )
