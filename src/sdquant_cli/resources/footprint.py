"""What one call of a denoiser costs, from its configuration alone: a run on the meta device."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from ..models.conditioning import Conditioning, predict


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    bytes: int  # the most that is alive at once beside the weights
    flops: int  # two for a multiply-accumulate


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages made within, and the most that were alive at once."""

    def __init__(self, known: nn.Module) -> None:
        super().__init__()
        self._sizes = {p.untyped_storage()._cdata: 0 for p in known.parameters()}  # weights are not counted
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


class _Attention(torch.autograd.Function):
    """Attention that keeps what the fused kernels keep; the meta device has only the one that does not."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def _fused_attention() -> Iterator[list[int]]:
    """Within: attention as the fused kernels do it; its operations are appended to the list."""
    original, flops = F.scaled_dot_product_attention, []

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        flops.append(2 * key.shape[-2] * (query.numel() + query.numel() // query.shape[-1] * value.shape[-1]))
        attended: Tensor = _Attention.apply(query, key, value)
        return attended

    F.scaled_dot_product_attention = attend
    try:
        yield flops
    finally:
        F.scaled_dot_product_attention = original


def cost_of_call(
    network: nn.Module, x: Tensor, conditioning: Conditioning, *, training: bool = False
) -> Cost:
    """Of a network, latents (N,C,h,w) and conditioning on the meta device.

    `training`: with the backward pass to the activations; gradients of weights are not counted.
    """
    timestep = torch.ones(1, device="meta")
    live, counter = _Live(network), FlopCounterMode(display=False)
    with _fused_attention() as attention, torch.set_grad_enabled(training), counter, live:
        predicted = predict(network, x.requires_grad_(training), timestep, conditioning)
        if training:
            predicted.sum().backward()
    return Cost(live.peak, counter.get_total_flops() + sum(attention))
