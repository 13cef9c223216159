"""Quantizer state: the parameters from which a quantized denoiser is rebuilt, simulated or packed."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ..calibration.bit_allocation import attention_bits
from ..calibration.output_correction import correction_of
from ..calibration.tabulated import tabulated_denoiser
from ..errors import UsageProblem
from ..manifests import QuantStateFacts, QuantStateSpec, Setting
from ..methods.number_choices import floating_layers
from ..models.attention import open_attention
from ..models.layers import is_text_fed, table_widths
from ..models.load import TORCH_DTYPES, Model
from ..models.schedule import log_snr
from ..quant.correction import Correction, correct_outputs
from ..quant.format import NumberFormat
from ..quant.interpolation import Interpolation
from ..quant.relaxing import RelaxedRows, relaxed_rows
from ..quant.rows import Rows
from ..quant.state import FIELDS, State, restore, state_from_arrays, stored_fields, stored_values
from ..runtime.engines import choose, engine_for
from ..runtime.network import Layout, fill_layers, fill_rest, missing, pack_network, use_engine
from ..store import ArraySpec, Artifact
from ..types import Bits, Dtype, Engine, Execution, Kind, Relax, StepMatch, Tables
from .time_table import TimeTable, make_time_table
from .workspace import Workspace

_SIMULATED_ONLY = ("correction", "split_shortcuts", "attention_bits")


class QuantState(Artifact[QuantStateSpec, QuantStateFacts]):
    """A stored quantizer state."""

    KIND = Kind.QUANT_STATE

    def state(self, model: Model) -> State:
        """Return the quantizers of all layers by name."""
        arrays = {"bits": self.read("bits")}
        for field in stored_fields(NumberFormat.of(self.spec)):
            for name in (field, f"{field}_offset"):
                arrays[name] = self.read(name)
        taps = dict.fromkeys(attention_bits(self.spec, model), torch.Size([0]))
        return state_from_arrays(arrays, _quantized_shapes(model, self.spec) | taps)

    @property
    def is_for_any_schedule(self) -> bool:
        """Whether nothing in it belongs to a timestep, so that any schedule and size can be drawn."""
        return NumberFormat.of(self.spec).per_token and not self.spec.correction

    def correction(self) -> Correction:
        """Return the correction of the output; the spec says whether there is one."""
        names = ("correction_slope", "correction_bias", "correction_std")
        return correction_of({name: self.read(name) for name in names})


def layout(model: Model, rows: int, spec: QuantStateSpec) -> dict[str, ArraySpec]:
    """Return the arrays of a state: packed values with offsets, bits by layer, the correction."""
    shapes = _quantized_shapes(model, spec)
    names, single = [*shapes, *attention_bits(spec, model)], spec.tables is Tables.SINGLE
    form = NumberFormat.of(spec)
    table = sum(1 if is_text_fed(name) or single else rows for name in names)
    if form.per_token:
        table = 0
    sizes = {"activation_step": table, "activation_zero": table}
    for shape in shapes.values():
        for field, count in stored_values(shape, form).items():
            sizes[field] = sizes.get(field, 0) + count
    arrays: dict[str, ArraySpec] = {}
    for name in stored_fields(form):
        arrays[name] = ArraySpec((sizes[name],), FIELDS[name], ("value",))
        arrays[f"{name}_offset"] = ArraySpec((len(names) + 1,), "int64", ("boundary",))
    arrays["bits"] = ArraySpec((len(names), 2), "int64", ("layer", "weights_activations"))
    if spec.correction:
        channels = model.latent_channels  # a prediction has the shape of its latent
        arrays["correction_slope"] = ArraySpec((rows,), "float32", ("row",))
        arrays["correction_bias"] = ArraySpec((rows, channels), "float32", ("row", "channel"))
        arrays["correction_std"] = ArraySpec((rows,), "float32", ("row",))
    return arrays


def _quantized_shapes(model: Model, spec: QuantStateSpec) -> dict[str, torch.Size]:
    """Return the weights' shapes of all layers that do not stay in floating point."""
    shapes = model.layer_shapes
    floating = floating_layers(spec, list(shapes))
    return {name: shape for name, shape in shapes.items() if name not in floating}


def model_of(workspace: Workspace, spec: QuantStateSpec, setting: Setting) -> Model:
    """Return the model that a state is of, its shortcut convolutions in two where the state has them so."""
    return workspace.model(setting, split_shortcuts=bool(spec.split_shortcuts))


def find_state(workspace: Workspace, name: str | None) -> QuantState:
    """Return the quantizer state of `--state`, by default the latest."""
    return workspace.resolve(QuantState, name, "--state") if name else workspace.need(QuantState)


def execution_of(state: QuantState, engine: Engine, device: torch.device) -> Execution:
    """Return how `--engine` computes a state on a device; raises as `choose` where it has no integers."""
    if engine is not Engine.AUTO:
        return _requested(state, Execution(engine), device)
    if _simulated_only(state) is None and choose(device, NumberFormat.of(state.spec)) is Execution.INTEGER:
        return Execution.INTEGER
    return Execution.SIMULATED


def _requested(state: QuantState, execution: Execution, device: torch.device) -> Execution:
    if execution is Execution.SIMULATED:
        return execution
    return choose(device, NumberFormat.of(state.spec), execution)


def _simulated_only(state: QuantState) -> str | None:
    """Return the option that gave a state a part that no packed network computes."""
    for field in _SIMULATED_ONLY:
        value = getattr(state.spec, field)
        if value not in (None, False):
            return f"--{field.replace('_', '-')}" + ("" if value is True else f" {value}")
    return None


def refuse_unless_packable(state: QuantState, flag: str) -> None:
    """Raise UsageProblem for a state with a part that no packed network computes."""
    if option := _simulated_only(state):
        raise UsageProblem(
            f"{flag}: quant-state/{state.key} was made with {option}, which only "
            f"`generate --engine simulated` computes; calibrate without it"
        )


def refuse_without_log_snr(model: Model, *settings: Setting) -> None:
    """Raise UsageProblem for a setting whose sampler does not say how noisy its latents are."""
    for setting in settings:
        log_snr(model.sampler(setting), ())


@dataclass(frozen=True)
class Scheduled:
    """The numbers of a state for the timesteps of a schedule, calibrated or interpolated."""

    layers: State
    table: TimeTable
    relaxed: RelaxedRows | None
    correction: Correction | None


def scheduled(
    workspace: Workspace, state: QuantState, model: Model, setting: Setting, match: StepMatch | None = None
) -> Scheduled:
    """Return a state's numbers for the calibrated schedule, with `interpolate` for that of a setting."""
    table = workspace.input(TimeTable, state, "time-table")
    layers, rows = state.state(model), len(table.timesteps())
    relaxed = relaxed_rows(state.spec.relax, rows)
    correction = state.correction() if state.spec.correction else None
    if match is not StepMatch.INTERPOLATE:
        return Scheduled(layers, table, relaxed, correction)
    target = _table_of(workspace, model, setting, table)
    before, after = model.sampler(state.facts.setting), model.sampler(setting)
    between = Interpolation.between(log_snr(before, table.timesteps()), log_snr(after, target.timesteps()))
    wider = relaxed_rows(state.spec.relax, len(target.timesteps()))
    layers = between.state(layers, relaxed, wider)
    return Scheduled(layers, target, wider, correction and between.correction(correction))


def _table_of(workspace: Workspace, model: Model, setting: Setting, calibrated: TimeTable) -> TimeTable:
    """Return the time table of a setting, its time path rounded as that of the calibration."""
    bits = Bits.parse(calibrated.spec.bits) if calibrated.spec.bits else None
    return make_time_table(workspace, model, setting, bits)


def quantized_denoiser(
    workspace: Workspace,
    state: QuantState,
    setting: Setting,
    execution: Execution = Execution.SIMULATED,
    match: StepMatch | None = None,
) -> nn.Module:
    """Return the denoiser of a quantizer state on the workspace's device, computed in the given way.

    For a setting of another schedule, the activation quantizers of a simulated one are those of the nearest
    calibrated timestep, or those that `match` says.
    """
    if execution is Execution.SIMULATED:
        return _simulated(workspace, state, setting, match)
    network, _ = packed_denoiser(workspace, state, setting, match)
    use_engine(network, engine_for(execution))
    return network.to(workspace.device)


def packed_denoiser(
    workspace: Workspace, state: QuantState, setting: Setting, match: StepMatch | None = None
) -> tuple[nn.Module, Layout]:
    """Return the packed denoiser on the CPU, and its layout. Of FP weights only the unquantized are read.

    Its tables are those of the calibrated schedule; with `interpolate` those of the setting's.
    """
    model = workspace.model(setting)
    numbers = scheduled(workspace, state, model, setting, match)
    table = numbers.table
    bits = {name: layer.bits for name, layer in numbers.layers.items()}
    form = NumberFormat.of(state.spec)
    rounds_time_path = table.spec.bits is not None
    has_table = not model.family.pooled and (rounds_time_path or not form.per_token)
    layout = Layout(
        bits,
        table.timesteps() if has_table or not form.per_token else (),
        state.spec.tables or Tables.PER_STEP,
        has_table,
        state.spec.relax or Relax.NONE,
        form,
        floating_layers(state.spec, list(model.layer_shapes)),
        table.spec.embedded_guidance,
    )
    network = copy.deepcopy(model.skeleton)
    names = list(table_widths(network))
    pack_network(network, layout)
    fill_layers(network, numbers.layers)
    tensors = {}
    if has_table:
        parts = table.features().values.split(model.time_widths, dim=1)
        tensors = {f"{name}.table": part for name, part in zip(names, parts, strict=True)}
    tensors |= model.tensors({name for name in missing(network) if name not in tensors})
    fill_rest(network, tensors, TORCH_DTYPES[Dtype(setting.dtype)])
    return network, layout


def _simulated(
    workspace: Workspace, state: QuantState, setting: Setting, match: StepMatch | None
) -> nn.Module:
    """Return the denoiser with rounded values in floating-point arithmetic: the specification."""
    model = model_of(workspace, state.spec, setting)
    numbers = scheduled(workspace, state, model, setting, match)
    table, calibrated = numbers.table, numbers.table.timesteps()
    takes_nearest = setting != state.facts.setting and match is not StepMatch.INTERPOLATE
    if takes_nearest:
        table = _table_of(workspace, model, setting, table)
    tabulated = tabulated_denoiser(model, Dtype(setting.dtype), workspace.device, table.features())
    rows = tabulated.rows
    if takes_nearest and not state.is_for_any_schedule:
        rows = Rows(calibrated, nearest=True)
        rows.follow(tabulated.network)
    if state.spec.attention_bits:
        open_attention(tabulated.network)
    restore(tabulated.network, numbers.layers, NumberFormat.of(state.spec), rows, numbers.relaxed)
    if numbers.correction is not None:
        correct_outputs(tabulated.network, numbers.correction, rows)
    return tabulated.network.to(workspace.device)
