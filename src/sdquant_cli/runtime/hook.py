"""Registration of sdquant's quantizer with diffusers, now or when it is imported. Standard library only.

diffusers has no entry points for quantizers, only two dictionaries, and importing it to reach them would cost
every command seconds.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_DICTIONARIES = "diffusers.quantizers.auto"


def register_with_diffusers() -> None:
    """Register `quant_method: sdquant`, whichever of the two packages is imported first."""
    if _DICTIONARIES in sys.modules:
        _register(sys.modules[_DICTIONARIES])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(auto: ModuleType) -> None:
    from . import plugin

    if not hasattr(plugin, "SdquantQuantizer"):
        return  # plugin is importing diffusers, and registers at its end
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[plugin.METHOD] = plugin.SdquantConfig
    auto.AUTO_QUANTIZER_MAPPING[plugin.METHOD] = plugin.SdquantQuantizer


class _Finder(MetaPathFinder):
    """A finder for one module, used once, that registers the quantizer after the module was executed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != _DICTIONARIES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    """A loader that registers the quantizer after executing the module."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register(module)
