"""`quantize`: a checkpoint as a folder with packed weights, without prompts, calibration or a store.

Weights are rounded to nearest, one layer after the other, so that one of them at a time is held in floating
point. Inputs have a scale for each token and pixel, found at run time.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..artifacts.settings import setting_of
from ..calibration.bit_allocation import bits_of_layer
from ..events import Events
from ..manifests import QuantStateFacts, QuantStateSpec, Setting
from ..models.counts import layer_counts
from ..models.example_call import ExampleCall
from ..models.load import Model, ModelName, find_model
from ..models.schedule import schedule_of
from ..options.base import SettingRequest
from ..options.requests import QuantizeRequest
from ..quant.allocate import average_bits
from ..quant.state import rounded_to_nearest
from ..runtime import directory, proof
from ..runtime.description import config_of, portable
from ..runtime.engines import dequantized
from ..runtime.network import Layout, fill_rest, missing, pack_network, packed_layers, use_engine
from ..runtime.plugin import SdquantConfig
from ..runtime.whole import check_new_folder, output_folder
from ..types import FLOATING, Activations, ExportFormat
from ..version import __version__

METHOD = "rtn"


def run(request: QuantizeRequest, events: Events) -> Path:
    """Write the folder; it is there whole or not at all."""
    check_new_folder(request.output, None)
    model = find_model(_named(request))
    names = list(model.layer_shapes)
    layout = _config(request, names).layout(names)
    for line in layout.form.fallbacks({name: model.layer_shapes[name] for name in layout.bits}):
        events.note(line)
    network = _packed(model, layout, events)
    with output_folder(request.output) as folder:
        _write(folder, network, layout, model, _spec(request))
    return request.output


def _named(request: QuantizeRequest) -> ModelName:
    return ModelName(
        request.model,
        revision=request.revision,
        variant=request.variant,
        base=request.base,
        lora=str(request.lora) if request.lora else None,
        lora_scale=request.lora_scale,
    )


def _config(request: QuantizeRequest, names: list[str]) -> SdquantConfig:
    """Return the config with which diffusers would pack the same layers while it loads them."""
    config = SdquantConfig(bits=request.bits, group_size=request.group_size, branch_rank=request.branch_rank)
    return config.for_floating_point(names)


def _spec(request: QuantizeRequest) -> QuantStateSpec:
    """Return the spec that `calibrate` would give a state of these numbers."""
    return QuantStateSpec(
        method=METHOD,
        bits=request.bits,
        mixed=False,
        activations=Activations.TOKEN,
        full_range=True,
        group_size=request.group_size,
        branch_rank=request.branch_rank,
        iterations=0,
        batch_size=0,
        seed=0,
        loss=None,
        train=None,
    )


def _packed(model: Model, layout: Layout, events: Events) -> nn.Module:
    """Return the packed denoiser of a model, its weights read and rounded one after the other."""
    network = copy.deepcopy(model.skeleton)
    pack_network(network, layout)
    layers = packed_layers(network)
    with events.task("quantizing", len(layers), "layer") as task:
        for name, weight in _weights(model, list(layers)):
            layers[name].fill(rounded_to_nearest(weight, layout.bits[name], layout.form))
            task.advance()
    fill_rest(network, model.tensors(set(missing(network))), torch.float32)
    return network


def _weights(model: Model, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight of each layer; with an adapter all are read at once, since it may be in any."""
    if model.name.lora:
        tensors = model.tensors({f"{name}.weight" for name in names})
        for name in names:
            yield name, tensors.pop(f"{name}.weight")
        return
    for name in names:
        yield name, model.tensors({f"{name}.weight"})[f"{name}.weight"]


def _write(folder: Path, network: nn.Module, layout: Layout, model: Model, spec: QuantStateSpec) -> None:
    form = ExportFormat.PACKED
    setting = setting_of(model, SettingRequest())
    directory.write_packed(network, config_of(layout), folder / model.family.folder)
    sampler = model.sampler(setting)
    directory.write_others(model, sampler, folder)
    use_engine(network, dequantized)
    call = ExampleCall.of(model, setting, 1, schedule_of(sampler).timesteps[0])
    proof.write_self_test(network, call.x, call.timestep, call.conditioning, folder / proof.SELF_TEST)
    directory.write_description(folder, form, spec, _facts(model, layout, setting))
    proof.write_provenance(folder, {"sdquant": __version__, "model": portable(setting.model)})


def _facts(model: Model, layout: Layout, setting: Setting) -> QuantStateFacts:
    bits = dict.fromkeys(layout.floating, FLOATING) | dict(layout.bits)
    usual = config_of(layout).bits
    layers, counts = [], layer_counts(model, setting)
    for name, layer in bits.items():
        layers.append(bits_of_layer(layer, layer.activations, counts[name], layout.form))
    return QuantStateFacts(
        setting=setting,
        layers=len(layout.bits),
        bits={name: str(layer) for name, layer in bits.items() if str(layer) != usual},
        average_bits=average_bits(layers),
        losses=(),
        borrowed_rows=0,
    )
