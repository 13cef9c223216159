"""Predicted memory, time and disk space of a stage, for `--dry-run`.

Memory is the current size of this process, libraries included, plus what the stage adds: weights by count
and format, and one call's activations, computed on the meta device. Time is the calls' flops at a share of
this machine's rate for matrix products; it is right within a factor of two.
"""

import copy
import math
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration.checkpoints import EVERY, KEPT
from ..manifests import QuantStateSpec, Setting
from ..meter import memory
from ..models.attention import attention_taps, open_attention
from ..models.blocks import captured_bytes, largest_block
from ..models.conditioning import Conditioning, predict
from ..models.example_call import ExampleCall
from ..models.guidance import halves
from ..models.load import TORCH_DTYPES, Model
from ..quant.format import PAPER
from ..quant.modules import LayerState
from ..quant.rows import Rows
from ..quant.swap import swap
from ..store import ArraySpec
from ..types import Bits, Dtype, Train
from .footprint import Cost, cost_of_call

EFFICIENCY = 0.5  # a network's share of a large matrix product's rate
_BYTES = {Dtype.FP32: 4, Dtype.BF16: 2, Dtype.FP16: 2}

Numbers = dict[str, int | float | str]


@dataclass(frozen=True)
class Rounding:
    """The rounding of a simulated denoiser, as far as it takes memory."""

    quantized: bool = False  # whether it has codes beside its weights
    attention: int | None = None  # bits of attention's products, which the fused kernel cannot round


FLOATING_POINT = Rounding()


def drawing(
    model: Model,
    setting: Setting,
    batch: int,
    items: int,
    rounding: Rounding = FLOATING_POINT,
) -> Numbers:
    """Predict a run of `items` through the denoiser, `batch` prompts at once, after encoding the prompts."""
    together, dtype = halves(setting.guidance_scale) * batch, Dtype(setting.dtype)
    cost = _cost(model, setting, together, dtype, rounding.attention)
    drawn = _weight_bytes(model, dtype, rounding) + cost.bytes
    return {
        "peak memory, bytes": _resident() + max(_text_bytes(model), drawn),
        "seconds, roughly": _seconds(cost, dtype) * items / together,
    }


def bytes_of_a_call(model: Model, setting: Setting, batch: int, rounding: Rounding = FLOATING_POINT) -> int:
    """Predict the bytes that weights and a call of the denoiser take, `batch` prompts at once."""
    together, dtype = halves(setting.guidance_scale) * batch, Dtype(setting.dtype)
    cost = _cost(model, setting, together, dtype, rounding.attention)
    return _weight_bytes(model, dtype, rounding) + cost.bytes


def _weight_bytes(model: Model, dtype: Dtype, rounding: Rounding) -> int:
    codes = _quantizable(model) if rounding.quantized else 0
    return _parameters(model) * _BYTES[dtype] + codes


def calibrating(
    model: Model, setting: Setting, spec: QuantStateSpec, latents: int, cache: int, *, checkpointing: bool
) -> Numbers:
    """Predict a calibration on `latents` latents with an activation cache of `cache` bytes of memory."""
    together = -(-spec.batch_size // (spec.train.accumulate if spec.train else 1))
    items = halves(setting.guidance_scale) * together
    # the codes of each layer, the array of all codes, and temporary copies that the heap keeps
    codes = int(2.5 * _quantizable(model))
    if spec.reconstruct is not None:
        return _reconstructing(model, setting, spec, latents, cache)
    if spec.train is None:
        dtype = Dtype(setting.dtype)
        return {"peak memory, bytes": _resident() + _parameters(model) * _BYTES[dtype] + codes}
    call = partial(_cost, model, setting, items, Dtype.FP32, spec.attention_bits)
    forward = call()
    backward = call(training=True, checkpointing=checkpointing)  # with the gradients of weights
    weights = 4 * _quantizable(model) if spec.train.what is Train.WEIGHTS_AND_STEPS else 0
    moments = 2 * weights  # of Adam
    shared = spec.train.teacher is Dtype.FP32  # with the student, except for trained weights
    teacher = weights if shared else _parameters(model) * _BYTES[spec.train.teacher]
    added = _parameters(model) * 4 + moments + teacher + max(backward.bytes, codes)
    # the teacher, the student and its backward pass cost four forward passes, recomputed blocks one more
    passes = 5 if checkpointing else 4
    updates = passes * _seconds(forward, Dtype.FP32) * spec.train.accumulate * spec.iterations
    numbers: Numbers = {"peak memory, bytes": _resident() + added, "seconds, roughly": updates}
    if weights and spec.iterations > EVERY:
        copies = 4 if spec.train.averaging else 3  # weights, two moments of Adam, averaged weights
        # the kept checkpoints, and one that is being written
        numbers["scratch, bytes, roughly"] = (KEPT + 1) * copies * weights
    return numbers


def _reconstructing(
    model: Model, setting: Setting, spec: QuantStateSpec, latents: int, cache: int
) -> Numbers:
    """Predict a block reconstruction; captured activations beyond `cache` bytes go to disk."""
    assert spec.reconstruct is not None
    items = halves(setting.guidance_scale) * spec.batch_size
    forward = _cost(model, setting, items, Dtype.FP32, spec.attention_bits)
    weights = _parameters(model) * 4 + 4 * _quantizable(model)  # original and rounded
    learned = 4 * 8 * largest_block(model.skeleton)  # alpha, its gradient and moments, temporaries
    updates = 4 * _seconds(forward, Dtype.FP32) * spec.iterations
    networks = 1 if spec.reconstruct.mixed_inputs >= 1 else 2
    network, x, conditioning = _call(model, setting, 1, Dtype.FP32)
    call = partial(predict, network, x, torch.ones(1, device="meta"), conditioning)
    captured = halves(setting.guidance_scale) * latents * captured_bytes(network, call, networks)
    return {
        "peak memory without the cache, bytes": _resident() + weights + learned + forward.bytes,
        "cache, bytes": min(captured, cache),
        "scratch, bytes, roughly": max(0, captured - cache),
        "seconds, roughly": updates,
    }


def disk(arrays: Mapping[str, ArraySpec]) -> int:
    """Return the bytes of an artifact's arrays before compression."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays.values())


def _cost(
    model: Model,
    setting: Setting,
    items: int,
    dtype: Dtype,
    attention: int | None,
    *,
    training: bool = False,
    checkpointing: bool = False,
) -> Cost:
    """Return the cost of one call; rounded attention (`attention` bits) cannot use the fused kernel."""
    network, x, conditioning = _call(model, setting, items, dtype)
    if attention is not None:
        one = torch.ones(1, device="meta")
        rounding = LayerState(one[:0], one, one, *PAPER.grids(Bits(0, attention)))
        open_attention(network)
        swap(network, dict.fromkeys(attention_taps(network), rounding), Rows([0.0]), weights_on_grid=True)
    if checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    return cost_of_call(network, x, conditioning, training=training)


def _call(model: Model, setting: Setting, items: int, dtype: Dtype) -> tuple[nn.Module, Tensor, Conditioning]:
    """Return a network, latents and conditioning on the meta device."""
    call = ExampleCall.of_shapes(model, setting, items)
    return copy.deepcopy(model.skeleton).to(TORCH_DTYPES[dtype]), call.x, call.conditioning


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.skeleton.parameters())


def _quantizable(model: Model) -> int:
    return sum(shape.numel() for shape in model.layer_shapes.values())


def _text_bytes(model: Model) -> int:
    """Return the bytes of the text encoders in the dtypes they run in."""
    counts = model.text_parameters
    return sum(count * (2 if part in model.family.t5 else 4) for part, count in counts.items())


def _resident() -> int:
    """Return the bytes of this process in memory; on systems other than Linux, its peak so far."""
    return memory("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _seconds(cost: Cost, dtype: Dtype) -> float:
    """Return the seconds of one call, from this machine's rate for a matrix product."""
    side = 1024
    a = torch.randn(side, side).to(TORCH_DTYPES[dtype])
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return cost.flops * min(seconds) / (2 * side**3 * EFFICIENCY)
