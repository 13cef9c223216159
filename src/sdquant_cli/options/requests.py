"""Requests of the stages: the command line's flags and a configuration file's fields.

`None` means: as the input artifact has it, or else the model's default.
"""

from pathlib import Path
from typing import Annotated

from ..types import Engine, ExportFormat, Measure, Select, StepMatch
from .base import MODEL, SCHEDULE, SIZE, Fields, Request, RescheduleRequest, SettingRequest, first_problem
from .calibration import CalibrateRequest, NumberOptions
from .option import Option, Panel
from .values import (
    BatchText,
    BitsText,
    BudgetText,
    ColumnText,
    ComponentText,
    Cost,
    Count,
    GateText,
    NonNegative,
    Pixels,
    Positive,
    Quantile,
    Scale,
    Seed,
    Share,
    Switch,
    Weight,
    Whole,
)

__all__ = [
    "BenchRequest",
    "CalibrateRequest",
    "DoctorRequest",
    "EvaluateRequest",
    "ExportRequest",
    "Fields",
    "GenerateRequest",
    "LeaderboardRequest",
    "PrecalcTimeRequest",
    "ReportRequest",
    "SampleRequest",
    "SensitivityRequest",
    "SettingRequest",
    "first_problem",
]

Column = Annotated[
    ColumnText | None,
    Option(
        "Column of --prompts: a name, or a number where there is no header. Default: prompt, caption or text."
    ),
]
Shuffle = Annotated[
    Seed | None, Option("Shuffle the prompts with this seed before --limit is applied.", metavar="SEED")
]
PromptsToUse = Annotated[Count | None, Option("Use only the first N prompts.")]
State = Annotated[str | None, Option("Quantizer state to use. Default: the latest.")]
WeightsFolder = Annotated[
    Path | None,
    Option(
        "Folder of metric weights. Default: ~/.cache/sdquant/weights.",
        Panel.RESOURCES,
        envvar="SDQUANT_WEIGHTS",
    ),
]
Download = Annotated[Switch, Option("Download missing metric weights first.", Panel.RESOURCES)]
PROMPT_FILE = "Prompt file: .txt, .csv, .tsv, .jsonl, .parquet or COCO captions .json."
MICRO_BATCH = Option(
    "Prompts per UNet call; auto: as many as the GPU's memory takes.",
    Panel.RESOURCES,
    ("LatentsSpec.micro_batch", "ImagesSpec.micro_batch"),
    metavar="N",
)


class SampleRequest(SettingRequest):
    """Options of `sample`."""

    prompts: Annotated[Path, Option(PROMPT_FILE)]
    column: Column = None
    shuffle: Shuffle = None
    per_prompt: Annotated[
        Whole, Option("Latents to keep per prompt, 1 to --steps.", spec="LatentsSpec.per_prompt")
    ] = 1
    select: Annotated[
        Select, Option("Rule that selects the timesteps of latents.", spec="SelectSpec.rule")
    ] = Select.RANDOM
    select_mean: Annotated[
        Share | None,
        Option(
            "Mean of the normal timestep distribution (0: clean image, 1: noise). Default: 0.4.",
            Panel.SELECTION,
            "SelectSpec.mean",
        ),
    ] = None
    select_deviation: Annotated[
        Positive | None,
        Option(
            "Standard deviation of the normal timestep distribution. Default: 0.4.",
            Panel.SELECTION,
            "SelectSpec.deviation",
        ),
    ] = None
    select_variety: Annotated[
        Weight | None,
        Option(
            "Weight of variety beside density (lambda of EDA-DM). Default: 5.",
            Panel.SELECTION,
            "SelectSpec.variety",
        ),
    ] = None
    select_radius: Annotated[
        Quantile | None,
        Option(
            "Radius of density, as a quantile of the distances between timesteps. Default: 0.3.",
            Panel.SELECTION,
            "SelectSpec.radius",
        ),
    ] = None
    seed: Annotated[Seed, Option("Random seed.", spec="LatentsSpec.seed")] = 0
    limit: PromptsToUse = None
    micro_batch: Annotated[BatchText, MICRO_BATCH] = "8"


class PrecalcTimeRequest(SettingRequest):
    """Options of `precalc-time`."""

    without_flag = MODEL | SIZE | {"dtype"}


class SensitivityRequest(SettingRequest):
    """Options of `sensitivity`."""

    without_flag = MODEL | SCHEDULE | SIZE | {"dtype"}

    measure: Annotated[
        Measure,
        Option(
            "Sensitivity measure: from gradients (printed, fisher), of one quantized layer at a time (sqnr), "
            "or none (published, with --ranking).",
            spec="SensitivitySpec.measure",
        ),
    ] = Measure.PRINTED
    ranking: Annotated[
        Path | None,
        Option(
            "Take the ranking from this text file instead of measuring it: one layer a line, most sensitive "
            "first; a line ... stands for all others."
        ),
    ] = None
    bits: Annotated[
        BitsText, Option("Bits that layers are quantized to, such as w4a8.", spec="SensitivitySpec.bits")
    ] = "w4a8"
    limit: Annotated[
        Count | None,
        Option("Use only the first N latents. Default: all; 16 for sqnr.", spec="SensitivitySpec.latents"),
    ] = None
    micro_batch: Annotated[
        Count, Option("Latents per UNet call.", Panel.RESOURCES, "SensitivitySpec.micro_batch")
    ] = 8


class GenerateRequest(SettingRequest):
    """Options of `generate`."""

    without_flag = MODEL - {"model"}

    model: Annotated[
        str | None,
        Option("Draw with the floating-point model: fp. Default: the quantized model."),
    ] = None
    state: State = None
    engine: Annotated[
        Engine,
        Option(
            "Arithmetic: integer or dequantized (packed weights), simulated (fake quantization in floating "
            "point), auto (integer where machine and state allow it, else simulated).",
            spec="ImagesSpec.engine",
        ),
    ] = Engine.AUTO
    step_match: Annotated[
        StepMatch | None,
        Option(
            "Allow another --scheduler or --steps than calibrated: take the nearest timestep's scales, or "
            "interpolate between two.",
            Panel.MODEL,
            "ImagesSpec.step_match",
        ),
    ] = None
    prompts: Annotated[
        Path | None, Option(f"{PROMPT_FILE} Default: the embedded model's held-out prompts.")
    ] = None
    column: Column = None
    shuffle: Shuffle = None
    seed: Annotated[Seed, Option("Random seed.", spec="ImagesSpec.seed")] = 0
    limit: PromptsToUse = None
    micro_batch: Annotated[BatchText, MICRO_BATCH] = "8"
    output: Annotated[Path | None, Option("Folder to write PNG files to.", Panel.OUTPUT)] = None


class QuantizeRequest(Fields):
    """Options of `quantize`."""

    model: Annotated[
        str,
        Option(
            "Pipeline folder in diffusers layout, .safetensors file, Hub id, or shapes: the embedded model.",
            argument=True,
        ),
    ]
    output: Annotated[Path, Option("Folder to write.")]
    components: Annotated[
        tuple[ComponentText, ...],
        Option(
            "Networks to quantize, separated by commas, or all: the denoiser's folder, text_encoder, "
            "text_encoder_2, text_encoder_3, vae. NAME=BITS gives one its own bits; the default of vae is "
            "w8a16. Default: the denoiser.",
            commas=True,
        ),
    ] = ()
    bits: Annotated[BitsText, Option("Bits of weights and activations, such as w8a8.")] = "w8a8"
    group_size: Annotated[
        Count | None, Option("Input channels of a weight that share a scale. Default: all.", Panel.BITS)
    ] = None
    branch_rank: Annotated[
        Count | None,
        Option(
            "Rank of a 16-bit branch beside each weight of the denoiser (SVDQuant). Default: none.",
            Panel.BITS,
        ),
    ] = None
    revision: Annotated[str | None, Option("Branch, tag or commit of a Hub id.", Panel.MODEL)] = None
    variant: Annotated[str | None, Option("Variant of the weight files, such as fp16.", Panel.MODEL)] = None
    base: Annotated[
        str | None, Option("Pipeline that a .safetensors file was fine-tuned from.", Panel.MODEL)
    ] = None
    lora: Annotated[Path | None, Option("LoRA adapter to fuse into the model.", Panel.MODEL)] = None
    lora_scale: Annotated[Scale | None, Option("Scale of --lora. Default: 1.", Panel.MODEL)] = None


class ExportRequest(RescheduleRequest):
    """Options of `export`."""

    without_flag = frozenset({"device"})

    output: Annotated[Path, Option("Folder to write, or file with single-file and comfyui-int8.")]
    state: State = None
    format: Annotated[
        ExportFormat,
        Option(
            "Folder of packed integer codes, or dequant for fp16 weights that load without sdquant; one "
            "safetensors file in the original layout: single-file in fp16, comfyui-int8 with int8 weights; a "
            "graph for another runtime: onnx, openvino."
        ),
    ] = ExportFormat.PACKED
    lossy: Annotated[Switch, Option("Write a format that cannot hold all of the state.")] = False


class BenchRequest(Request):
    """Options of `bench`."""

    without_flag = frozenset({"device"})

    state: State = None
    height: Annotated[Pixels | None, Option("Height of images in pixels. Default: as calibrated.")] = None
    width: Annotated[Pixels | None, Option("Width of images in pixels. Default: as calibrated.")] = None
    items: Annotated[Count, Option("Batch size of a UNet call; guidance takes 2 per image.")] = 2
    repeats: Annotated[Count, Option("Timed repetitions per configuration.")] = 3
    pictures: Annotated[
        NonNegative, Option("Images to draw and compare per configuration; 0 draws none.")
    ] = 1


class DoctorRequest(Fields):
    """Options of `doctor`."""

    weights_dir: WeightsFolder = None
    download: Download = False


class EvaluateRequest(Request):
    """Options of `evaluate`."""

    against: Annotated[
        str,
        Option(
            "Reference: fp for the floating-point model's images, an images artifact, or a folder of images."
        ),
    ] = "fp"
    images: Annotated[
        str | None,
        Option("Images artifact to evaluate, or a folder of images. Default: the latest quantized artifact."),
    ] = None
    prompts: Annotated[
        Path | None, Option("Prompt file of a folder's images, in their order, for CLIP scores.")
    ] = None
    column: Column = None
    gate: Annotated[
        tuple[GateText, ...],
        Option("Bound on a metric, such as 'psnr>=25'; exit with 4 if it is not met. Repeatable."),
    ] = ()
    require: Annotated[
        tuple[str, ...],
        Option("Metrics that must be computed, such as lpips,fid; exit with 5 if one is not.", commas=True),
    ] = ()
    floor: Annotated[
        Switch, Option("Also score floating-point images from another seed as a baseline.", negative=True)
    ] = True
    drift: Annotated[
        Switch, Option("Measure the divergence from the floating-point trajectory at each timestep.")
    ] = False
    drift_prompts: Annotated[Count, Option("Prompts to use for --drift.", spec="DriftSpec.prompts")] = 16
    summary: Annotated[Path | None, Option("Append the results to this Markdown file.", Panel.OUTPUT)] = None
    output: Annotated[Path | None, Option("HTML file to write of two folders of images.", Panel.OUTPUT)] = (
        None
    )
    weights_dir: WeightsFolder = None
    download: Download = False


class LeaderboardRequest(SettingRequest, NumberOptions):
    """Options of `leaderboard`; those about numbers apply to every row."""

    methods: Annotated[
        tuple[str, ...],
        Option(
            "Methods of calibrate, separated by commas, or all. Options of calibrate after a method apply to "
            'its row alone, as in "serial --train low-rank".',
            commas=True,
        ),
    ] = ("all",)
    bits: Annotated[
        tuple[BitsText, ...], Option("Bits of weights and activations, separated by commas.", commas=True)
    ] = ("w8a8", "w4a8")
    prompts: Annotated[Path, Option(f"{PROMPT_FILE} Calibration latents are sampled from these.")]
    column: Column = None
    test_prompts: Annotated[
        Path | None, Option("Prompt file of the images. Default: the embedded model's held-out prompts.")
    ] = None
    test_column: Annotated[ColumnText | None, Option("Column of --test-prompts, as with --column.")] = None
    shuffle: Annotated[Seed | None, Option("Shuffle both prompt files with this seed.", metavar="SEED")] = (
        None
    )
    limit: Annotated[Count, Option("Images to draw per row.")] = 256
    seed: Annotated[Seed, Option("Random seed of the images.")] = 1000
    calibrations: Annotated[
        Count,
        Option(
            "Calibrations of every row, whose latents and training have the seeds 0, 1, ...; with several, "
            "intervals are over them instead of over images."
        ),
    ] = 1
    mixed: Annotated[
        Switch | None,
        Option(
            "Mixed precision in every row, or in none. Default: set by the method.", Panel.BITS, negative=True
        ),
    ] = None
    budget: Annotated[
        BudgetText | None,
        Option("Budget of weight bits in every row, as with calibrate: 4.25 or 3MB.", Panel.BITS),
    ] = None
    iterations: Annotated[
        NonNegative | None,
        Option("Training iterations of every method that trains. Default: the method's own.", Panel.TRAINING),
    ] = None
    forwards: Annotated[
        Cost | None,
        Option(
            "Training budget of every method that trains, in UNet forward passes of one sample.",
            Panel.TRAINING,
        ),
    ] = None
    weights_dir: WeightsFolder = None
    output: Annotated[Path, Option("HTML file to write.", Panel.OUTPUT)] = Path("sdquant-leaderboard.html")
    markdown: Annotated[Path | None, Option("Also write the table to this Markdown file.", Panel.OUTPUT)] = (
        None
    )
    pictures: Annotated[Count, Option("Prompts to show images of.", Panel.OUTPUT)] = 12


class ReportRequest(Fields):
    """Options of `report`."""

    names: Annotated[
        tuple[str, ...],
        Option(
            "Metrics artifacts to show side by side. Default: the latest.", argument=True, metavar="[NAME]..."
        ),
    ] = ()
    output: Annotated[Path, Option("HTML file to write.")] = Path("sdquant-report.html")
    pictures: Annotated[Count, Option("Prompts to show images of.")] = 24
