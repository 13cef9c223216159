"""Linear and convolutional layers with packed codes instead of floating-point weights.

They subclass the layers they replace, so that adapters and hooks still recognise them. They compute what
quant/modules.py specifies; an engine, chosen at the first call, decides how.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..native import cuda as native_cuda
from ..quant.branch import Branch
from ..quant.format import NumberFormat
from ..quant.grid import Grid, along_first_axis
from ..quant.layer_function import channels_axis, convolution_of
from ..quant.modules import empty_twin
from ..quant.relaxing import RelaxedRows, bits_of_rows
from ..quant.rounding import Quantizer, round_values
from ..quant.rows import Rows
from ..quant.smoothing import smoothed_input
from ..quant.state import SavedLayer
from ..quant.tokens import TokenQuantizer
from ..types import Bits
from .codes import pack, packed_shape, unpack


class RowQuantizer(NamedTuple):
    """The quantizer of a layer's input at one row."""

    step: float
    zero: int
    bits: int

    def values(self, x: Tensor) -> Tensor:
        """Return x rounded, fp32."""
        shape = [1] * x.dim()  # tensors: dividing by a Python number may round differently
        step = torch.full(shape, self.step, dtype=torch.float32, device=x.device)
        zero = torch.full(shape, self.zero, dtype=torch.float32, device=x.device)
        return round_values(x.float(), Quantizer(step, zero, Grid(self.bits, signed=False)))


class TableQuantizer(NamedTuple):
    """The quantizer of a layer's input, whose scale is read from a table on the device."""

    scale: Tensor  # (tables) fp32
    zero: Tensor  # (tables) int32
    row: Tensor  # (N) or (1) int64: that of each item of the batch, or of all
    bits: int

    def values(self, x: Tensor) -> Tensor:
        """Return x (N,...) rounded, fp32."""
        scale, zero = (along_first_axis(table[self.row], x).float() for table in (self.scale, self.zero))
        return round_values(x.float(), Quantizer(scale, zero, Grid(self.bits, signed=False)))


AnyQuantizer = RowQuantizer | TableQuantizer | TokenQuantizer


@dataclass(frozen=True)
class PackedSpec:
    """Everything that decides the tensors of a packed layer, besides the layer's own shape."""

    bits: Bits
    form: NumberFormat
    tables: int  # entries of the activation tables: 1 or the number of rows; 0 where tokens have scales
    text_fed: bool
    relaxed: RelaxedRows | None = None


Run = Callable[[Tensor, AnyQuantizer], Tensor]
LayerKernel = Callable[["Packed"], Run]
TABLES = ("weight_step", "activation_step", "activation_zero")  # casts leave their dtypes as they are
BRANCH = ("branch_up", "branch_down")  # likewise, in layers that have a branch
SMOOTHING = "smoothing"  # likewise, where the format has smoothings


class Packed(nn.Module):
    """The base of both layer types: codes, scales, and the engine's prepared computation.

    Before `install` it is the ordinary layer: adapters create theirs by the type of the layer they extend.
    """

    installed = False
    bits: Bits
    form: NumberFormat
    weight: Any  # packed codes, see codes.pack
    bias: Any
    weight_step: Tensor  # (C_out) fp32, or (C_out G) fp16
    activation_step: Tensor  # (tables) fp32
    activation_zero: Tensor  # (tables) int32
    branch_up: Tensor  # (C_out,r) fp16, if the format has branches and the layer is large enough
    branch_down: Tensor  # (r,C_in,...) fp16
    smoothing: Tensor | None  # (C_in) fp32 multipliers of the input's channels
    tables: tuple[str, ...]  # names of the tensors that casts leave as they are
    engine: LayerKernel
    _run: "Run | None"  # prepared by the engine
    _unlaid: Callable[[Tensor], Tensor] | None = None  # codes of a weight that is held as an engine reads it
    row_bits: list[int]  # activation bits of each row
    _quantizers: Sequence[AnyQuantizer]  # of each row; one for all
    _table: TableQuantizer | None  # on CUDA, where all rows have the same bits
    rounding: bytes | None  # on CUDA: a digest of all that rounds inputs
    _text: Tensor | None  # the last prompt's embedding
    _output: Tensor | None  # for that prompt

    def install(self, spec: PackedSpec, rows: Rows) -> None:
        """Allocate tensors on the meta device."""
        self.installed, self.rows, self.text_fed = True, rows, spec.text_fed
        self.bits, self.form = spec.bits, spec.form
        self.row_bits = bits_of_rows(spec.bits.activations, spec.tables, spec.relaxed).tolist()
        self.weight_shape = self.weight.shape
        shape, dtype = packed_shape(self.weight_shape, spec.bits.weights), torch.int8
        if shape is not self.weight_shape:
            dtype = torch.uint8
        empty = torch.empty(shape, dtype=dtype, device="meta")
        self.weight = nn.Parameter(empty, requires_grad=False)  # counted as a parameter
        groups = spec.form.groups(self.weight_shape)
        dtype = torch.float32 if groups == 1 else torch.float16
        scales = torch.empty(self.weight_shape[0] * groups, dtype=dtype, device="meta")
        self.register_buffer("weight_step", scales)
        self.register_buffer("activation_step", torch.empty(spec.tables, dtype=torch.float32, device="meta"))
        self.register_buffer("activation_zero", torch.empty(spec.tables, dtype=torch.int32, device="meta"))
        rank = spec.form.rank(self.weight_shape)
        self.tables = TABLES + (BRANCH if rank else ()) + ((SMOOTHING,) if spec.form.smoothing else ())
        smoothing = torch.empty(self.weight_shape[1], device="meta") if spec.form.smoothing else None
        self.register_buffer(SMOOTHING, smoothing)
        if rank:
            half, inputs = torch.float16, self.weight_shape[1:]
            up = torch.empty(self.weight_shape[0], rank, dtype=half, device="meta")
            self.register_buffer("branch_up", up)
            self.register_buffer("branch_down", torch.empty(rank, *inputs, dtype=half, device="meta"))
        self._forget()

    @property
    def grids(self) -> tuple[Grid, Grid]:
        """The grids of the weight and, at rows that are not relaxed, of the input."""
        return self.form.grids(self.bits)

    def expect_weight(self) -> None:
        """Give the weight its floating-point shape, on the meta device, which loaders compare with a file."""
        self.weight = nn.Parameter(torch.empty(self.weight_shape, device="meta"), requires_grad=False)

    def fill(self, saved: SavedLayer) -> None:
        """Set codes, scales and zero-points from a quantizer state."""
        self._unlaid = None
        self.weight = nn.Parameter(pack(saved.codes, self.bits.weights), requires_grad=False)
        self.weight_step = saved.weight_step.to(self.weight_step.dtype)
        self.activation_step = saved.activation_step
        self.activation_zero = saved.activation_zero
        if saved.branch is not None:
            self.branch_up, self.branch_down = saved.branch
        self.smoothing = saved.smoothing
        self._forget()

    def codes(self) -> Tensor:
        """Return the weight's int8 codes in its shape."""
        if self._unlaid is not None:
            return self._unlaid(self.weight.data)
        return unpack(self.weight.data, self.bits.weights, self.weight_shape)

    def hold(self, laid_out: Tensor, unlaid: Callable[[Tensor], Tensor]) -> None:
        """Hold the weight as an engine reads it, (C_out,bytes), until it is moved: it is in memory once.

        `unlaid` returns the codes of what is held, in the weight's shape.
        """
        self.weight.data = laid_out.view(*laid_out.shape, *[1] * (len(self.weight_shape) - 2))
        self._unlaid = unlaid

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
        if torch.compiler.is_compiling() or text.is_inference():  # no version then counts writes to it
            return self._compute(text)
        if self._output is None or self._text is not text or self._version != text._version:
            self._text, self._version, self._output = text, text._version, self._compute(text)
        return self._output

    def _compute(self, x: Tensor) -> Tensor:
        y = self._rounded_product(x)
        if self.form.rank(self.weight_shape):
            branch = Branch(self.branch_up, self.branch_down)
            y = y + branch.output(self.smoothed(x).to(x.dtype), convolution_of(self))
        return y

    def smoothed(self, x: Tensor) -> Tensor:
        """Return an input as it is before it is rounded, in fp32 or more where it is changed."""
        return smoothed_input(x, self.smoothing, channels_axis(convolution_of(self)))

    def prepared(self) -> "Run":
        """Return the engine's computation of this layer, which the first call prepares."""
        if self._run is None:
            self._run = self.engine(self)
            if native_cuda.serves(self.weight.device.type):
                self._prepare_tables()
            else:
                self._quantizers = self._input_quantizers()
        return self._run

    def quantizer(self) -> AnyQuantizer | None:
        """Return the quantizer of the current batch, once prepared; None where its items have others."""
        if self._table is not None:
            is_one = len(self._table.scale) == 1
            return self._table if is_one else self._table._replace(row=self.rows.index())
        row = 0 if len(self._quantizers) == 1 else self.rows.shared
        return None if row is None else self._quantizers[row]

    def _rounded_product(self, x: Tensor) -> Tensor:
        run, quantizer = self.prepared(), self.quantizer()
        if quantizer is not None:
            return run(x, quantizer)
        rows = self.rows.current(len(x)).tolist()
        return torch.cat([run(x[i : i + 1], self._quantizers[row]) for i, row in enumerate(rows)])

    def _prepare_tables(self) -> None:
        """Have scales read from tables on the device, and know once what would be compared in each call."""
        tensors = (self.activation_step, self.activation_zero, self.smoothing)
        held = [tensor.cpu().numpy().tobytes() for tensor in tensors if tensor is not None]
        self.rounding = sha256(b"".join([*held, str((self.grids[1], self.row_bits)).encode()])).digest()
        if self.form.per_token:
            self._quantizers = self._input_quantizers()
            return
        tables = self.activation_step, self.activation_zero
        rows = torch.arange(len(self.row_bits), device=self.weight.device).split(1)
        each = [TableQuantizer(*tables, *numbers) for numbers in zip(rows, self.row_bits, strict=True)]
        self._quantizers, self._table = each, each[0] if len(set(self.row_bits)) == 1 else None

    def _input_quantizers(self) -> list[RowQuantizer] | list[TokenQuantizer]:
        if self.form.per_token:
            return [TokenQuantizer(1 if isinstance(self, nn.Conv2d) else -1, self.grids[1])]
        steps, zeros = self.activation_step.tolist(), self.activation_zero.tolist()
        return list(map(RowQuantizer, steps, zeros, self.row_bits))

    def _forget(self) -> None:
        if self._unlaid is not None:
            self.weight.data, self._unlaid = pack(self.codes(), self.bits.weights), None
        self._run = self._text = self._output = self._table = self.rounding = None
        self._quantizers = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        """Move to another device; casts leave the tables as they are."""
        tables = {name: getattr(self, name) for name in self.tables} if self.installed else {}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            setattr(self, name, table.to(getattr(self, name).device))
        self._forget()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save the weight as it is stored, however it is held."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.installed and self._unlaid is not None:
            destination[f"{prefix}weight"] = pack(self.codes(), self.bits.weights)

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the engine's preparation, which may not be copied."""
        if self.installed:
            self._forget()
        return self.__dict__ | {"_run": None, "_table": None, "_text": None, "_output": None}


class PackedLinear(Packed, nn.Linear):
    """An nn.Linear with packed codes."""


class PackedConv2d(Packed, nn.Conv2d):
    """An nn.Conv2d with packed codes and zero padding, which every grid can represent."""


def packed(layer: nn.Linear | nn.Conv2d, spec: PackedSpec, rows: Rows) -> PackedLinear | PackedConv2d:
    """Return the packed twin of a layer, with its bias and empty codes; raises as `empty_twin`."""
    twin: PackedLinear | PackedConv2d = empty_twin(layer, PackedLinear, PackedConv2d)
    twin.install(spec, rows)
    return twin
