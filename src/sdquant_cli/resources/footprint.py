"""The memory and arithmetic of one denoiser call, computed on the meta device from its configuration."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from ..models.conditioning import Conditioning, predict


@dataclass(frozen=True)
class Cost:
    """The cost of one call."""

    bytes: int  # peak memory, weights not counted
    flops: int  # a multiply-accumulate counts two


class _LiveBytes(TorchDispatchMode):
    """A dispatch mode that counts the bytes of live storages and their peak; weights are not counted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._sizes = {p.untyped_storage()._cdata: 0 for p in network.parameters()}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

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
    """Attention that saves what fused kernels save; the meta device has only the unfused computation."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, *_: object) -> tuple[Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _fused_attention() -> Iterator[list[int]]:
    """Replace attention by a stand-in for the fused kernels, and yield the list of its flops per call."""
    original, flops = F.scaled_dot_product_attention, []

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
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
    """Return the cost of a call with latents (N,C,h,w), all of it on the meta device.

    With `training` it includes the backward pass to the activations, and to the parameters that need
    gradients; the flops of attention are those of its forward pass.
    """

    def call() -> None:
        timestep = torch.ones(1, device="meta")
        with torch.set_grad_enabled(training):
            predicted = predict(network, x.detach().requires_grad_(training), timestep, conditioning)
            if training:
                predicted.sum().backward()

    live, counter = _LiveBytes(network), FlopCounterMode(display=False)
    with _fused_attention(), live:  # alone: the counter keeps alive what gradient checkpointing drops
        call()
    with _fused_attention() as attention, counter:
        call()
    return Cost(live.peak, counter.get_total_flops() + sum(attention))
