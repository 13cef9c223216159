"""Attention in fp32, our kernel beside torch's, in the shapes of SD v1-4: docs/benchmarks/engines.json.

    export OMP_NUM_THREADS=1
    uv run python benchmarks/engines/attention.py

CPU seconds at one thread, calls in turn in one process, the lowest of the repeats.
benchmarks/engines/run.py --page shows them.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sdquant_cli.runtime.attention import attend

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "engines.json"
HEADS, REPEATS = 8, 7
SHAPES = ((4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (1024, 77, 80), (256, 256, 160))


def by_torch(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention as diffusers computes it."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for queries, keys, channels in SHAPES:
        tensors = [torch.randn(1, count, HEADS * channels) for count in (queries, keys, keys)]
        ways = {"torch": by_torch, "sdquant": attend}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, way in ways.items():
                taken[name].append(seconds(partial(way, *tensors, HEADS)))
        row = {"queries": queries, "keys": keys, "channels": channels}
        rows.append(row | {name: min(times) for name, times in taken.items()})
        print(rows[-1])
    document = json.loads(PAGE.read_text())
    document.setdefault("attention", {})[torch.backends.cpu.get_cpu_capability()] = rows
    PAGE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
