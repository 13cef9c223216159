"""`sdquant sample`."""

from typing import Annotated

import typer

from ..types import Select
from . import options as o


def sample(
    context: typer.Context,
    prompts: o.PromptsOption,
    per_prompt: Annotated[int, typer.Option("--per-prompt", help="Latents kept per prompt, 1..steps.")] = 1,
    select: Annotated[
        Select, typer.Option("--select", help="At which steps latents are taken.")
    ] = Select.RANDOM,
    select_mean: Annotated[
        float | None,
        typer.Option("--select-mean", help="Of normal times, 0 at the picture, 1 at the noise; 0.4."),
    ] = None,
    select_deviation: Annotated[
        float | None, typer.Option("--select-deviation", help="Of normal times; 0.4 by default.")
    ] = None,
    select_variety: Annotated[
        float | None,
        typer.Option("--select-variety", help="Of density: the weight of variety; 5 by default."),
    ] = None,
    select_radius: Annotated[
        float | None,
        typer.Option("--select-radius", help="Of density: a quantile of the distances between steps; 0.3."),
    ] = None,
    model: o.ModelOption = None,
    revision: o.RevisionOption = None,
    variant: o.VariantOption = None,
    base: o.BaseOption = None,
    lora: o.LoraOption = None,
    lora_scale: o.LoraScaleOption = None,
    scheduler: o.SchedulerOption = None,
    steps: o.StepsOption = None,
    guidance_scale: o.GuidanceOption = None,
    height: o.HeightOption = None,
    width: o.WidthOption = None,
    dtype: o.DtypeOption = None,
    seed: o.SeedOption = 0,
    column: o.ColumnOption = None,
    shuffle: o.ShuffleOption = None,
    limit: o.LimitOption = None,
    micro_batch: o.MicroBatchOption = 8,
    preset: o.PresetOption = None,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Collect latents of the floating-point model at some steps of its own trajectories.

    Example: sdquant sample --prompts coco.txt --per-prompt 1

    Example: sdquant sample --prompts coco.txt --model CompVis/stable-diffusion-v1-4 --dtype bf16

    Example: sdquant sample --prompts captions_val2017.json --shuffle 0 --limit 256
    """
    from ..options.requests import SampleRequest
    from ..stages import sample as stage
    from .execute import execute

    execute(stage, SampleRequest, locals())
