"""Linear and convolutional layers with packed codes instead of floating-point weights.

They subclass the layers they replace, so that adapters and hooks still recognise them. They compute what
quant/modules.py specifies; an engine, chosen at the first call, decides how.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..quant.modules import empty_twin
from ..quant.relaxing import RelaxedRows, bits_of_rows
from ..quant.rows import Rows
from ..quant.state import SavedLayer
from ..types import Bits
from .codes import pack, packed_shape, unpack


class ActivationQuantizer(NamedTuple):
    """The quantizer of a layer's input at one row."""

    step: float
    zero: int
    bits: int


Run = Callable[[Tensor, ActivationQuantizer], Tensor]
LayerKernel = Callable[["Packed"], Run]
TABLES = ("weight_step", "activation_step", "activation_zero")  # casts leave their dtypes as they are


class Packed(nn.Module):
    """The base of both layer types: codes, scales, and the engine's prepared computation.

    Before `install` it is the ordinary layer: adapters create theirs by the type of the layer they extend.
    """

    installed = False
    bits: Bits
    weight: Any  # packed codes, see codes.pack
    bias: Any
    weight_step: Tensor  # (C_out) fp32
    activation_step: Tensor  # (rows) or (1) fp32
    activation_zero: Tensor  # (rows) or (1) int32
    engine: LayerKernel
    _run: "Run | None"  # prepared by the engine
    row_bits: list[int]  # activation bits of each row
    _quantizers: list[ActivationQuantizer]  # of each row
    _text: Tensor | None  # the last prompt's embedding
    _output: Tensor | None  # for that prompt

    def install(
        self, bits: Bits, rows: Rows, *, tables: int, text_fed: bool, relaxed: RelaxedRows | None
    ) -> None:
        """Allocate tensors for these bits on the meta device; `tables` is 1 or the number of rows."""
        self.installed, self.bits, self.rows, self.text_fed = True, bits, rows, text_fed
        self.row_bits = bits_of_rows(bits.activations, tables, relaxed).tolist()
        self.weight_shape = self.weight.shape
        shape, dtype = packed_shape(self.weight_shape, bits.weights), torch.int8
        if shape is not self.weight_shape:
            dtype = torch.uint8
        empty = torch.empty(shape, dtype=dtype, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)  # counted as a parameter
        channels = self.weight_shape[0]
        self.register_buffer("weight_step", torch.empty(channels, device="meta"))
        self.register_buffer("activation_step", torch.empty(tables, device="meta"))
        self.register_buffer("activation_zero", torch.empty(tables, dtype=torch.int32, device="meta"))
        self._forget()

    def fill(self, saved: SavedLayer) -> None:
        """Set codes, scales and zero-points from a quantizer state."""
        self.weight = nn.Parameter(pack(saved.codes, self.bits.weights), requires_grad=False)
        self.weight_step, self.activation_step = saved.weight_step, saved.activation_step
        self.activation_zero = saved.activation_zero
        self._forget()

    def codes(self) -> Tensor:
        """Return the weight's int8 codes in its shape."""
        return unpack(self.weight.data, self.bits.weights, self.weight_shape)

    def use(self, engine: LayerKernel) -> None:
        """Compute with another engine."""
        self.engine = engine
        self._forget()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Compute the layer with its engine."""
        if not self.installed:
            return super().forward(input)
        if self.text_fed:
            return self._cached(input)
        return self._compute(input)

    def _cached(self, text: Tensor) -> Tensor:
        """Return the output for a text embedding, which is the same tensor at every step of an image."""
        if text.is_inference():  # has no version that counts writes to it
            return self._compute(text)
        if self._output is None or self._text is not text or self._version != text._version:
            self._text, self._version, self._output = text, text._version, self._compute(text)
        return self._output

    def _compute(self, x: Tensor) -> Tensor:
        if self._run is None:
            self._run = self.engine(self)
            steps, zeros = self.activation_step.tolist(), self.activation_zero.tolist()
            self._quantizers = list(map(ActivationQuantizer, steps, zeros, self.row_bits))
        if len(self._quantizers) == 1:
            return self._run(x, self._quantizers[0])
        if self.rows.shared is not None:
            return self._run(x, self._quantizers[self.rows.shared])
        rows = self.rows.current(len(x)).tolist()
        return torch.cat([self._run(x[i : i + 1], self._quantizers[row]) for i, row in enumerate(rows)])

    def _forget(self) -> None:
        self._run = self._text = self._output = None
        self._quantizers = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        """Move to another device; casts leave the tables as they are."""
        tables = {name: getattr(self, name) for name in TABLES if self.installed}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            setattr(self, name, table.to(getattr(self, name).device))
        self._forget()
        return self

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the engine's preparation, which may not be copied."""
        return self.__dict__ | {"_run": None, "_text": None, "_output": None}


class PackedLinear(Packed, nn.Linear):
    """An nn.Linear with packed codes."""


class PackedConv2d(Packed, nn.Conv2d):
    """An nn.Conv2d with packed codes and zero padding, which every grid can represent."""


def packed(
    layer: nn.Linear | nn.Conv2d,
    bits: Bits,
    rows: Rows,
    *,
    tables: int,
    text_fed: bool,
    relaxed: RelaxedRows | None = None,
) -> PackedLinear | PackedConv2d:
    """Return the packed twin of a layer, with its bias and empty codes; raises as `empty_twin`."""
    twin: PackedLinear | PackedConv2d = empty_twin(layer, PackedLinear, PackedConv2d)
    twin.install(bits, rows, tables=tables, text_fed=text_fed, relaxed=relaxed)
    return twin
