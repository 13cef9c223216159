"""A device that is not there, to test code for a GPU without one.

Tensors say that they are on `DEVICE`; the CPU computes. What a GPU refuses is refused: operands on
different devices, a generator of another device, `numpy()` before `cpu()`. Not shown: speed, memory, a
GPU's own rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = "lazy"  # one that torch knows by name, and whose backward pass runs on the thread that asks for it


class Elsewhere(Tensor):
    """A tensor on `DEVICE`; `held` on the CPU has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device=torch.device(DEVICE), **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _compute(op, args, kwargs or {})

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)  # torch makes lists tensors out of our sight
        return super().__getitem__(tuple(torch.tensor(p) if isinstance(p, list) else p for p in parts))

    def tolist(self) -> list[Any]:  # copies to the CPU by itself, unlike numpy()
        return self.held.tolist()


class _Factories(TorchDispatchMode):
    """Catches what makes a tensor on `DEVICE` of none that is there."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _compute(op, args, kwargs or {})


def _compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = list(_leaves((args, tuple(kwargs.values()))))
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in given)
    wanted = kwargs.get("device")
    goes = there if wanted is None else torch.device(wanted).type == DEVICE
    if not (goes or there):
        return op(*args, **kwargs)
    if goes and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{op}: a generator of the CPU for a tensor on {DEVICE}")
    if there and any(x.dim() and not isinstance(x, Elsewhere) for x in _bound(op, given)):
        raise RuntimeError(f"{op}: operands on {DEVICE} and on the CPU")
    held_args = _mapped(Elsewhere, lambda tensor: tensor.held, args)
    held_kwargs = {name: _mapped(Elsewhere, lambda tensor: tensor.held, x) for name, x in kwargs.items()}
    if goes and wanted is not None:
        held_kwargs["device"] = torch.device("cpu")
    result = op(*held_args, **held_kwargs)
    if op is torch.ops.aten.copy_.default:
        return args[0]
    if not goes:
        return result
    result = _mapped(Tensor, Elsewhere, result)
    return return_and_correct_aliasing(op, args, kwargs, result) if there else result


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what nested tuples and lists hold; torch's own pytree takes most of a test's time."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _mapped(kind: type, change: Any, value: Any) -> Any:
    """Return nested tuples and lists with what is of a kind changed."""
    if isinstance(value, tuple | list):
        return type(value)([_mapped(kind, change, part) for part in value])
    return change(value) if isinstance(value, kind) else value


def _bound(op: Any, given: list[Tensor]) -> list[Tensor]:
    """The operands that must be where the others are."""
    name = str(op)
    if name.startswith(("aten._to_copy", "aten.copy_")):
        return []
    if name.startswith("aten.index."):  # indices may be on the CPU
        return given[:1]
    return [given[0], given[-1]] if name.startswith("aten.index_put") else given


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within, `--device lazy` works."""
    autocast = torch.autocast
    fused = [*_get_fused_kernels_supported_devices(), DEVICE]
    with pytest.MonkeyPatch.context() as patch, _Factories():
        patch.setattr(
            "torch.autocast",
            lambda device, *a, **k: nullcontext() if device == DEVICE else autocast(device, *a, **k),
        )
        optimizer = import_module("torch.optim.optimizer")  # no attribute of its package
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: fused)
        patch.setattr(torch, DEVICE, torch.cpu, raising=False)  # gradient checkpointing asks for its state
        yield
