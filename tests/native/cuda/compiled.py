"""Compile the kernels for GPUs, without one: `python -m tests.native.cuda.compiled 80 90:3x3,codes`.

Prints for each the bytes of stack and of shared memory, registers, and instructions that multiply int8.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from sdquant_cli.native.cuda import codes, fake_quantize, products

CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
BYTES, INTS, FLOATS, HALVES = (
    torch.zeros(16, dtype=dtype) for dtype in (torch.int8, torch.int32, torch.float32, torch.bfloat16)
)

SUMS, NUMBERS = codes._group_sums, codes._group_numbers
FAKE = {name: getattr(fake_quantize, name) for name in ("_forward", "_backward", "_tokens")}


class NoDevice:
    """What Triton asks a driver for before it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


class Compiled:
    """A kernel that is compiled where it would be called."""

    def __init__(self, kernel, made=None):
        self.kernel, self.made = kernel, [] if made is None else made

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.compiled(*arguments, grid=grid, **options)

    def compiled(self, *arguments, **options):
        self.made.append(self.kernel.warmup(*arguments, **options))
        return self.made[-1]


def product(bits, planes, taps, *, shared, tile, channels=320, depth=64):
    """A layer of SD v1-4 at 64x64."""
    width, side = taps * channels * bits // 8, 3 if taps == 9 else 1
    plan = products.Plan(bits, planes, taps, 1, channels // depth, depth, shared, taps == 1, *tile)
    pair = (side, side), (1, 1), (side // 2, side // 2), (1, 1)
    return products.product(
        products.Weight(BYTES, INTS, FLOATS, FLOATS, 320, width, channels),
        products.Input(BYTES, BYTES if planes == 2 else None, FLOATS, INTS, channels),
        products.Output(HALVES, HALVES, None, 8192),
        products.Moves((64, 64), (64, 64), *pair),
        plan,
    )


def rows(*, gated=False, normed=False, each=False, silu=False):
    """Codes of SD's widest rows."""
    multiplier = FLOATS if each or normed else None
    plan = codes.Plan(gated, normed, each, silu, 255, 1, 2048)
    return codes.codes(
        codes.Values(HALVES, multiplier, multiplier, None, 1e-5, 8192, 4096, 1280),
        codes.Tables(None, None, None, 0),
        codes.Written(BYTES, None, FLOATS, INTS, 1280),
        plan,
    )


def group_norm():
    """Both kernels of the widest group norm."""
    made = []
    codes._group_sums, codes._group_numbers = Compiled(SUMS, made), Compiled(NUMBERS, made)
    image = codes.Image(HALVES, FLOATS, 4096, 2560, codes.MOST_BLOCKS)
    codes.group_norm(image, codes.GroupNorm(HALVES, HALVES, 1e-5, FLOATS, FLOATS), 2, 32)
    return made


def fake(call):
    """A kernel of fake quantization, with a draw."""
    made = []
    for name, kernel in FAKE.items():
        setattr(fake_quantize, name, Compiled(kernel, made))
    call(fake_quantize.Rows(FLOATS, FLOATS, FLOATS, 1, 0, -8.0, 7.0, 2880), fake_quantize.Draw(2**32 - 5, 99))
    return made[0]


KERNELS = {
    "linear": lambda: product(8, 1, 1, shared=False, tile=(128, 128), channels=1280, depth=128),
    "linear-w4": lambda: product(4, 1, 1, shared=False, tile=(128, 128)),
    "3x3": lambda: product(8, 1, 9, shared=False, tile=(128, 128)),
    "3x3-static": lambda: product(8, 1, 9, shared=True, tile=(128, 128)),
    "3x3-w4a16": lambda: product(4, 2, 9, shared=False, tile=(64, 64)),
    "codes": lambda: rows(each=True, silu=True),
    "codes-normed": lambda: rows(normed=True),
    "codes-gated": lambda: rows(gated=True),
    "group-norm-sums": lambda: group_norm()[0],
    "group-norm": lambda: group_norm()[1],
    "fake": lambda: fake(lambda rows, draw: fake_quantize.forward(rows, FLOATS, 320, draw)),
    "fake-gradients": lambda: fake(
        lambda rows, draw: fake_quantize.backward(
            rows, fake_quantize.Gradients(FLOATS, FLOATS, FLOATS), 320, draw
        )
    ),
    "fake-tokens": lambda: fake(
        lambda _, draw: fake_quantize.forward_tokens(
            fake_quantize.Positions(FLOATS, FLOATS, 4096, 320, 1, 255.0), draw
        )
    ),
}


def resources(kernel):
    """The registers of a thread, and the bytes of its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        words = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()


def main():
    """Compile what is named, for the capability before it: all kernels where none is."""
    products._product, codes._codes = Compiled(products._product), Compiled(codes._codes)
    for word in sys.argv[1:]:
        capability, _, names = word.partition(":")
        driver.set_active(NoDevice(int(capability)))
        for name in names.split(",") if names else KERNELS:
            kernel = KERNELS[name]()
            registers, stack = resources(kernel)
            numbers = [f"registers={registers}", f"stack={stack}", f"shared={kernel.metadata.shared}"]
            if name.startswith(("linear", "3x3")):
                found = re.findall(r"(?:mma\.sync|wgmma\.mma_async)[^;]*\.s8", kernel.asm["ptx"])
                numbers.append(f"multiplied={len(found)}")
            sys.stdout.write(" ".join([f"sm_{capability}", name, *numbers]) + "\n")


if __name__ == "__main__":
    main()
