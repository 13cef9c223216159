"""A denoiser with packed layers and a time table, filled from a quantizer state or from files."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.families import denoiser_of
from ..models.layers import is_text_fed, quantizable_layers, table_widths
from ..models.time_table import refuse_other_guidance, run_on_table
from ..quant.format import PAPER, NumberFormat
from ..quant.relaxing import relaxed_rows
from ..quant.rows import Rows
from ..quant.state import State
from ..types import Bits, Relax, Tables
from .attention import use_packed_attention
from .layers import LayerKernel, Packed, PackedSpec, packed


@dataclass(frozen=True)
class Layout:
    """The layout of a packed denoiser: everything that decides its tensors' names and shapes."""

    bits: Mapping[str, Bits]  # of every packed layer
    timesteps: tuple[float, ...]  # one for each row; none where nothing depends on it
    tables: Tables
    time_table: bool  # whether the time path is one table; in some families it depends on the prompt
    relax: Relax = Relax.NONE
    form: NumberFormat = PAPER
    floating: tuple[str, ...] = ()  # layers that are not packed
    embedded_guidance: float | None = None  # of the calibration; a time table has it in it

    def tables_of(self, name: str) -> int:
        """Return the entries of a layer's activation tables."""
        if self.form.per_token:
            return 0
        return 1 if is_text_fed(name) or self.tables is Tables.SINGLE else len(self.timesteps)


def pack_network(network: nn.Module, layout: Layout) -> None:
    """Replace layers and time path of `network` by packed ones on the meta device, in place."""
    from .blocks import use_packed_blocks  # its imports of diffusers import the plugin, which imports this

    rows = Rows(layout.timesteps)
    if layout.time_table:
        widths = table_widths(network)
        with torch.device("meta"):
            empty = {name: torch.empty(len(layout.timesteps), width) for name, width in widths.items()}
        run_on_table(network, empty, rows)
        if layout.embedded_guidance is not None:
            refuse_other_guidance(network, layout.embedded_guidance)
    elif layout.timesteps:
        rows.follow(network)
    layers, relaxed = quantizable_layers(network), relaxed_rows(layout.relax, len(layout.timesteps))
    for name, bits in layout.bits.items():
        spec = PackedSpec(bits, layout.form, layout.tables_of(name), is_text_fed(name), relaxed)
        twin = packed(layers[name], spec, rows)
        network.set_submodule(name, twin)
    use_packed_attention(network)
    use_packed_blocks(network)


def packed_layers(network: nn.Module) -> dict[str, Packed]:
    """Return the packed layers of a network by module path."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Packed) and module.installed
    }


def fill_layers(network: nn.Module, state: State) -> None:
    """Fill packed layers from a quantizer state."""
    for name, layer in packed_layers(network).items():
        layer.fill(state[name])


def fill_rest(network: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Fill all other tensors of a packed network, by name."""
    network.load_state_dict({name: t.to(dtype) for name, t in tensors.items()}, strict=False, assign=True)
    if left := missing(network):
        raise RuntimeError(f"tensors without values: {left}")
    denoiser_of(network).fill_buffers(network)
    network.requires_grad_(False).eval()


def missing(network: nn.Module) -> list[str]:
    """Return the names of tensors that are not filled."""
    return [name for name, tensor in network.state_dict().items() if tensor.is_meta]


def use_engine(network: nn.Module, engine: LayerKernel) -> None:
    """Compute all packed layers of a network with this engine."""
    for layer in packed_layers(network).values():
        layer.use(engine)
