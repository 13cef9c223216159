"""Registration of sdquant's quantizers with diffusers and transformers, now or when they are imported.

Neither has entry points for quantizers, only two dictionaries, and importing them to reach those would cost
every command seconds. Standard library only.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plugin import SdquantConfig

METHOD = "sdquant"  # `quant_method` of a config.json
_DIFFUSERS, _TRANSFORMERS = "diffusers.quantizers.auto", "transformers.quantizers.auto"

Register = Callable[[ModuleType], None]


def register_with_diffusers() -> None:
    """Register `quant_method: sdquant`, whichever of the two packages is imported first."""
    _when_imported(_DIFFUSERS, _register)


def register_with_transformers() -> None:
    """Register the same method for text encoders, likewise."""
    _when_imported(_TRANSFORMERS, _register_encoders)


def _when_imported(name: str, register: Register) -> None:
    if name in sys.modules:
        register(sys.modules[name])
    elif not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, register))


def _register(auto: ModuleType) -> None:
    from . import plugin

    if not hasattr(plugin, "SdquantQuantizer"):
        return  # plugin is importing diffusers, and registers at its end
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = plugin.SdquantConfig
    auto.AUTO_QUANTIZER_MAPPING[METHOD] = plugin.SdquantQuantizer


def _register_encoders(auto: ModuleType) -> None:
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = _Config
    auto.AUTO_QUANTIZER_MAPPING[METHOD] = _encoder_quantizer


class _Config:
    """A stand-in for SdquantConfig, registered while transformers is still being imported."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, object], **options: object) -> object:
        """Return the config of a config.json's fields."""
        from .plugin import SdquantConfig

        return SdquantConfig.from_dict(fields, **options)


def _encoder_quantizer(config: "SdquantConfig", **options: object) -> object:
    from .encoder_plugin import EncoderQuantizer

    return EncoderQuantizer(config, **options)


class _Finder(MetaPathFinder):
    """A finder for one module, used once, that registers the quantizer after the module was executed."""

    def __init__(self, name: str, register: Register) -> None:
        self.name, self._register = name, register

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader, self._register)
        return spec


class _ThenRegister(Loader):
    """A loader that registers the quantizer after executing the module."""

    def __init__(self, loader: Loader, register: Register) -> None:
        self._loader, self._register = loader, register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._register(module)
