"""What fake quantization costs: a training iteration with quantizers against the same one without.

    uv run python benchmarks/iteration.py                      # the embedded model, 12 latents
    uv run python benchmarks/iteration.py --model sd-v1-4      # full size, random weights, 1 latent of 32x32

An iteration is the teacher's forward pass and the student's forward and backward pass, on latents at
mixed timesteps, each with and without its prompt: without quantizers, with them, and with them and the
student's products in bf16 (`calibrate --amp`). They take turns in one process; peak memory is VmHWM of
a process for each. W4A8, per-timestep tables, all weights and step sizes in training.
"""

import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdquant_cli.calibration.items import Items, prediction
from sdquant_cli.calibration.losses import output_loss
from sdquant_cli.calibration.observer import QuantizerRules, item_passes, observe_and_initialise
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.time_table import run_on_table, tabulate
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits

TIMESTEPS = [float(981 - 20 * i) for i in range(50)]
SIZES = {"shapes": (12, 16, 32, 96), "sd-v1-4": (1, 32, 77, 768)}  # latents, side, tokens, text channels
KINDS = ("without", "with", "amp")


def network(model: str) -> tuple[Any, Rows]:
    """The floating-point UNet on its time table, and its rows."""
    if model == "shapes":
        unet = find_model("shapes").denoiser()
    else:
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        unet = unet.eval().requires_grad_(False)
    rows = Rows(TIMESTEPS)
    run_on_table(unet, tabulate(unet, TIMESTEPS), rows)
    return unet, rows


def calibration_items(model: str) -> Items:
    latents, side, tokens, channels = SIZES[model]
    g = torch.Generator().manual_seed(0)
    return Items(
        x=torch.randn(latents, 4, side, side, generator=g).half(),
        row=torch.arange(latents) * 50 // latents,
        text=torch.ones(latents, dtype=torch.long),
        texts=Conditioning(torch.randn(2, tokens, channels, generator=g).half()),
        timesteps=torch.tensor(TIMESTEPS),
        guidance_scale=7.5,
    )


def in_training(student: Any, rows: Rows, items: Items, kind: str) -> Any:
    """A floating-point UNet in training, with or without quantizers, in place."""
    layers = quantizable_layers(student)
    if kind != "without":
        passes = item_passes(items, partial(prediction, student), torch.device("cpu"))
        states, _ = observe_and_initialise(layers, passes, QuantizerRules(dict.fromkeys(layers, Bits(4, 8))))
        swap(student, states, rows, weights_on_grid=False)
    for layer in quantizable_layers(student).values():
        layer.weight.requires_grad_(True)
    return student


def iteration(teacher: Any, student: Any, items: Items, kind: str, device: str = "cpu") -> float:
    """Seconds of one."""
    batch = items.batch(range(len(items)), torch.device(device))
    inputs = (batch.x, batch.timestep, batch.conditioning)
    student.zero_grad(set_to_none=True)
    began = time.perf_counter()
    with torch.no_grad():
        target = predict(teacher, *inputs)
    with torch.autocast(device, torch.bfloat16, enabled=kind == "amp"):
        predicted = predict(student, *inputs)
    output_loss(predicted, target).backward()
    return time.perf_counter() - began


def peak_memory() -> int:
    """VmHWM of this process in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def measure_memory(model: str, kind: str) -> None:
    """In a process of its own: peak memory of iterations alone, starting at the loaded networks."""
    items = calibration_items(model)
    teacher, rows = network(model)
    student = in_training(copy.deepcopy(teacher, {id(rows): rows}), rows, items, kind)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading and initialisation
    for _ in range(3):
        iteration(teacher, student, items, kind)
    print(peak_memory())


def child_memory(model: str, kind: str) -> float:
    command = [sys.executable, __file__, "--model", model, "--memory", kind]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="shapes")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", choices=KINDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        measure_memory(asked.model, asked.memory)
        return
    items = calibration_items(asked.model)
    teacher, rows = network(asked.model)
    plain = in_training(copy.deepcopy(teacher, {id(rows): rows}), rows, items, "without")
    shared = {id(p): p for p in plain.parameters()} | {id(rows): rows}
    quantized = in_training(copy.deepcopy(plain, shared), rows, items, "with")
    students = {"without": plain, "with": quantized, "amp": quantized}
    for kind, student in students.items():
        iteration(teacher, student, items, kind)  # memory and caches
    turns = [
        [iteration(teacher, student, items, kind) for kind, student in students.items()]
        for _ in range(asked.repeats)
    ]
    del teacher, students, plain, quantized, shared
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    print(f"{asked.model}: {len(items)} latents, {threads} threads, load {load:.1f}")
    memory = [child_memory(asked.model, kind) for kind in KINDS]
    for i, kind in enumerate(KINDS):
        seconds = statistics.median(turn[i] for turn in turns)
        ratios = [turn[i] / turn[0] for turn in turns]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(
            f"{kind}: {seconds:.3f} s, ratio {low:.2f} / {middle:.2f} / {high:.2f} (min/median/max), "
            f"{memory[i]:.2f} GiB, ratio {memory[i] / memory[0]:.2f}"
        )


if __name__ == "__main__":
    main()
