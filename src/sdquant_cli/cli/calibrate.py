"""`sdquant calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from ..types import Dtype, Ranges, Relax, Tables, TimePath, Train
from . import options as o


def calibrate(
    context: typer.Context,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="serial-to-parallel, serial, parallel, eda-dm, pqd, q-diffusion, ptq4dm, pcr or rtn.",
        ),
    ] = "serial-to-parallel",
    bits: Annotated[str, typer.Option("--bits", help="Bits of weights and activations.")] = "w4a8",
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed/--no-mixed", help="More bits for the 5% most sensitive layers, fewer for the least."
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Room for the weights: average bits (4.25) or bytes (3MB)."),
    ] = None,
    tables: Annotated[
        Tables | None,
        typer.Option(
            "--tables",
            help="Activation quantizers: per layer and step (progressive: one after another), or per layer.",
        ),
    ] = None,
    ranges: Annotated[
        Ranges | None,
        typer.Option("--ranges", help="Activation ranges: what was seen, or the best clipping of it."),
    ] = None,
    relax: Annotated[
        Relax | None,
        typer.Option(
            "--relax", help="10-bit activations in a fifth of the steps; the method's own choice by default."
        ),
    ] = None,
    split_shortcuts: Annotated[
        bool | None,
        typer.Option("--split-shortcuts/--no-split-shortcuts", help="Quantize what skips to a block apart."),
    ] = None,
    attention_bits: Annotated[
        int | None,
        typer.Option("--attention-bits", help="Of q, k and v in attention's products; unrounded by default."),
    ] = None,
    softmax_bits: Annotated[
        int | None,
        typer.Option("--softmax-bits", help="Of attention's probabilities; as --attention-bits by default."),
    ] = None,
    time_path: Annotated[
        TimePath,
        typer.Option("--time-path", help="Time features: floating point, or of a rounded time path."),
    ] = TimePath.PRECALCULATED,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", help="Updates, of each unit where units are reconstructed; 0: none."),
    ] = None,
    forwards: Annotated[
        float | None,
        typer.Option("--forwards", help="What updates may cost, in runs of the UNet by one item."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Latents per update; the method's own by default.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option("--accumulate", help="Parts of a batch, one after the other: less memory.")
    ] = None,
    train: Annotated[
        Train | None, typer.Option("--train", help="What is trained; weights+steps by default.")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of --train low-rank; 32 by default.")] = None,
    weight_rate: Annotated[
        float | None,
        typer.Option(
            "--weight-rate",
            help="Learning rate of weights; by default the method's own, and less beyond 4 bits.",
        ),
    ] = None,
    step_rate: Annotated[
        float | None,
        typer.Option(
            "--step-rate",
            help="Learning rate of step sizes: relative; absolute where blocks are reconstructed.",
        ),
    ] = None,
    sensitive_weight: Annotated[
        float | None, typer.Option("--sensitive-weight", help="Of the loss on sensitive layers.")
    ] = None,
    block_weight: Annotated[
        float | None, typer.Option("--block-weight", help="Of the loss on the outputs of blocks.")
    ] = None,
    guided_weight: Annotated[
        float | None, typer.Option("--guided-weight", help="Of the loss on the guided combination.")
    ] = None,
    layer_weight: Annotated[
        float | None, typer.Option("--layer-weight", help="Of the errors of a unit's layers beside its own.")
    ] = None,
    drop: Annotated[
        float | None, typer.Option("--drop", help="Share of inputs left unrounded in reconstruction (QDrop).")
    ] = None,
    cache_memory: Annotated[
        float, typer.Option("--cache-memory", help="GB of captured inputs in memory; more lies on disk.")
    ] = 4.0,
    averaging: Annotated[
        float | None, typer.Option("--averaging", help="Decay of the mean of weights over iterations.")
    ] = None,
    freezing: Annotated[
        float | None, typer.Option("--freezing", help="Freeze weights that oscillate more often than this.")
    ] = None,
    teacher_dtype: Annotated[
        Dtype | None,
        typer.Option("--teacher-dtype", help="Format of the floating-point model; fp32 by default."),
    ] = None,
    amp: Annotated[
        bool, typer.Option("--amp", help="The student's products in bf16; its weights stay fp32.")
    ] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations: less memory, more time.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of pictures with captions, for --method parallel.")
    ] = None,
    correction: Annotated[
        bool, typer.Option("--correction", help="Correct the output at each step; simulated engine only.")
    ] = False,
    scheduler: o.SchedulerOption = None,
    steps: o.StepsOption = None,
    guidance_scale: o.GuidanceOption = None,
    height: o.HeightOption = None,
    width: o.WidthOption = None,
    seed: o.SeedOption = 0,
    preset: o.PresetOption = None,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Quantize the UNet so that its output stays that of the floating-point one.

    Example: sdquant calibrate --bits w4a8 --mixed

    Example: sdquant calibrate --bits w4a8 --preset paper-sd14
    """
    from ..options.requests import CalibrateRequest
    from ..stages import calibrate as stage
    from .execute import execute

    execute(stage, CalibrateRequest, locals())
