"""Settings of the model: from a request, or inherited from its input artifact."""

from ..errors import UsageProblem
from ..manifests import Setting
from ..models.context import BOXES
from ..models.load import EMBEDDED, Model, ModelName
from ..options.requests import SettingRequest
from ..store import Artifact
from ..types import Dtype
from .workspace import Workspace


def new_setting(request: SettingRequest, workspace: Workspace) -> tuple[Model, Setting]:
    """Return the model and setting that a request names."""
    model = workspace.open(_named(request))
    return model, setting_of(model, request)


def setting_of(model: Model, request: SettingRequest) -> Setting:
    """Return the setting of a request; the model's defaults fill what it leaves out."""
    defaults = model.defaults
    height, width = _sides(request, model)
    setting = Setting(
        model=model.ref,
        scheduler=request.scheduler or model.default_scheduler,
        steps=request.steps or defaults.steps,
        **guidance_fields(
            model, defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
        ),
        height=height,
        width=width,
        dtype=request.dtype or Dtype.FP32,
        context=BOXES if model.family.context else None,
    )
    model.rehearse(setting)
    return setting


def guidance_fields(model: Model, scale: float) -> dict[str, float]:
    """Return the fields of a setting that a guidance scale decides: whether the denoiser embeds it."""
    if model.guidance_width is None:
        return {"guidance_scale": scale}
    return {"guidance_scale": 1.0, "embedded_guidance": scale}


def _named(request: SettingRequest) -> ModelName:
    return ModelName(
        request.model or EMBEDDED,
        revision=request.revision,
        variant=request.variant,
        base=request.base,
        lora=str(request.lora) if request.lora else None,
        lora_scale=request.lora_scale,
    )


def _sides(request: SettingRequest, model: Model) -> tuple[int, int]:
    height, width = request.height, request.width
    if not (height and width):
        default_height, default_width = model.default_size
        height, width = height or default_height, width or default_width
    check_sides(model, height=height, width=width)
    return height, width


def check_sides(model: Model, **sides: int) -> None:
    """Raise UsageProblem for a height or width that the model cannot draw."""
    for name, side in sides.items():
        if side % model.multiple:
            raise UsageProblem(f"--{name} {side}: expected a multiple of {model.multiple}")


def inherit(setting: Setting, request: SettingRequest, source: Artifact) -> None:
    """Raise UsageProblem where a request contradicts the setting of its input artifact."""
    setting = setting.as_requested
    compared = {
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
    for flag, (requested, inherited) in compared.items():
        if requested is not None and requested != inherited:
            raise UsageProblem(
                f"--{flag} {requested}: {source.kind}/{source.key} was made with {inherited}; "
                f"leave the flag out, or run `sdquant sample` with it first"
            )
