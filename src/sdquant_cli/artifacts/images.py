"""Images: pictures drawn from fixed per-prompt noise, by the floating-point or a quantized denoiser."""

from collections.abc import Sequence

import numpy as np
import torch

from ..events import Events
from ..manifests import ImagesFacts, ImagesSpec, Setting
from ..models.denoise import decode, denoise
from ..models.guidance import batch_conditioning
from ..models.noise import initial_noise, step_generators
from ..models.samplers import Trajectory
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Draft, Store
from ..types import Dtype
from .prompts import read_texts
from .quant_state import quantized_denoiser
from .workspace import open_model, publish, refs, up_to_date

IMAGES_PER_UNIT = 64


NOT_FINITE = (
    "the model computes NaN or infinity for its prompt; try another --dtype or --guidance-scale, or another "
    "calibration"
)


def draw(
    spec: ImagesSpec,
    prompts: Artifact,
    embeds: Artifact,
    state: Artifact | None,
    store: Store,
    device: torch.device,
    events: Events,
    *,
    tags: Sequence[str],
) -> Artifact:
    """The images artifact of a spec for stored prompts, made where it is absent."""
    setting, n = spec.setting, prompts.facts.prompts
    inputs = {"prompts": prompts, "text-embeds": embeds} | ({"state": state} if state else {})
    draft = store.begin(spec, refs(inputs), layout(n, setting), -(-n // IMAGES_PER_UNIT))
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events, tags)
    _draw_units(spec, draft, embeds, state, store, device, events)
    return publish(store, draft, ImagesFacts(images=n), tags)


def layout(count: int, setting: Setting) -> dict[str, ArraySpec]:
    shape, dims = (count, setting.height, setting.width, 3), ("sample", "height", "width", "channel")
    return {"image": ArraySpec(shape, "uint8", dims, IMAGES_PER_UNIT, 1, compressed=True)}


def _draw_units(
    spec: ImagesSpec,
    draft: Draft,
    embeds: Artifact,
    state: Artifact | None,
    store: Store,
    device: torch.device,
    events: Events,
) -> None:
    setting, model = spec.setting, open_model(spec.setting)
    network = (
        quantized_denoiser(setting, state, store, device, spec.engine)
        if state
        else model.denoiser(Dtype(setting.dtype), str(device))
    )
    vae = model.vae(str(device))
    texts, index = read_texts(embeds, model, setting), embeds.read("index")
    shape, scale = model.latent_shape(setting.height, setting.width), setting.guidance_scale
    missing = draft.missing()
    total = sum(stop - start for start, stop in (draft.rows(unit, "image") for unit in missing))
    with events.task(f"drawing ({spec.engine})", total, "image") as task:
        for unit in missing:
            start, stop = draft.rows(unit, "image")
            parts = []
            for first in range(start, stop, spec.micro_batch):
                batch = range(first, min(first + spec.micro_batch, stop))
                noise = initial_noise(shape, spec.seed, batch).to(device)
                path = Trajectory(model.sampler(setting), noise, step_generators(spec.seed, batch))
                conditioning = batch_conditioning(texts, index[batch.start : batch.stop], scale)
                latents = denoise(network, path, conditioning, scale)
                check_finite(latents, [f"picture {i}" for i in batch], NOT_FINITE)
                parts.append(decode(vae, latents, batch.start).cpu().numpy())
                task.advance(len(batch))
            draft.write(unit, {"image": np.concatenate(parts)})
