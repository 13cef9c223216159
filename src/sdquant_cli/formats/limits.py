"""The limits of other programs' formats: parts of a quantizer state that they do not hold."""

from collections.abc import Callable

from ..quant.format import NumberFormat
from ..quant.state import SavedLayer, State
from ..types import ExportFormat, Relax

_GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)


def lost(form: ExportFormat, numbers: NumberFormat, relax: Relax, state: State) -> list[str]:
    """Return a clause for each part of a state that a format changes for the worse; none if it has all."""
    if form in _GRAPHS:
        return [] if relax is Relax.NONE else [_relaxed(relax)]
    losses = []
    if branches := _count(state, lambda layer: layer.branch is not None):
        losses.append(f"the branches of {branches} layers are merged into weights, which leave their grid")
    if _count(state, lambda layer: layer.smoothing is not None):
        losses.append("smoothings are merged into weights, which leave their grid")
    if form is ExportFormat.COMFYUI_INT8 and not numbers.per_token:
        losses.append("calibrated activation scales give way to one for each row, found at run time")
        if relax is not Relax.NONE:
            losses.append(_relaxed(relax))
    return losses


def left_out(form: ExportFormat, state: State) -> list[str]:
    """Return a line for each part of a state that a format computes more finely than the state asks for."""
    if form in _GRAPHS:
        return _floats(state)
    if form is ExportFormat.SINGLE_FILE:
        return ["a single file keeps the weights' grid; activations are not rounded"]
    linear, int8 = _count(state, _is_linear), _count(state, fits_int8)
    lines = [f"{int8} of {linear} linear layers are int8; all others are fp16, their inputs not rounded"]
    if wide := _count(state, lambda layer: _is_linear(layer) and layer.bits.activations > 8):
        lines.append(f"ComfyUI has 8-bit activations; {wide} linear layers with more stay fp16")
    if grouped := _count(state, lambda layer: _is_linear(layer) and _has_groups(layer)):
        lines.append(
            f"ComfyUI has one scale per output channel; {grouped} linear layers with groups stay fp16"
        )
    return lines


def _floats(state: State) -> list[str]:
    """Return a line for the layers that a graph computes in floating point, on the state's grids."""
    lines = []
    if wide := _count(state, lambda layer: layer.bits.activations > 8):
        lines.append(f"{wide} layers with more than 8 bits of activations are multiplied in floating point")
    if grouped := _count(state, _has_groups):
        lines.append(f"{grouped} layers with groups of scales are multiplied in floating point")
    return lines


def _relaxed(relax: Relax) -> str:
    return f"the 10-bit activations of --relax {relax} are rounded to 8 bits"


def _count(state: State, holds: Callable[[SavedLayer], bool]) -> int:
    return sum(map(holds, state.values()))


def fits_int8(layer: SavedLayer) -> bool:
    """Return whether ComfyUI's int8 holds a layer: linear, one scale per output channel, 8-bit inputs."""
    plain = layer.branch is None and layer.smoothing is None
    return plain and _is_linear(layer) and not _has_groups(layer) and layer.bits.activations <= 8


def _is_linear(layer: SavedLayer) -> bool:
    return layer.codes.dim() == 2


def _has_groups(layer: SavedLayer) -> bool:
    return len(layer.weight_step) != len(layer.codes)
