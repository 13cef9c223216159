"""sdquant's quantization method for diffusers: a config, and a quantizer that loads and saves networks.

It loads networks that `sdquant calibrate` and `sdquant export` have quantized. Quantized tensors keep the
dtype of the file: `dtype` and later casts apply only to the others. Weight files are checked against the
digests that were exported with them.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from ..errors import DamagedArtifact, NewerFormat, UsageProblem
from ..models.layers import quantizable_layers
from ..models.shortcuts import SHORTCUT
from ..models.weights import is_finite
from ..quant.allocate import ends
from ..quant.format import NumberFormat
from ..quant.state import rounded_to_nearest
from ..types import Activations, Bits, Execution, Relax, Tables
from . import digests
from .checks import check_numbers
from .engines import ENGINES, engine_for
from .hook import METHOD, register_with_diffusers
from .layers import BRANCH, SMOOTHING, TABLES, Packed
from .network import Layout, missing, pack_network, packed_layers, use_engine

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from ..models.pretrained import Network

FORMAT = 2
_FORMAT_1 = {
    "activations": Activations.PER_STEP.value,
    "full_range": False,
    "group_size": None,
    "branch_rank": None,
    "smoothing": False,
    "floating": None,
}
ENGINE_VARIABLE = "SDQUANT_ENGINE"
SKIP_VARIABLE = "SDQUANT_SKIP_SHA256"


class Method(StrEnum):
    """The name of the method, as an enum because diffusers reads its `.value`."""

    SDQUANT = METHOD


class _Fields(BaseModel):
    """The fields of a quantization_config with their JSON types."""

    model_config = ConfigDict(strict=True)
    bits: str = ""  # of all layers but those in `layers`
    layers: dict[str, list[str]] = {}  # bits -> names
    activations: str = Activations.TOKEN.value
    full_range: bool = True  # whether weights have their lowest code too
    group_size: Annotated[int, Field(ge=1)] | None = None  # input channels of a weight that share a scale
    branch_rank: Annotated[int, Field(ge=1)] | None = None  # of the branch beside each weight
    smoothing: bool = False  # whether inputs are multiplied by a number for each channel
    floating: list[str] | None = None  # layers that are not packed
    timesteps: list[FiniteFloat] = []  # one for each row of the tables; none where there are no tables
    tables: str = Tables.PER_STEP.value
    time_table: bool = False
    embedded_guidance: FiniteFloat | None = None  # guidance scale in the time table
    relax: str = Relax.NONE.value
    made_with: str = ""
    sha256: dict[str, str] = {}  # of weight files, by name


class SdquantConfig(QuantizationConfigMixin):
    """`quantization_config` of a config.json: the layout of a packed network."""

    bits: str
    layers: dict[str, list[str]]
    floating: list[str] | None
    embedded_guidance: float | None

    def __init__(self, format_version: object = FORMAT, **fields: object) -> None:
        """Raise NewerFormat for a newer format, DamagedArtifact for a field of another type."""
        if not isinstance(format_version, int) or format_version < 1:
            raise DamagedArtifact(
                f"config.json: quantization_config.format_version is {format_version!r}, "
                f"expected 1 ... {FORMAT}; {digests.REMEDY}"
            )
        if format_version > FORMAT:
            raise NewerFormat(
                f"config.json: written by sdquant {fields.get('made_with', '')} in format {format_version}, "
                f"this version reads up to {FORMAT}; pip install -U sdquant"
            )
        if format_version == 1:
            fields = {"time_table": True, **_FORMAT_1, **fields}
        self.quant_method = Method.SDQUANT
        for name, value in _fields(fields):
            setattr(self, name, value)

    def to_dict(self) -> dict[str, object]:
        """Return the fields for a config.json, without digests, since other weight files may be saved."""
        fields = {name: getattr(self, name) for name in _Fields.model_fields if name != digests.FIELD}
        if self.embedded_guidance is None:  # as in files of before
            del fields["embedded_guidance"]
        fields["timesteps"] = [int(t) if t.is_integer() else t for t in self.timesteps]
        version = FORMAT
        if all(fields[name] == value for name, value in _FORMAT_1.items()):  # an older version reads it too
            version = 1
            fields = {name: value for name, value in fields.items() if name not in _FORMAT_1}
        return {**fields, "format_version": version, "quant_method": METHOD}

    def to_diff_dict(self) -> dict[str, object]:
        """Return the fields that diffusers prints."""
        return self.to_dict()

    def for_floating_point(self, names: list[str]) -> "SdquantConfig":
        """Return the config for floating-point weights of layers `names`, with what was left open decided.

        Raises UsageProblem for bits that cannot be, and for scales that only a calibration finds.
        """
        if self.activations != Activations.TOKEN:
            raise UsageProblem(
                f"SdquantConfig(activations={self.activations!r}): needs a calibration; leave it out"
            )
        if self.smoothing:
            raise UsageProblem("SdquantConfig(smoothing=True): needs a calibration; leave it out")
        try:
            Bits.parse(self.bits)
        except ValueError as error:
            raise UsageProblem(f"SdquantConfig(bits={self.bits!r}): {error}") from None
        decided = copy(self)
        decided.floating = list(ends(names)) if self.floating is None else self.floating
        decided.layers = bits_of_shortcuts(names, self.bits) | self.layers
        return decided

    def layout(self, names: list[str]) -> Layout:
        """Return the layout of the layers `names`; raises DamagedArtifact if the fields are inconsistent."""
        usual: str = self.bits
        exceptions: dict[str, str] = {}
        for text, group in self.layers.items():
            exceptions |= dict.fromkeys(group, text)
        floating = tuple(self.floating or ())
        if unknown := sorted({*exceptions, *floating} - set(names)):
            raise DamagedArtifact(
                f"config.json: quantization_config.layers names {unknown[0]}, which is not a layer"
            )
        if len(set(self.timesteps)) < len(self.timesteps):
            raise DamagedArtifact("config.json: quantization_config.timesteps has duplicates")
        try:
            form = NumberFormat(
                per_token=Activations(self.activations) is Activations.TOKEN,
                full_range=self.full_range,
                group_size=self.group_size,
                branch_rank=self.branch_rank,
                smoothing=self.smoothing,
            )
            if not (form.per_token or self.timesteps):
                raise ValueError("timesteps: is empty, with calibrated activation scales")
            packed = [name for name in names if name not in floating]
            bits = {name: Bits.parse(exceptions.get(name, usual)) for name in packed}
            relax, tables = Relax(self.relax), Tables(self.tables)
            timesteps, guidance = tuple(self.timesteps), self.embedded_guidance
            return Layout(bits, timesteps, tables, self.time_table, relax, form, floating, guidance)
        except ValueError as error:
            raise DamagedArtifact(f"config.json: quantization_config: {error}") from None


def bits_of_shortcuts(names: Sequence[str], bits: str) -> dict[str, list[str]]:
    """Return the shortcut convolutions by their bits: twice those of other inputs, at most 16.

    They read the residual stream and skip connections as they are, without a norm before them: of all
    layers, rounding their inputs costs most.
    """
    usual = Bits.parse(bits)
    finer = Bits(usual.weights, min(2 * usual.activations, max(16, usual.activations)))
    shortcuts = [name for name in names if name.endswith(SHORTCUT)]
    return {str(finer): shortcuts} if shortcuts and finer != usual else {}


def bits_in_groups(bits: Mapping[str, Bits]) -> tuple[str, dict[str, list[str]]]:
    """Return the most common bits, and the names of the other layers by their bits."""
    usual, _ = Counter(map(str, bits.values())).most_common(1)[0]
    layers: dict[str, list[str]] = {}
    for name, layer_bits in bits.items():
        if str(layer_bits) != usual:
            layers.setdefault(str(layer_bits), []).append(name)
    return usual, layers


def _fields(fields: dict[str, object]) -> _Fields:
    try:
        return _Fields.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise DamagedArtifact(
            f"config.json: quantization_config.{name}: {first['msg']}, found {str(first['input'])[:40]}; "
            f"{digests.REMEDY}"
        ) from None


def check_digests(config: SdquantConfig, files: Sequence[str | Path]) -> None:
    """Raise DamagedArtifact for a weight file that has changed, by the digests in config.json."""
    if config.sha256 and os.environ.get(SKIP_VARIABLE, "0") == "0":
        for path in map(Path, files):
            digests.check(path, config.sha256.get(path.name, ""))


def pack_in_place(network: nn.Module, config: SdquantConfig, pre_quantized: bool) -> SdquantConfig:
    """Give a network on the meta device packed layers; return the config with nothing left open.

    Unless its files are `pre_quantized`, the layers expect floating-point weights.
    """
    names = list(quantizable_layers(network))
    if pre_quantized:
        pack_network(network, config.layout(names))
        return config
    config = config.for_floating_point(names)
    pack_network(network, config.layout(names))
    for layer in packed_layers(network).values():
        layer.expect_weight()
    return config


def fill_from_floating_point(layer: Packed, weight: Tensor, name: str) -> None:
    """Fill a packed layer with a weight rounded to nearest; raise UsageProblem if it is not finite."""
    if not is_finite(weight):
        raise UsageProblem(f"{name} has numbers that are not finite (NaN or infinity)")
    layer.fill(rounded_to_nearest(weight, layer.bits, layer.form))


def make_ready(network: "Network") -> None:
    """Let a filled network compute with the engine that the environment names, and be cast.

    Raises DamagedArtifact for what is missing or outside its grid, UsageProblem for an engine that is none.
    """
    if left := missing(network):
        raise DamagedArtifact(
            f"{len(left)} tensors are missing from the weight files, first {left[0]}; {digests.REMEDY}"
        )
    check_numbers(network)
    engine = os.environ.get(ENGINE_VARIABLE, "auto")
    if engine not in ("auto", *ENGINES):
        raise UsageProblem(f"{ENGINE_VARIABLE}={engine}: expected auto, {' or '.join(ENGINES)}")
    use_engine(network, engine_for(None if engine == "auto" else Execution(engine)))
    network.is_quantized = False  # so that casts are allowed, which `Packed` handles


class SdquantQuantizer(DiffusersQuantizer):
    """A quantizer that loads networks whose weights sdquant has packed, and saves them to the same bytes.

    Floating-point weights are packed while they are loaded, each rounded to nearest.
    """

    quantization_config: SdquantConfig

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        """Return the dtype of tensors that are not quantized, fp32 by default."""
        return torch_dtype or torch.float32

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Check weight files against the digests in config.json; return the keys unchanged."""
        check_digests(self.quantization_config, checkpoint_files)
        return loaded_keys

    def check_if_quantized_param(
        self, model: nn.Module, _: Tensor, name: str, __: dict[str, Tensor], **___: object
    ) -> bool:
        """Tell if a tensor belongs to a packed layer."""
        path, _dot, field = name.rpartition(".")
        fields = ("weight", *TABLES, *BRANCH, SMOOTHING) if self.pre_quantized else ("weight",)
        return field in fields and isinstance(model.get_submodule(path), Packed)

    def create_quantized_param(
        self,
        model: nn.Module,
        _: Tensor,
        name: str,
        device: torch.device,
        state_dict: dict[str, Tensor],
        *__: object,
        **___: object,
    ) -> None:
        """Set a tensor of a packed layer from the file's; the one that diffusers passes has been cast."""
        path, _dot, field = name.rpartition(".")
        layer, tensor = model.get_submodule(path), state_dict[name].to(device)
        if not self.pre_quantized:
            assert isinstance(layer, Packed)
            fill_from_floating_point(layer, tensor, name)
            return
        expected = getattr(layer, field)
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise DamagedArtifact(
                f"{name}: is {tensor.dtype} {tuple(tensor.shape)}, config.json says {expected.dtype} "
                f"{tuple(expected.shape)}; {digests.REMEDY}"
            )
        if field == "weight":
            layer.weight = nn.Parameter(tensor, requires_grad=False)
        else:
            setattr(layer, field, tensor)

    def _process_model_before_weight_loading(self, model: "ModelMixin", **_: object) -> None:
        self.quantization_config = pack_in_place(model, self.quantization_config, self.pre_quantized)
        if not self.pre_quantized:
            model.register_to_config(quantization_config=self.quantization_config)

    def update_missing_keys(self, model: nn.Module, missing_keys: list[str], prefix: str) -> list[str]:  # noqa: ARG002
        """Return the keys that a file lacks, without the scales of weights that are packed while loading."""
        if self.pre_quantized:
            return missing_keys
        return [name for name in missing_keys if name.rpartition(".")[2] not in (*TABLES, *BRANCH, SMOOTHING)]

    def _process_model_after_weight_loading(self, model: "ModelMixin", **_: object) -> None:
        make_ready(model)

    @property
    def is_serializable(self) -> bool:
        """Whether networks can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether networks can be trained."""
        return False


register_with_diffusers()
