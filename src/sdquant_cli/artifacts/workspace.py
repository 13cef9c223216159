"""What all stages share: finding inputs, inheriting their setting, publishing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import EnvironmentProblem, UsageProblem, first_line
from ..events import Events
from ..manifests import Frozen, Ref, Setting
from ..models.load import EMBEDDED, Model, ModelName, find_model
from ..options.requests import SettingRequest
from ..store import Artifact, Draft, Store
from ..types import Dtype, Kind


@dataclass(frozen=True)
class Plan:
    """What a stage would do: numbers by name."""

    stage: str
    numbers: dict[str, int | float | str] = field(default_factory=dict)


def use_device(name: str) -> torch.device:
    """The torch device of `--device`; raises EnvironmentProblem where there is none that has float64."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(kind)
        torch.zeros(1, device=device, dtype=torch.float64).item()  # sums need it; Apple's GPUs have none
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = first_line(error).split(". ")[0]
        raise EnvironmentProblem(f"--device {name}: {reason}; try cpu, cuda, cuda:1 or auto") from None
    torch.backends.cudnn.allow_tf32 = False  # of a GPU: fp32 products keep 23 bits in convolutions too
    torch.backends.cudnn.deterministic = True
    return device


def new_setting(request: SettingRequest) -> tuple[Model, Setting]:
    """Model and setting that a request names, the model's own defaults elsewhere."""
    name = ModelName(
        request.model or EMBEDDED,
        revision=request.revision,
        variant=request.variant,
        base=request.base,
        lora=str(request.lora) if request.lora else None,
        lora_scale=request.lora_scale,
    )
    model = find_model(name)
    defaults = model.defaults
    scale = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    height, width = request.height, request.width
    if not (height and width):
        default_height, default_width = model.default_size
        height, width = height or default_height, width or default_width
    check_sides(model, height=height, width=width)
    setting = Setting(
        model=model.ref,
        scheduler=request.scheduler or model.default_scheduler,
        steps=request.steps or defaults.steps,
        guidance_scale=scale,
        height=height,
        width=width,
        dtype=request.dtype or Dtype.FP32,
    )
    model.rehearse(setting)
    return model, setting


def check_sides(model: Model, **sides: int) -> None:
    """Raise UsageProblem for a height or width that the model cannot draw."""
    for name, side in sides.items():
        if side % model.multiple:
            raise UsageProblem(f"--{name} {side}: expected a multiple of {model.multiple}")


def inherit(setting: Setting, request: SettingRequest, source: Artifact) -> None:
    """Raise UsageProblem where a request contradicts the setting of its input artifact."""
    wanted = {
        "scheduler": (request.scheduler, setting.scheduler),
        "steps": (request.steps, setting.steps),
        "guidance-scale": (request.guidance_scale, setting.guidance_scale),
        "height": (request.height, setting.height),
        "width": (request.width, setting.width),
        "dtype": (request.dtype, setting.dtype),
        "model": (request.model, setting.model.source),
        "revision": (request.revision, setting.model.revision),
        "variant": (request.variant, setting.model.variant),
        "base": (request.base, setting.model.base),
        "lora": (request.lora and str(request.lora), setting.model.lora),
        "lora-scale": (request.lora_scale, setting.model.lora_scale),
    }
    for flag, (asked, found) in wanted.items():
        if asked is not None and asked != found:
            raise UsageProblem(
                f"--{flag} {asked}: {source.name} was made with {found}; "
                f"leave the flag out, or run `sdquant sample` with it first"
            )


def open_model(setting: Setting) -> Model:
    """The model of a setting; raises UsageProblem if its files have changed since."""
    model = find_model(ModelName.from_ref(setting.model))
    if model.ref.digest != setting.model.digest:
        raise UsageProblem(
            f"--model {setting.model.source}: its files changed since the input artifact was made; "
            f"run `sdquant sample` again"
        )
    return model


def find_state(name: str | None, store: Store) -> Artifact:
    """The quantizer state of `--state`, the latest by default; raises UsageProblem for another artifact."""
    state = store.resolve(name) if name else store.need(Kind.QUANT_STATE)
    if state.manifest.kind is not Kind.QUANT_STATE:
        raise UsageProblem(f"--state {name}: is {state.manifest.kind}, expected a quantizer state")
    return state


def refs(inputs: Mapping[str, Artifact]) -> dict[str, Ref]:
    return {role: artifact.ref for role, artifact in inputs.items()}


LATEST = ("latest",)


def publish(store: Store, draft: Draft, facts: Frozen, tags: Sequence[str] = LATEST) -> Artifact:
    """Publish a finished draft, by default as the latest of its kind."""
    artifact = draft.publish(facts, store.provenance(torch.get_num_threads()))
    for tag in tags:
        store.tag(artifact, tag)
    return artifact


def up_to_date(store: Store, artifact: Artifact, events: Events, tags: Sequence[str] = LATEST) -> Artifact:
    """Say that nothing needs to be computed; the artifact gets its tags all the same."""
    for tag in tags:
        store.tag(artifact, tag)
    events.note(f"{artifact.name} is up to date")
    return artifact


def what_pictures_share(images: Artifact) -> dict[str, object]:
    """Everything that two sets of pictures must have in common to be compared, but the quantization."""
    setting: Setting = images.spec.setting
    fields: dict[str, object] = {name: getattr(setting, name) for name in Setting.model_fields}
    return fields | {
        "model": f"{setting.model.source} ({setting.model.digest[:12]})",
        "seed": images.spec.seed,
        "N": images.facts.images,
        "prompts": images.manifest.inputs["prompts"].key,
    }


def announce(events: Events, inputs: Mapping[str, Artifact]) -> None:
    """Tell which versions of the inputs are used."""
    for role, artifact in inputs.items():
        events.note(f"using {role}: {artifact.name}")
