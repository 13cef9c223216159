"""The memory that folders take to load and to run once, each in a process of its own.

    export OMP_NUM_THREADS=1
    uv run python benchmarks/engines/memory.py runs/w8a8 runs/w4a8 --side 32

A FOLDER is what `sdquant quantize` or `sdquant export` wrote. CPU seconds at one thread and anonymous memory
above what imports take go into docs/benchmarks/engines.json; benchmarks/engines/run.py --page shows them.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from sdquant_cli.resources.measured import footprint

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "engines.json"


def load(folder: Path, side: int) -> Callable[[], object]:
    """A call of the folder's UNet."""
    from diffusers import UNet2DConditionModel

    import sdquant_cli

    assert sdquant_cli
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
    x, tokens = torch.zeros(1, 4, side, side), torch.zeros(1, 77, unet.config.cross_attention_dim)

    def call() -> object:
        with torch.no_grad():
            return unet(x, torch.tensor(1.0), tokens)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=32, help="of the latent")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = json.loads(PAGE.read_text())
    cpu = torch.backends.cpu.get_cpu_capability()
    for folder in arguments.folders:
        cost = asdict(footprint(partial(load, folder, arguments.side)))
        title = f"{folder.name}, {arguments.side} x {arguments.side}, {cpu}"
        document.setdefault("memory", {})[title] = cost
        print(title, cost)
    PAGE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
