"""Our quantization method as diffusers knows it: a config, and a quantizer that loads and saves.

Only for networks that are quantized already; `sdquant calibrate` and `sdquant export` make them. Numbers
stay as they are in the file, whatever `torch_dtype` says: it applies to what is not quantized.
"""

import os
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import nn

from ..errors import DamagedArtifact, NewerFormat, UsageProblem
from ..types import Bits, Execution, Relax, Tables
from .engines import ENGINES, engine_for
from .hook import register_with_diffusers
from .layers import TABLES, Packed
from .network import Layout, missing, pack_network, use_engine

METHOD = "sdquant"
FORMAT = 1
ENGINE_VARIABLE = "SDQUANT_ENGINE"


class Method(StrEnum):  # diffusers asks for its `.value`
    SDQUANT = METHOD


class SdquantConfig(QuantizationConfigMixin):
    """`quantization_config` of a config.json: the layout of a packed network."""

    def __init__(
        self,
        bits: str = "",
        layers: dict[str, list[str]] | None = None,
        timesteps: list[float] | None = None,
        tables: str = Tables.PER_STEP,
        time_table: bool = True,
        relax: str = Relax.NONE,
        format_version: int = FORMAT,
        made_with: str = "",
        **_: Any,  # quant_method
    ) -> None:
        self.quant_method = Method.SDQUANT
        self.format_version, self.made_with = format_version, made_with
        self.bits = bits  # of all layers but those in `layers`
        self.layers = layers or {}  # bits -> names
        self.timesteps = timesteps or []  # that it was calibrated for, one for each row of the tables
        self.tables, self.time_table, self.relax = str(tables), time_table, str(relax)

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "quant_method": METHOD,
            "layers": {b: list(n) for b, n in self.layers.items()},
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """What diffusers prints."""
        return self.to_dict()

    def layout(self, names: list[str]) -> Layout:
        """Bits of the network's layers `names`; raises DamagedArtifact where the config makes no sense."""
        own = {name: bits for bits, group in self.layers.items() for name in group}
        if unknown := sorted(own.keys() - set(names)):
            raise DamagedArtifact(
                f"config.json: quantization_config.layers names {unknown[0]}, no such layer"
            )
        try:
            bits = {name: Bits.parse(own.get(name, self.bits)) for name in names}
            timesteps = tuple(map(float, self.timesteps))
            return Layout(bits, timesteps, Tables(self.tables), self.time_table, Relax(self.relax))
        except (TypeError, ValueError) as error:
            raise DamagedArtifact(f"config.json: quantization_config: {error}") from None


class SdquantQuantizer(DiffusersQuantizer):
    """Loads what `sdquant export` wrote, and saves it again to the same bytes."""

    requires_calibration = True

    def validate_environment(self, *_: Any, **__: Any) -> None:
        found = self.quantization_config.format_version
        if found > FORMAT:
            made = self.quantization_config.made_with
            raise NewerFormat(
                f"config.json: written by sdquant {made} in format {found}, this version reads up to "
                f"{FORMAT}; pip install -U sdquant"
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype:
        return torch_dtype or torch.float32

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
                f"{tuple(expected.shape)}; export it again"
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
                f"{len(left)} tensors are missing from the weight files, the first {left[0]}; export it again"
            )
        wanted = os.environ.get(ENGINE_VARIABLE, "auto")
        if wanted not in ("auto", *ENGINES):
            raise UsageProblem(f"{ENGINE_VARIABLE}={wanted}: expected auto, {' or '.join(ENGINES)}")
        use_engine(model, engine_for(None if wanted == "auto" else Execution(wanted)))
        model.half = partial(model.to, dtype=torch.float16)  # refuses too, but says what to do instead

    @property
    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register_with_diffusers()
