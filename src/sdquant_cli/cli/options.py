"""Flags that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

from ..types import Dtype, Preset, Scheduler

DEFAULT_STORE = "./sdquant-store"

StoreOption = Annotated[
    str, typer.Option("--store", envvar="SDQUANT_STORE", help="Folder or URL of the store.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, or auto: cuda where there is one.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Folder in diffusers layout, .safetensors file, Hub id, or shapes, the embedded model "
        "(default).",
    ),
]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="Of the weight files, as in fp16.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="Pipeline that a .safetensors file is a fine-tune of.")
]
LoraOption = Annotated[Path | None, typer.Option("--lora", help="Adapter to fuse into the model.")]
LoraScaleOption = Annotated[float | None, typer.Option("--lora-scale", help="Of --lora; 1 by default.")]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help=f"{', '.join(Scheduler)}, or a scheduler class of diffusers; the model's own by default.",
    ),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Inference steps.")]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance-scale", help="Weight of the prompt; at 1 or below, no guidance.")
]
HeightOption = Annotated[int | None, typer.Option("--height", help="Pixels.")]
WidthOption = Annotated[int | None, typer.Option("--width", help="Pixels.")]
DtypeOption = Annotated[Dtype | None, typer.Option("--dtype", help="Format of the floating-point denoiser.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all randomness.")]
PresetOption = Annotated[
    Preset | None, typer.Option("--preset", help="The paper's settings; other flags win over it.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use only the first so many.")]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="Column of --prompts; prompt, caption or text by default. A number where no header is.",
    ),
]
ShuffleOption = Annotated[
    int | None,
    typer.Option("--shuffle", metavar="SEED", help="Shuffle the prompts before --limit, by this seed."),
]
MicroBatchOption = Annotated[int, typer.Option("--micro-batch", help="Prompts per UNet call.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        envvar="SDQUANT_WEIGHTS",
        help="Folder of metric weights; ~/.cache/sdquant/weights by default.",
    ),
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch missing metric weights first.")]
PromptsOption = Annotated[
    Path,
    typer.Option("--prompts", help="Prompts: .txt, .csv, .tsv, .jsonl, .parquet or COCO captions .json."),
]
