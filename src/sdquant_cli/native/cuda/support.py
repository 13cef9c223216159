"""What keeps a CUDA device from running the kernels, found once for each device.

Of this room's modules, this one alone asks torch.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from .. import cuda

OLDEST = (8, 0)  # compute capability whose tensor cores multiply int8 as the kernels need it


def serves(device: torch.device) -> bool:
    """Return whether the kernels of this folder compute on a device; or, interpreted, on a CPU."""
    return cuda.interpreted or (device.type == "cuda" and problem(device) is None)


def active(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Have a tensor's GPU be the one that kernels are launched on, within the context: Triton asks for it."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


@cache
def problem(device: torch.device) -> str | None:
    """Return why the kernels cannot run on a device, in a few words; None if they can."""
    try:
        major, minor = torch.cuda.get_device_capability(device)
    except (AssertionError, RuntimeError) as error:  # no driver, or one that is too old, or no such device
        return _first_line(error)
    if (major, minor) < OLDEST:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {major}.{minor}, needs {OLDEST[0]}.{OLDEST[1]} or later"
    try:
        _probe(device)
    except ImportError:
        return "Triton is not installed (pip install triton)"
    except Exception as error:  # of Triton, ptxas, a C compiler or the driver: many types
        return f"Triton cannot run a kernel: {_first_line(error)}"
    return None


def _probe(device: torch.device) -> None:
    """Run a kernel that copies one number."""
    from . import probe

    source = torch.ones(1, device=device)
    target = torch.zeros_like(source)
    with active(source):
        probe.copy(source, target)
    if float(target) != 1:
        raise RuntimeError("it computes wrong numbers")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
