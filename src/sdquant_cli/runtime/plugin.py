"""Our quantization method as diffusers knows it: a config, and a quantizer that loads and saves.

Only for networks that are quantized already; `sdquant calibrate` and `sdquant export` make them. Numbers
stay as they are in the file, whatever `dtype` says: it applies to what is not quantized, and so does a
later cast. Weight files are checked against the digests that were exported with them.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import nn

from ..errors import DamagedArtifact, NewerFormat, UsageProblem
from ..types import Bits, Execution, Relax, Tables
from . import digests
from .checks import check_numbers
from .engines import ENGINES, engine_for
from .hook import register_with_diffusers
from .layers import TABLES, Packed
from .network import Layout, missing, pack_network, use_engine

METHOD = "sdquant"
FORMAT = 1
SHA256 = "sha256"  # the field with the digests of weight files
ENGINE_VARIABLE = "SDQUANT_ENGINE"
SKIP_VARIABLE = "SDQUANT_SKIP_SHA256"


class Method(StrEnum):  # diffusers asks for its `.value`
    SDQUANT = METHOD


class _Fields(BaseModel):
    """The fields of a quantization_config, and the types that JSON gives them."""

    model_config = ConfigDict(strict=True)
    bits: str = ""  # of all layers but those in `layers`
    layers: dict[str, list[str]] = {}  # bits -> names
    timesteps: Annotated[list[FiniteFloat], Field(min_length=1)]  # one for each row of the tables
    tables: str = Tables.PER_STEP.value
    time_table: bool = True
    relax: str = Relax.NONE.value
    made_with: str = ""
    sha256: dict[str, str] = {}  # of weight files, by name


class SdquantConfig(QuantizationConfigMixin):
    """`quantization_config` of a config.json: the layout of a packed network."""

    def __init__(self, format_version: Any = FORMAT, **fields: Any) -> None:
        """Raise NewerFormat for a newer format, DamagedArtifact for a field of another type."""
        if not isinstance(format_version, int) or format_version < 1:
            raise DamagedArtifact(
                f"config.json: quantization_config.format_version is {format_version!r}, "
                f"expected 1 ... {FORMAT}; {digests.AGAIN}"
            )
        if format_version > FORMAT:
            raise NewerFormat(
                f"config.json: written by sdquant {fields.get('made_with', '')} in format {format_version}, "
                f"this version reads up to {FORMAT}; pip install -U sdquant"
            )
        self.quant_method, self.format_version = Method.SDQUANT, format_version
        for name, value in _fields(fields):
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return what a config.json says; without digests: the files that are saved now may be others."""
        fields = {name: getattr(self, name) for name in _Fields.model_fields if name != SHA256}
        timesteps = [int(t) if t.is_integer() else t for t in self.timesteps]
        return {**fields, "format_version": FORMAT, "quant_method": METHOD, "timesteps": timesteps}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what diffusers prints."""
        return self.to_dict()

    def layout(self, names: list[str]) -> Layout:
        """Return the layout of a network's layers `names`; raise DamagedArtifact where it makes no sense."""
        usual: str = self.bits
        own = {name: bits for bits, group in self.layers.items() for name in group}
        if unknown := sorted(own.keys() - set(names)):
            raise DamagedArtifact(
                f"config.json: quantization_config.layers names {unknown[0]}, no such layer"
            )
        if len(set(self.timesteps)) < len(self.timesteps):
            raise DamagedArtifact("config.json: quantization_config.timesteps has one of them twice")
        try:
            bits = {name: Bits.parse(own.get(name, usual)) for name in names}
            return Layout(
                bits, tuple(self.timesteps), Tables(self.tables), self.time_table, Relax(self.relax)
            )
        except ValueError as error:
            raise DamagedArtifact(f"config.json: quantization_config: {error}") from None


def _fields(fields: dict[str, Any]) -> _Fields:
    try:
        return _Fields(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise DamagedArtifact(
            f"config.json: quantization_config.{name}: {first['msg']}, found {str(first['input'])[:40]}; "
            f"{digests.AGAIN}"
        ) from None


class SdquantQuantizer(DiffusersQuantizer):
    """Loads what `sdquant export` wrote, and saves it again to the same bytes."""

    requires_calibration = True

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        return torch_dtype or torch.float32

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Check the weight files against their digests, where config.json has them; the keys stay."""
        expected = self.quantization_config.sha256
        if expected and os.environ.get(SKIP_VARIABLE, "0") == "0":
            for path in map(Path, checkpoint_files):
                digests.check(path, expected.get(path.name, ""))
        return loaded_keys

    def check_if_quantized_param(
        self, model: nn.Module, _: Any, name: str, __: dict[str, Any], **___: Any
    ) -> bool:
        path, _, field = name.rpartition(".")
        return field in ("weight", *TABLES) and isinstance(model.get_submodule(path), Packed)

    def create_quantized_param(
        self,
        model: nn.Module,
        _: Any,
        name: str,
        device: Any,
        state_dict: dict[str, Any],
        *__: Any,
        **___: Any,
    ) -> None:
        """The tensor as it is in the file: the one handed over has been cast."""
        path, _, field = name.rpartition(".")
        layer, tensor = model.get_submodule(path), state_dict[name].to(device)
        expected = getattr(layer, field)
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise DamagedArtifact(
                f"{name}: is {tensor.dtype} {tuple(tensor.shape)}, config.json says {expected.dtype} "
                f"{tuple(expected.shape)}; {digests.AGAIN}"
            )
        if field == "weight":
            layer.weight = nn.Parameter(tensor, requires_grad=False)
        else:
            setattr(layer, field, tensor)

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        from ..models.layers import quantizable_layers

        layout = self.quantization_config.layout(list(quantizable_layers(model)))
        pack_network(model, layout)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        if left := missing(model):
            raise DamagedArtifact(
                f"{len(left)} tensors are missing from the weight files, the first {left[0]}; {digests.AGAIN}"
            )
        check_numbers(model)
        wanted = os.environ.get(ENGINE_VARIABLE, "auto")
        if wanted not in ("auto", *ENGINES):
            raise UsageProblem(f"{ENGINE_VARIABLE}={wanted}: expected auto, {' or '.join(ENGINES)}")
        use_engine(model, engine_for(None if wanted == "auto" else Execution(wanted)))
        model.is_quantized = False  # diffusers then allows casts, which `Packed` takes part in as it can

    @property
    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register_with_diffusers()
