"""The description inside an exported folder: its configuration, recipe and model card."""

from collections.abc import Mapping
from pathlib import Path

from ..manifests import ModelRef, QuantStateFacts, QuantStateSpec, Setting
from ..types import Activations, ExportFormat
from ..version import __version__
from .network import Layout
from .plugin import SdquantConfig, bits_in_groups

Others = Mapping[str, Mapping[str, object]]  # what is said of packed networks beside the denoiser
NO_OTHERS: Others = {}
GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)  # what another runtime computes


def config_of(layout: Layout) -> SdquantConfig:
    """Return the quantization config of a layout."""
    usual, layers = bits_in_groups(layout.bits)
    return SdquantConfig(
        bits=usual,
        layers=layers,
        timesteps=list(layout.timesteps),
        tables=layout.tables.value,
        time_table=layout.time_table,
        relax=layout.relax.value,
        activations=(Activations.TOKEN if layout.form.per_token else Activations.PER_STEP).value,
        full_range=layout.form.full_range,
        group_size=layout.form.group_size,
        branch_rank=layout.form.branch_rank,
        smoothing=layout.form.smoothing,
        floating=list(layout.floating) or None,
        embedded_guidance=layout.embedded_guidance if layout.time_table else None,
        made_with=__version__,
    )


def portable(ref: ModelRef) -> dict[str, object]:
    """Return a model's reference with local paths reduced to file names, for other machines."""
    fields: dict[str, object] = ref.model_dump(mode="json", exclude_none=True)
    for name, value in fields.items():
        if isinstance(value, str) and Path(value).exists():
            fields[name] = Path(value).name
    return fields


def recipe_of(
    form: ExportFormat, spec: QuantStateSpec, facts: QuantStateFacts, others: Others = NO_OTHERS
) -> dict[str, object]:
    """Return the content of recipe.json: setting, calibration, each layer's bits, other packed networks."""
    setting = facts.setting.model_dump(mode="json") | {"model": portable(facts.setting.model)}
    return {
        "format": str(form),
        "setting": setting,
        "calibration": spec.model_dump(mode="json"),
        "average_bits": facts.average_bits,
        "bits": facts.bits,  # of layers that differ from the calibration's bits
        **({"components": others} if others else {}),
    }


def card(form: ExportFormat, spec: QuantStateSpec, facts: QuantStateFacts, others: Others = NO_OTHERS) -> str:
    """Return the model card, which describes the weights and how to load them."""
    setting = facts.setting.as_requested
    bits = ", ".join(f"{value:.2f} bits of {name}" for name, value in facts.average_bits.items())
    lines = [
        *_header(setting, spec),
        "",
        f"# {Path(setting.model.source).stem}, {spec.bits}",
        "",
        f"Quantized by sdquant {__version__}: {spec.method}, {spec.iterations} iterations; {bits}.",
    ]
    if others:
        named = ", ".join(f"{part} at {fields['bits']}" for part, fields in others.items())
        lines.append(f"Beside the denoiser: {named}, rounded to nearest.")
    if form is ExportFormat.PACKED and spec.activations is Activations.TOKEN:
        lines.append("Activations have a scale for each token and pixel: any scheduler and size draws.")
    elif form in (ExportFormat.PACKED, *GRAPHS):
        lines.append(
            f"Calibrated for {setting.scheduler} with {setting.steps} steps; other timesteps are refused."
        )
    else:
        lines.append(f"Quantized weights as fp16, activations not quantized; for {setting.scheduler}.")
    lines += ["", "```python"]
    if form in GRAPHS:
        lines += [f"import sdquant_cli  # pip install 'sdquant[{form}]'", ""]
        lines.append("pipeline = sdquant_cli.load(FOLDER)")
    else:
        if form is ExportFormat.PACKED:
            lines.append("import sdquant_cli  # pip install sdquant")
        lines += ["from diffusers import DiffusionPipeline", ""]
        lines.append("pipeline = DiffusionPipeline.from_pretrained(FOLDER)")
    lines += [
        f"pipeline(PROMPT, num_inference_steps={setting.steps}, "
        f"guidance_scale={setting.guidance_scale:g}, height={setting.height}, width={setting.width})",
        "```",
        "",
        *_checks(form),
        "",
    ]
    return "\n".join(lines)


def _checks(form: ExportFormat) -> list[str]:
    if form in GRAPHS:
        return ["recipe.json has each layer's bits."]
    return [
        "recipe.json has each layer's bits, provenance.json what it was made from;",
        "`sdquant verify FOLDER` checks every file and replays a stored call.",
    ]


def _header(setting: Setting, spec: QuantStateSpec) -> list[str]:
    """Return the card's front matter; only a Hub model is named as the base."""
    source = setting.model.source
    base = []
    if source.count("/") == 1 and not Path(source).exists():
        base = [f"base_model: {source}", "base_model_relation: quantized"]
    return ["---", "library_name: diffusers", *base, f"tags: [sdquant, {spec.bits}]", "---"]
