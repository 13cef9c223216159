"""`sdquant leaderboard`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def leaderboard(
    prompts: o.PromptsOption,
    methods: Annotated[
        str, typer.Option("--methods", help="all, or names as `calibrate --method` takes them, with commas.")
    ] = "all",
    bits: Annotated[
        str, typer.Option("--bits", help="Bits of weights and activations, with commas.")
    ] = "w8a8,w4a8",
    test_prompts: Annotated[
        Path | None,
        typer.Option("--test-prompts", help="What is drawn; the embedded model has held-out prompts."),
    ] = None,
    column: o.ColumnOption = None,
    test_column: Annotated[
        str | None, typer.Option("--test-column", help="Column of --test-prompts, as --column has it.")
    ] = None,
    shuffle: o.ShuffleOption = None,
    limit: Annotated[int, typer.Option("--limit", help="Pictures that each row draws.")] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures' noise; latents have seed 0.")] = 1000,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", help="Of every method that trains; its own number by default."),
    ] = None,
    forwards: Annotated[
        float | None,
        typer.Option(
            "--forwards", help="The same cost of updates for every method: runs of the UNet by one item."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="The HTML file to write.")] = Path(
        "sdquant-leaderboard.html"
    ),
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table to this file too.")
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", help="Prompts whose pictures are shown.")] = 12,
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
    weights_dir: o.WeightsOption = None,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Compare calibration methods: the same model, prompts, noise, bits and metrics.

    Example: sdquant leaderboard --methods all --bits w8a8,w4a8 --prompts coco.txt
    """
    from ..options.requests import LeaderboardRequest
    from ..stages import leaderboard as stage
    from .execute import execute

    lists = {
        name: tuple(part.strip() for part in text.split(","))
        for name, text in (("methods", methods), ("bits", bits))
    }
    execute(stage, LeaderboardRequest, {**locals(), **lists})
