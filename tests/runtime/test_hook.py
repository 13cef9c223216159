"""Registration with diffusers and transformers, without importing them again."""

import sys
from types import ModuleType

import pytest

from sdquant_cli.runtime import encoder_plugin, hook, plugin

AUTO = "diffusers.quantizers.auto"


@pytest.fixture
def auto(monkeypatch) -> ModuleType:
    """A stand-in for diffusers' module with the two dictionaries."""
    module = ModuleType(AUTO)
    module.AUTO_QUANTIZATION_CONFIG_MAPPING = {}
    module.AUTO_QUANTIZER_MAPPING = {}
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, hook._Finder)])
    monkeypatch.delitem(sys.modules, AUTO, raising=False)
    return module


def registered(auto: ModuleType) -> bool:
    return (
        {"sdquant": plugin.SdquantConfig},
        {"sdquant": plugin.SdquantQuantizer},
    ) == (auto.AUTO_QUANTIZATION_CONFIG_MAPPING, auto.AUTO_QUANTIZER_MAPPING)


def finders() -> int:
    return sum(isinstance(finder, hook._Finder) for finder in sys.meta_path)


def test_a_module_that_was_imported_is_registered_with_at_once(auto, monkeypatch):
    monkeypatch.setitem(sys.modules, AUTO, auto)
    hook.register_with_diffusers()
    assert registered(auto)
    assert finders() == 0


def test_one_finder_waits_for_the_module_and_then_leaves():
    class Others:
        """A loader of the module, as another finder gives it."""

        executed = False

        def exec_module(self, module):
            self.executed = True

        def create_module(self, spec):
            return None

    loader = Others()
    module = ModuleType(AUTO)
    module.AUTO_QUANTIZATION_CONFIG_MAPPING = {}
    module.AUTO_QUANTIZER_MAPPING = {}
    wrapped = hook._ThenRegister(loader, hook._register)
    assert wrapped.create_module(None) is None
    wrapped.exec_module(module)
    assert loader.executed
    assert registered(module)


def test_the_finder_is_added_once_and_finds_one_module(auto):
    hook.register_with_diffusers()
    hook.register_with_diffusers()
    assert finders() == 1
    (finder,) = [finder for finder in sys.meta_path if isinstance(finder, hook._Finder)]
    assert finder.find_spec("diffusers.quantizers", None) is None
    assert finders() == 1
    spec = finder.find_spec(AUTO, None)
    assert spec.name == AUTO
    assert isinstance(spec.loader, hook._ThenRegister)
    assert finders() == 0
    assert not registered(auto)


def test_transformers_gets_stand_ins_that_import_what_they_stand_for(auto, monkeypatch):
    monkeypatch.setitem(sys.modules, hook._TRANSFORMERS, auto)
    hook.register_with_transformers()
    config = auto.AUTO_QUANTIZATION_CONFIG_MAPPING["sdquant"].from_dict({"bits": "w8a8"})
    assert isinstance(config, plugin.SdquantConfig)
    quantizer = auto.AUTO_QUANTIZER_MAPPING["sdquant"](config, pre_quantized=True)
    assert isinstance(quantizer, encoder_plugin.EncoderQuantizer)


def test_each_package_has_its_finder(auto, monkeypatch):
    monkeypatch.delitem(sys.modules, hook._TRANSFORMERS)
    hook.register_with_diffusers()
    hook.register_with_transformers()
    assert finders() == 2
