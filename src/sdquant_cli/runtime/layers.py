"""Linear and convolutional layers that hold packed codes instead of weights.

They are subclasses of what they replace, so that adapters and hooks still know them. How they compute is
an engine's choice, made when they are first called; what they compute is that of quant/modules.py.
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


class Quantizer(NamedTuple):
    """Of a layer's input, at one row."""

    step: float
    zero: int
    bits: int


Run = Callable[[Tensor, Quantizer], Tensor]
LayerKernel = Callable[["Packed"], Run]
TABLES = (
    "weight_step",
    "activation_step",
    "activation_zero",
)  # kept in their own formats, whatever else is cast


class Packed(nn.Module):
    """What both layer types share: codes, step sizes, and the engine's prepared computation.

    Before `install` it is the ordinary layer: adapters make their own parts by the type of the layer they
    are added to.
    """

    installed = False
    bits: Bits
    weight: Any  # packed codes, see codes.pack
    bias: Any
    weight_step: Tensor  # (C_out) fp32
    activation_step: Tensor  # (rows) or (1) fp32
    activation_zero: Tensor  # (rows) or (1) int32
    engine: LayerKernel
    _run: "Run | None"  # what the engine prepared
    row_bits: list[int]  # of activations
    _quantizers: list[Quantizer]  # of each row
    _text: Tensor | None  # the last prompt
    _answer: Tensor | None  # to it

    def install(
        self, bits: Bits, rows: Rows, *, tables: int, text_fed: bool, relaxed: RelaxedRows | None
    ) -> None:
        """Make room, without numbers, for a layer of these bits; `tables` is 1 or the number of rows."""
        self.installed, self.bits, self.rows, self.text_fed = True, bits, rows, text_fed
        self.row_bits = bits_of_rows(bits.activations, tables, relaxed).tolist()
        self.weight_shape = self.weight.shape
        shape, dtype = packed_shape(self.weight_shape, bits.weights), torch.int8
        if shape is not self.weight_shape:
            dtype = torch.uint8
        empty = torch.empty(shape, dtype=dtype, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)  # a parameter, so that counts are honest
        channels = self.weight_shape[0]
        self.register_buffer("weight_step", torch.empty(channels, device="meta"))
        self.register_buffer("activation_step", torch.empty(tables, device="meta"))
        self.register_buffer("activation_zero", torch.empty(tables, dtype=torch.int32, device="meta"))
        self._forget()

    def fill(self, saved: SavedLayer) -> None:
        """Take in the numbers of a quantizer state."""
        self.weight = nn.Parameter(pack(saved.codes, self.bits.weights), requires_grad=False)
        self.weight_step, self.activation_step = saved.weight_step, saved.activation_step
        self.activation_zero = saved.activation_zero
        self._forget()

    def codes(self) -> Tensor:
        """The weight's codes, int8 in its shape."""
        return unpack(self.weight.data, self.bits.weights, self.weight_shape)

    def use(self, engine: LayerKernel) -> None:
        """Compute with another engine from now on."""
        self.engine = engine
        self._forget()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.installed:
            return super().forward(input)
        if self.text_fed:
            return self._once_for(input)
        return self._compute(input)

    def _once_for(self, text: Tensor) -> Tensor:
        """The prompt is the same tensor at every step of a picture: so is the answer."""
        if text.is_inference():  # does not tell whether it was written to
            return self._compute(text)
        if self._answer is None or self._text is not text or self._version != text._version:
            self._text, self._version, self._answer = text, text._version, self._compute(text)
        return self._answer

    def _compute(self, x: Tensor) -> Tensor:
        if self._run is None:
            self._run = self.engine(self)
            steps, zeros = self.activation_step.tolist(), self.activation_zero.tolist()
            self._quantizers = list(map(Quantizer, steps, zeros, self.row_bits))
        if len(self._quantizers) == 1:
            return self._run(x, self._quantizers[0])
        if self.rows.shared is not None:
            return self._run(x, self._quantizers[self.rows.shared])
        rows = self.rows.current(len(x)).tolist()
        return torch.cat([self._run(x[i : i + 1], self._quantizers[row]) for i, row in enumerate(rows)])

    def _forget(self) -> None:
        self._run = self._text = self._answer = None
        self._quantizers = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        """Moves to another device; a cast leaves the tables as they are."""
        tables = {name: getattr(self, name) for name in TABLES if self.installed}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            setattr(self, name, table.to(getattr(self, name).device))
        self._forget()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without what the engine prepared: it may not be copied, and can be made again."""
        return self.__dict__ | {"_run": None, "_text": None, "_answer": None}


class PackedLinear(Packed, nn.Linear):
    """nn.Linear on packed codes."""


class PackedConv2d(Packed, nn.Conv2d):
    """nn.Conv2d on packed codes; its padding is by zeros, which every grid holds."""


def packed(
    layer: nn.Linear | nn.Conv2d,
    bits: Bits,
    rows: Rows,
    *,
    tables: int,
    text_fed: bool,
    relaxed: RelaxedRows | None = None,
) -> PackedLinear | PackedConv2d:
    """The packed twin of a layer, without numbers but with its bias; raises as `empty_twin`."""
    twin: PackedLinear | PackedConv2d = empty_twin(layer, PackedLinear, PackedConv2d)
    twin.install(bits, rows, tables=tables, text_fed=text_fed, relaxed=relaxed)
    return twin
