"""Options of `calibrate`."""

from pathlib import Path
from typing import Annotated

from ..types import Activations, Dtype, Ranges, Relax, Tables, TimePath, Train
from .base import MODEL, Fields, SettingRequest
from .option import Needs, Option, Panel
from .values import (
    NONE,
    BitsText,
    BitWidth,
    BudgetText,
    Cost,
    Count,
    Decay,
    EdgesText,
    NonNegative,
    Positive,
    Seed,
    Share,
    Switch,
    Weight,
)


class NumberOptions(Fields):
    """Options that say how weights and activations are held, whatever the method. None: as it has them."""

    full_range: Annotated[
        Switch,
        Option(
            "Use all codes of weights, 16 at 4 bits; without it 15, which lie symmetrically about zero.",
            Panel.BITS,
            "QuantStateSpec.full_range",
            negative=True,
        ),
    ] = True
    group_size: Annotated[
        Count | None,
        Option(
            "Input channels of a weight that share a scale. Default: all of an output channel's.",
            Panel.BITS,
            "QuantStateSpec.group_size",
        ),
    ] = None
    branch_rank: Annotated[
        Count | None,
        Option(
            "Rank of a 16-bit branch beside each weight, from its singular value decomposition (SVDQuant). "
            "Default: none.",
            Panel.BITS,
            "QuantStateSpec.branch_rank",
        ),
    ] = None
    edges: Annotated[
        EdgesText | None,
        Option(
            "Least bits of the first and the last layer, such as w8a16; float leaves both in floating point, "
            "none has no least. Default: set by --method, and none with --mixed.",
            Panel.BITS,
            "QuantStateSpec.edges",
            unset=NONE,
        ),
    ] = None
    activations: Annotated[
        Activations | None,
        Option(
            "Activation scales: calibrated per timestep (per-step), or found at run time for each token and "
            "pixel (token). Default: set by --method; per-step with --tables, --ranges or --relax.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.activations",
            unset=Activations.PER_STEP,
        ),
    ] = None
    tables: Annotated[
        Tables | None,
        Option(
            "Calibrated activation scales of a layer: one per timestep, one for all, or per timestep and "
            "found progressively.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.tables",
        ),
    ] = None
    ranges: Annotated[
        Ranges | None,
        Option(
            "Calibrated activation range: min-max, or the clipping that minimises the MSE or L2.4 error.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.ranges",
        ),
    ] = None
    relax: Annotated[
        Relax | None,
        Option(
            "Use 10-bit activations for 20% of the timesteps: the first, the last, or none. Default: set by "
            "--method.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.relax",
            unset=Relax.NONE,
        ),
    ] = None
    smoothing: Annotated[
        Switch | None,
        Option(
            "Multiply the channels of each layer's input, and divide those of its weight, so that both round "
            "better (SmoothQuant). Default: set by --method.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.smoothing",
            negative=True,
        ),
    ] = None


class CalibrateRequest(SettingRequest, NumberOptions):
    """Options of `calibrate`. None: as the method has it; the method must support what is set."""

    without_flag = MODEL | {"dtype"}

    method: Annotated[
        str,
        Option(
            "Calibration method: serial-to-parallel, serial, parallel, eda-dm, pqd, q-diffusion, ptq4dm, pcr "
            "or rtn.",
            spec="QuantStateSpec.method",
        ),
    ] = "serial-to-parallel"
    bits: Annotated[
        BitsText, Option("Bits of weights and activations, such as w4a8.", spec="QuantStateSpec.bits")
    ] = "w4a8"
    mixed: Annotated[
        Switch,
        Option(
            "Give more bits to the 5% most sensitive layers and fewer to the 5% least sensitive.",
            spec="QuantStateSpec.mixed",
            negative=True,
        ),
    ] = False
    budget: Annotated[
        BudgetText | None,
        Option(
            "Choose each layer's weight bits so that all weights fit: average bits (4.25) or bytes (3MB).",
            Panel.BITS,
            "QuantStateSpec.budget",
        ),
    ] = None
    split_shortcuts: Annotated[
        Switch | None,
        Option(
            "Quantize the two halves of concatenated skip inputs separately (Q-Diffusion).",
            Panel.ACTIVATIONS,
            "QuantStateSpec.split_shortcuts",
            negative=True,
        ),
    ] = None
    attention_bits: Annotated[
        BitWidth | None,
        Option(
            "Bits of q, k and v in attention's matrix products. Default: not quantized.",
            Panel.ATTENTION,
            "QuantStateSpec.attention_bits",
        ),
    ] = None
    softmax_bits: Annotated[
        BitWidth | None,
        Option(
            "Bits of attention probabilities. Default: as --attention-bits.",
            Panel.ATTENTION,
            "QuantStateSpec.softmax_bits",
        ),
    ] = None
    time_path: Annotated[
        TimePath,
        Option("Time embedding: precalculated in floating point, or quantized too.", Panel.BITS),
    ] = TimePath.PRECALCULATED
    iterations: Annotated[
        NonNegative | None,
        Option(
            "Training iterations, per block where blocks are reconstructed; 0 trains nothing. Default: set "
            "by --method.",
            spec="QuantStateSpec.iterations",
            needs=Needs.TRAINING,
        ),
    ] = None
    forwards: Annotated[
        Cost | None,
        Option(
            "Training budget in UNet forward passes of one sample; replaces --iterations.",
            Panel.TRAINING,
            needs=Needs.TRAINING,
        ),
    ] = None
    batch_size: Annotated[
        Count | None,
        Option("Latents per iteration. Default: set by --method.", spec="QuantStateSpec.batch_size"),
    ] = None
    accumulate: Annotated[
        Count | None,
        Option(
            "Gradient accumulation steps per batch; more take less memory. Default: 1.",
            Panel.RESOURCES,
            "TrainSpec.accumulate",
            Needs.DISTILLATION,
        ),
    ] = None
    train: Annotated[
        Train | None,
        Option(
            "Parameters to train: weights and scales, scales only, or a low-rank update and scales. Default: "
            "set by --method.",
            Panel.TRAINING,
            "TrainSpec.what",
            Needs.DISTILLATION,
        ),
    ] = None
    zero_points: Annotated[
        Switch | None,
        Option(
            "Train the zero-points of calibrated activation scales too; implies --activations per-step. "
            "Default: set by --method.",
            Panel.TRAINING,
            "TrainSpec.zero_points",
            Needs.DISTILLATION,
            negative=True,
        ),
    ] = None
    rank: Annotated[
        Count | None,
        Option(
            "Rank of --train low-rank. Default: 32.", Panel.TRAINING, "TrainSpec.rank", Needs.DISTILLATION
        ),
    ] = None
    weight_rate: Annotated[
        Positive | None,
        Option(
            "Learning rate of weights. Default: set by --method, lower above 4 bits.",
            Panel.TRAINING,
            ("TrainSpec.weight_rate", "ReconstructSpec.weight_rate"),
            Needs.TRAINING,
        ),
    ] = None
    step_rate: Annotated[
        Positive | None,
        Option(
            "Learning rate of scales: relative, or absolute where blocks are reconstructed. Default: set by "
            "--method.",
            Panel.TRAINING,
            ("TrainSpec.step_rate", "ReconstructSpec.step_rate"),
            Needs.TRAINING,
        ),
    ] = None
    output_weight: Annotated[
        Weight | None,
        Option(
            "Weight of the loss on the network's output. Default: set by --method.",
            Panel.TRAINING,
            "LossSpec.output",
            Needs.DISTILLATION,
        ),
    ] = None
    sensitive_weight: Annotated[
        Weight | None,
        Option(
            "Weight of the loss on the outputs of sensitive layers. Default: set by --method.",
            Panel.TRAINING,
            "LossSpec.sensitive",
            Needs.DISTILLATION,
        ),
    ] = None
    block_weight: Annotated[
        Weight | None,
        Option(
            "Weight of the loss on the outputs of blocks. Default: set by --method.",
            Panel.TRAINING,
            "LossSpec.blocks",
            Needs.DISTILLATION,
        ),
    ] = None
    guided_weight: Annotated[
        Weight | None,
        Option(
            "Weight of the loss on the guided prediction. Default: set by --method.",
            Panel.TRAINING,
            "LossSpec.guided",
            Needs.DISTILLATION,
        ),
    ] = None
    layer_weight: Annotated[
        Weight | None,
        Option(
            "Weight of the per-layer loss in block reconstruction (gamma). Default: set by --method.",
            Panel.RECONSTRUCTION,
            "ReconstructSpec.layer_weight",
            Needs.RECONSTRUCTION,
        ),
    ] = None
    drop: Annotated[
        Share | None,
        Option(
            "Probability of leaving an input unquantized while rounding is learned (QDrop). Default: set by "
            "--method.",
            Panel.RECONSTRUCTION,
            "ReconstructSpec.drop",
            Needs.RECONSTRUCTION,
        ),
    ] = None
    cache_memory: Annotated[
        Weight,
        Option("Captured inputs to hold in memory, in GB; the rest goes to disk.", Panel.RECONSTRUCTION),
    ] = 4.0
    averaging: Annotated[
        Decay | None,
        Option(
            "EMA decay of the trained weights; 0 disables it. Default: 0.",
            Panel.TRAINING,
            "TrainSpec.averaging",
            Needs.DISTILLATION,
        ),
    ] = None
    freezing: Annotated[
        Decay | None,
        Option(
            "Freeze weights whose oscillation frequency exceeds this; 0 freezes none. Default: 0.",
            Panel.TRAINING,
            "TrainSpec.freezing",
            Needs.DISTILLATION,
        ),
    ] = None
    teacher_dtype: Annotated[
        Dtype | None,
        Option(
            "Number format of the floating-point teacher. Default: fp32.",
            Panel.RESOURCES,
            "TrainSpec.teacher",
            Needs.DISTILLATION,
        ),
    ] = None
    amp: Annotated[
        Switch,
        Option(
            "Mixed precision: matrix products in bf16, weights in fp32.",
            Panel.RESOURCES,
            "TrainSpec.amp",
            Needs.DISTILLATION,
        ),
    ] = False
    tf32: Annotated[
        Switch,
        Option(
            "TF32: products in fp32 with 10 bits of mantissa, on NVIDIA GPUs since Ampere.",
            Panel.RESOURCES,
            "TrainSpec.tf32",
            Needs.DISTILLATION,
        ),
    ] = False
    checkpointing: Annotated[
        Switch,
        Option(
            "Gradient checkpointing: less memory, more time.",
            Panel.RESOURCES,
            needs=Needs.DISTILLATION,
            negative=True,
        ),
    ] = False
    images: Annotated[
        Path | None,
        Option(
            "Folder of images with captions to train on, for --method parallel.",
            Panel.TRAINING,
            needs=Needs.IMAGES,
        ),
    ] = None
    correction: Annotated[
        Switch,
        Option(
            "Correct the output at each timestep (PTQD); for --engine simulated only.",
            Panel.ACTIVATIONS,
            "QuantStateSpec.correction",
        ),
    ] = False
    seed: Annotated[Seed, Option("Random seed.", spec="QuantStateSpec.seed")] = 0
