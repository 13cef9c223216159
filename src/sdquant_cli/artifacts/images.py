"""Images: pictures drawn from fixed per-prompt noise, by the floating-point or a quantized denoiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from ..manifests import ImagesFacts, ImagesSpec, Setting
from ..models.autoencoder import decode
from ..models.conditioning import Conditioning
from ..models.denoise import denoise
from ..models.guidance import batch_conditioning
from ..models.load import Model
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Draft, lengths
from ..types import Dtype, Kind
from .prompts import Prompts
from .quant_state import QuantState, quantized_denoiser
from .text_embeds import TextEmbeds
from .workspace import LATEST, Blueprint, Workspace

IMAGES_PER_UNIT = 64
NOT_FINITE = (
    "the model computes NaN or infinity for its prompt; try another --dtype or --guidance-scale, or another "
    "calibration"
)


class Images(Artifact[ImagesSpec, ImagesFacts]):
    """Stored pictures."""

    KIND = Kind.IMAGES

    @property
    def count(self) -> int:
        """The number of pictures."""
        return self.facts.images

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.spec.setting.height, self.spec.setting.width

    def pictures(self, start: int, stop: int) -> np.ndarray:
        """Return pictures start..stop - 1 (n,H,W,3), uint8."""
        return self.read("image", start, stop)

    def comparable(self) -> dict[str, object]:
        """Return all that two sets of pictures must share to be compared: everything but the quantization."""
        setting = self.spec.setting
        fields: dict[str, object] = {name: getattr(setting, name) for name in Setting.model_fields}
        return fields | {
            "model": f"{setting.model.source} ({setting.model.digest[:12]})",
            "seed": self.spec.seed,
            "N": self.facts.images,
            "prompts": self.manifest.inputs["prompts"].key,
        }


@dataclass(frozen=True)
class Drawing:
    """Images to draw: stored prompts with their text, and a quantizer state unless the FP model draws."""

    spec: ImagesSpec
    prompts: Prompts
    embeds: TextEmbeds
    state: QuantState | None = None

    @property
    def inputs(self) -> dict[str, Artifact]:
        """The artifacts that decide the pictures, by role."""
        inputs: dict[str, Artifact] = {"prompts": self.prompts, "text-embeds": self.embeds}
        return inputs | ({"state": self.state} if self.state else {})


def layout(count: int, setting: Setting) -> dict[str, ArraySpec]:
    """Return the array of so many pictures (N,H,W,3)."""
    shape, dims = (count, setting.height, setting.width, 3), ("sample", "height", "width", "channel")
    return {"image": ArraySpec(shape, "uint8", dims, IMAGES_PER_UNIT, 1, compressed=True)}


def draw(workspace: Workspace, drawing: Drawing, tags: Sequence[str] = LATEST) -> Images:
    """Return the pictures of a drawing, drawn where they are absent."""
    count = drawing.prompts.facts.prompts
    arrays = layout(count, drawing.spec.setting)
    blueprint = Blueprint(drawing.spec, drawing.inputs, arrays, -(-count // IMAGES_PER_UNIT))
    return workspace.produce(Images, blueprint, partial(_draw_units, workspace, drawing), tags)


def _draw_units(workspace: Workspace, drawing: Drawing, draft: Draft) -> ImagesFacts:
    painter = _Painter.of(workspace, drawing)
    missing = draft.missing_rows("image")
    sizes = lengths(missing)
    size = drawing.spec.micro_batch
    with workspace.events.task(f"drawing ({drawing.spec.engine})", sum(sizes.values()), "image") as task:
        for unit in draft.turns(sizes, task):
            rows, parts = missing[unit], []
            for first in range(0, len(rows), size):
                batch = rows[first : first + size]
                parts.append(painter.draw(batch))
                task.advance(len(batch))
            draft.write(unit, {"image": np.concatenate(parts)})
    return ImagesFacts(images=drawing.prompts.facts.prompts)


@dataclass(frozen=True)
class _Painter:
    """The networks that draw, on the device, and the text of all pictures."""

    spec: ImagesSpec
    model: Model
    denoiser: nn.Module
    vae: nn.Module
    texts: Conditioning
    index: np.ndarray  # of each picture's text
    device: torch.device

    @classmethod
    def of(cls, workspace: Workspace, drawing: Drawing) -> "_Painter":
        setting, device = drawing.spec.setting, workspace.device
        model = workspace.model(setting)
        if drawing.state:
            spec = drawing.spec
            denoiser = quantized_denoiser(workspace, drawing.state, setting, spec.engine, spec.step_match)
        else:
            denoiser = model.denoiser(Dtype(setting.dtype), str(device))
        texts, index = drawing.embeds.texts(model, setting), drawing.embeds.index()
        return cls(drawing.spec, model, denoiser, model.vae(str(device)), texts, index, device)

    def draw(self, batch: range) -> np.ndarray:
        """Return the pictures of a micro-batch (n,H,W,3), uint8."""
        setting, seed = self.spec.setting, self.spec.seed
        scale = setting.guidance_scale
        path = self.model.trajectory(setting, seed, batch, self.device)
        conditioning = batch_conditioning(self.texts, self.index[batch.start : batch.stop], scale)
        latents = denoise(self.denoiser, path, conditioning, scale)
        check_finite(latents, [f"picture {i}" for i in batch], NOT_FINITE)
        return decode(self.vae, latents, batch.start).cpu().numpy()
