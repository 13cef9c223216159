"""`quantize`: a checkpoint as a folder with packed weights, without prompts, calibration or a store.

Weights of the denoiser, and of text encoders and the autoencoder where they are asked for, are rounded to
nearest, one layer after the other, so that one of them at a time is held in floating point. Inputs have a
scale for each token and pixel, found at run time.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from ..artifacts.settings import setting_of
from ..calibration.bit_allocation import bits_of_layer
from ..errors import UsageProblem
from ..events import Events
from ..manifests import QuantStateFacts, QuantStateSpec, Setting
from ..models.counts import layer_counts
from ..models.example_call import ExampleCall
from ..models.folder import class_in
from ..models.load import Model, ModelName, find_model
from ..models.schedule import schedule_of
from ..options.base import SettingRequest
from ..options.requests import QuantizeRequest
from ..options.values import component
from ..quant.allocate import average_bits
from ..quant.state import rounded_to_nearest
from ..runtime import components, directory, proof
from ..runtime.description import config_of, portable
from ..runtime.engines import dequantized
from ..runtime.network import Layout, fill_rest, missing, pack_network, packed_layers, use_engine
from ..runtime.plugin import SdquantConfig
from ..runtime.whole import check_new_folder, output_folder
from ..types import FLOATING, Activations, ExportFormat
from ..version import __version__

METHOD = "rtn"
ALL = "all"


def run(request: QuantizeRequest, events: Events) -> Path:
    """Write the folder; it is there whole or not at all."""
    check_new_folder(request.output, None)
    model = find_model(_named(request))
    configs = _configs(request, model)
    for line in _fallbacks(model, configs):
        events.note(line)
    layout = _layout(request, model, configs)
    network = _packed(model, layout, events) if layout.bits else None
    with output_folder(request.output) as folder:
        if network is not None:
            if request.components:  # without, a folder is the same bytes as ever
                components.halve(network)
            directory.write_packed(network, config_of(layout), folder / model.family.folder)
            network.float()
            use_engine(network, dequantized)
        packed = {part: config for part, config in configs.items() if part != model.family.folder}
        _write_components(folder, model, packed, events)
        _write(folder, network, layout, model, _spec(request), list(packed))
    return request.output


@dataclass(frozen=True)
class Size:
    """The size of a network in the folder."""

    bytes: int
    bits: str | None  # None: as it is in the model


def sizes(request: QuantizeRequest) -> dict[str, Size]:
    """Return the size of each network that the folder would have; no weights are read."""
    check_new_folder(request.output, None)
    model = find_model(_named(request))
    configs = _configs(request, model)
    bits = {part: config.bits for part, config in configs.items()}
    return {part: Size(count, bits.get(part)) for part, count in components.sizes(model, configs).items()}


def _configs(request: QuantizeRequest, model: Model) -> dict[str, SdquantConfig]:
    """Return the config of each network to quantize, in the pipeline's order.

    Raises UsageProblem for what is no network of the pipeline, or has no layers to quantize.
    """
    denoiser = model.family.folder
    bits = _bits_by_component(request, model)
    if request.branch_rank and denoiser not in bits:
        raise UsageProblem(
            f"--branch-rank {request.branch_rank}: is for the denoiser; add {denoiser} to --components"
        )
    configs = {}
    for part, text in bits.items():
        if part == denoiser:
            configs[part] = _config(request, text, list(model.layer_shapes))
        else:
            config = SdquantConfig(bits=text, group_size=request.group_size, made_with=__version__)
            configs[part] = components.component_config(model, part, config)
    return configs


def _bits_by_component(request: QuantizeRequest, model: Model) -> dict[str, str]:
    """Return the bits of each network that the request names, in the pipeline's order."""
    requested = _named_components(request)
    if ALL in requested:
        if requested.pop(ALL):
            raise UsageProblem(f"--components {ALL}: takes no bits of its own; use --bits")
        requested = dict.fromkeys(model.networks) | requested
    requested = requested or {model.family.folder: None}
    usual = {components.AUTOENCODER: components.AUTOENCODER_BITS}
    bits = {}
    for part in model.networks:
        if part in requested:
            bits[part] = requested.pop(part) or usual.get(part, request.bits)
    if requested:
        raise UsageProblem(
            f"--components {next(iter(requested))}: is no network of {model.source}, which has "
            f"{', '.join(model.networks)}"
        )
    return bits


def _named_components(request: QuantizeRequest) -> dict[str, str | None]:
    """Return the components that a request names, and their bits where it gives them any."""
    named: dict[str, str | None] = {}
    for text in request.components:
        name, bits = component(text)
        if name in named:
            raise UsageProblem(f"--components: {name} is named twice")
        named[name] = bits
    return named


def _layout(request: QuantizeRequest, model: Model, configs: Mapping[str, SdquantConfig]) -> Layout:
    """Return the layout of the denoiser; it has no packed layers where the request leaves it as it is."""
    names = list(model.layer_shapes)
    if config := configs.get(model.family.folder):
        return config.layout(names)
    config = _config(request, request.bits, names)
    config.floating = names
    return replace(config.layout(names), bits={})


def _fallbacks(model: Model, configs: Mapping[str, SdquantConfig]) -> Iterator[str]:
    """Yield a line for each option that some layers of a network are too narrow for."""
    for part, config in configs.items():
        shapes = model.weight_shapes(part)
        layout = config.layout(list(shapes))
        where = "" if part == model.family.folder else f"{part}: "
        for line in layout.form.fallbacks({name: shapes[name] for name in layout.bits}):
            yield where + line


def _named(request: QuantizeRequest) -> ModelName:
    return ModelName(
        request.model,
        revision=request.revision,
        variant=request.variant,
        base=request.base,
        lora=str(request.lora) if request.lora else None,
        lora_scale=request.lora_scale,
    )


def _config(request: QuantizeRequest, bits: str, names: list[str]) -> SdquantConfig:
    """Return the config with which diffusers would pack a denoiser's layers while it loads them."""
    config = SdquantConfig(bits=bits, group_size=request.group_size, branch_rank=request.branch_rank)
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


def _write_components(
    folder: Path, model: Model, packed: Mapping[str, SdquantConfig], events: Events
) -> None:
    """Write the packed networks besides the denoiser."""
    if not packed:
        return
    with (
        events.task("quantizing", len(packed), "component") as task,
        TemporaryDirectory() as scratch,
    ):
        sources = _sources(model, Path(scratch))
        for part, config in packed.items():
            source, variant = sources.get(part), None
            if source is None:
                source, variant = model.folder / part, model.name.variant
            components.write(source, variant, class_in(model.folder, part), config, folder / part)
            task.advance()


def _sources(model: Model, scratch: Path) -> dict[str, Path]:
    """Return where the floating-point weights of text encoders are that an adapter is fused into."""
    if not model.name.lora:
        return {}
    pipeline = model.text_pipeline()
    for part in model.text_parts:
        getattr(pipeline, part).save_pretrained(scratch / part)
    return {part: scratch / part for part in model.text_parts}


def _write(
    folder: Path,
    network: nn.Module | None,
    layout: Layout,
    model: Model,
    spec: QuantStateSpec,
    packed: Sequence[str],
) -> None:
    """Write what is left of the folder: other components, self-tests, recipe, card and provenance."""
    form = ExportFormat.PACKED
    setting = setting_of(model, SettingRequest())
    sampler = model.sampler(setting)
    if network is None and model.name.lora:
        directory.write_dense(model.denoiser(), folder / model.family.folder)
    directory.write_others(model, sampler, folder)
    for part in packed:
        components.write_self_test(folder, part)
    others = {part: components.facts(folder / part) for part in packed}
    if network is not None:
        call = ExampleCall.of(model, setting, 1, schedule_of(sampler).timesteps[0])
        proof.write_self_test(network, call.x, call.timestep, call.conditioning, folder / proof.SELF_TEST)
    directory.write_description(folder, form, spec, _facts(model, layout, setting, spec.bits), others)
    proof.write_provenance(folder, {"sdquant": __version__, "model": portable(setting.model)})


def _facts(model: Model, layout: Layout, setting: Setting, usual: str) -> QuantStateFacts:
    bits = dict.fromkeys(layout.floating, FLOATING) | dict(layout.bits)
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
