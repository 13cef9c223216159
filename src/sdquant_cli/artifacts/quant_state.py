"""The network of a quantizer state: simulated, or packed as it is shipped."""

import copy
from typing import Any

import torch
from torch import nn

from ..calibration import output_correction as corrected
from ..calibration.bit_allocation import attention_bits
from ..calibration.tabulated import tabulated_denoiser
from ..errors import UsageProblem
from ..manifests import QuantStateSpec, Setting
from ..models.attention import open_attention
from ..models.layers import projections
from ..models.load import TORCH_DTYPES, Model
from ..quant.relaxing import relaxed_rows
from ..quant.rows import Rows
from ..quant.state import FIELDS, State, restore, state_from_arrays
from ..runtime.engines import choose, engine_for
from ..runtime.network import Layout, fill_layers, fill_rest, missing, pack_network, use_engine
from ..store import Artifact, Store
from ..types import Bits, Dtype, Engine, Execution, Relax
from .time_table import for_setting, read_table
from .workspace import open_model

_SIMULATED_ONLY = ("correction", "split_shortcuts", "attention_bits")


def model_of(spec: QuantStateSpec, setting: Setting) -> Model:
    """The model that a state is of: its shortcut convolutions in two, where the state says so."""
    model = open_model(setting)
    return model.split() if spec.split_shortcuts else model


def execution_of(engine: Engine, device: torch.device) -> Execution:
    """How `--engine` computes on a device; raises EnvironmentProblem for integers where there are none."""
    if engine is Engine.SIMULATED:
        return Execution.SIMULATED
    return choose(device, None if engine is Engine.AUTO else Execution(engine))


def quantized_denoiser(
    setting: Setting,
    state: Artifact,
    store: Store,
    device: torch.device,
    execution: Execution = Execution.SIMULATED,
) -> nn.Module:
    """The denoiser of a quantizer state, to be computed in one of the ways of `Execution`."""
    if execution is Execution.SIMULATED:
        return _simulated(setting, state, store, device)
    network, _ = packed_denoiser(setting, state, store)
    use_engine(network, engine_for(execution))
    return network.to(device)


def refuse_unless_simulated(state: Artifact, flag: str) -> None:
    """Raise UsageProblem for a state with a part that no packed network computes."""
    for field in _SIMULATED_ONLY:
        value = getattr(state.spec, field)
        if value not in (None, False):
            told = f"--{field.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UsageProblem(
                f"{flag}: quant-state/{state.manifest.key} was made with {told}, which only "
                f"`generate --engine simulated` computes; calibrate without it"
            )


def packed_denoiser(setting: Setting, state: Artifact, store: Store) -> tuple[Any, Layout]:
    """The packed denoiser, on the CPU, and its layout. Of FP weights only the unquantized are read."""
    model, table = open_model(setting), store.follow(state.manifest.inputs["time-table"])
    saved = read_state(state, model)
    bits = {name: layer.bits for name, layer in saved.items()}
    has_table = not model.family.pooled
    timesteps = tuple(table.read("timestep").tolist())
    layout = Layout(bits, timesteps, state.spec.tables, has_table, state.spec.relax or Relax.NONE)
    network = copy.deepcopy(model.skeleton)
    names = list(projections(network))
    pack_network(network, layout)
    fill_layers(network, saved)
    tensors = {}
    if has_table:
        parts = torch.from_numpy(table.read("table")).split(model.time_widths, dim=1)
        tensors = {f"{name}.table": part for name, part in zip(names, parts, strict=True)}
    tensors |= model.tensors({name for name in missing(network) if name not in tensors})
    fill_rest(network, tensors, TORCH_DTYPES[Dtype(setting.dtype)])
    return network, layout


def _simulated(setting: Setting, state: Artifact, store: Store, device: torch.device) -> nn.Module:
    """Rounded values, floating-point arithmetic: the specification.

    For a setting of another schedule the time features are its own, the activation quantizers those of the
    nearest calibrated timestep.
    """
    table, model = store.follow(state.manifest.inputs["time-table"]), model_of(state.spec, setting)
    calibrated = table.read("timestep").tolist()
    if setting != state.facts.setting:
        bits = Bits.parse(table.spec.bits) if table.spec.bits else None
        table = for_setting(model, setting, store, bits=bits)
    tabulated = tabulated_denoiser(model, Dtype(setting.dtype), device, read_table(table))
    rows = tabulated.rows
    if setting != state.facts.setting:
        rows = Rows(calibrated, nearest=True)
        rows.follow(tabulated.network)
    if state.spec.attention_bits:
        open_attention(tabulated.network)
    restore(
        tabulated.network, read_state(state, model), rows, relaxed_rows(state.spec.relax, len(calibrated))
    )
    corrected.install(tabulated.network, state, rows)
    return tabulated.network.to(device)


def read_state(state: Artifact, model: Model) -> State:
    """The quantizer state of an artifact."""
    names = [*FIELDS, *(f"{field}_offset" for field in FIELDS), "bits"]
    places = dict.fromkeys(attention_bits(state.spec, model), torch.Size([0]))
    return state_from_arrays({name: state.read(name) for name in names}, model.layer_shapes | places)
