"""`--micro-batch`: how many prompts the denoiser takes at once, as many as fit a GPU where that is asked."""

from collections.abc import Callable

import torch

from ..events import Events
from ..options.values import AUTO
from ..ranks import broadcast

USUAL, LARGEST = 8, 64  # prompts
SHARE = 0.8  # of the GPU's memory; kernels and the allocator need the rest


def micro_batch(text: str, device: torch.device, needed: Callable[[int], int], events: Events) -> int:
    """Return the prompts in a call for the value of `--micro-batch`, the same on all ranks.

    Of `auto` that is the largest power of two up to 64 for which `needed`, the bytes that a call of so many
    prompts takes, fits the GPU; on the CPU it is 8.
    """
    if text != AUTO:
        return int(text)
    size = USUAL
    if device.type == "cuda":
        size = broadcast(largest(SHARE * torch.cuda.get_device_properties(device).total_memory, needed))
    events.note(f"--micro-batch {AUTO}: {size} prompts in a call")
    return size


def largest(memory: float, needed: Callable[[int], int]) -> int:
    """Return the largest power of two of prompts, up to 64, that needs at most so many bytes; at least 1."""
    one = needed(1)
    each = needed(2) - one  # a call's memory grows in proportion
    size = LARGEST
    while size > 1 and one + (size - 1) * each > memory:
        size //= 2
    return size
