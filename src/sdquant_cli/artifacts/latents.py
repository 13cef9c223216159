"""What a calibration trains on: stored latents with their text, and pictures with their captions."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..calibration.items import Items
from ..calibration.recipe import Pictures
from ..errors import UsageProblem
from ..events import Events
from ..manifests import ImagesSpec, Setting
from ..models.denoise import encode_pictures
from ..models.schedule import schedule_of
from ..prompts import PromptFile
from ..store import Artifact, Store
from ..types import Execution
from .images import draw
from .prompts import read_texts, store_embeddings, store_prompts
from .workspace import open_model

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MICRO_BATCH = 8


def load_items(store: Store, latents: Artifact, table: Artifact, count: int | None = None) -> Items:
    """The first `count` latents (all by default) as calibration items.

    Raises UsageProblem if a latent was taken at a step that the schedule does not have there.
    """
    row = latents.read("row", 0, count)
    _check_schedule(latents, row, latents.read("call", 0, count))
    embeds = store.follow(latents.manifest.inputs["text-embeds"])
    index = embeds.read("index")
    return Items(
        x=torch.from_numpy(latents.read("x", 0, count)),
        row=torch.from_numpy(row),
        text=torch.from_numpy(index[latents.read("prompt_index", 0, count)]),
        texts=read_texts(embeds, open_model(latents.spec.setting), latents.spec.setting),
        timesteps=torch.from_numpy(table.read("timestep")).float(),
        guidance_scale=latents.spec.setting.guidance_scale,
    )


def _check_schedule(latents: Artifact, row: np.ndarray, call: np.ndarray) -> None:
    setting = latents.spec.setting
    schedule = schedule_of(open_model(setting).sampler(setting))
    expected = np.array(schedule.rows)
    outside = (call < 0) | (call >= len(expected))
    wrong = outside | (expected[np.where(outside, 0, call)] != row)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UsageProblem(
            f"latents/{latents.manifest.key}: latent {first} is of call {call[first]}, row {row[first]}, "
            f"which {setting.scheduler} with {setting.steps} steps does not have; run `sdquant sample` again"
        )


def pictures_digest(folder: Path) -> str:
    """sha256 over names and contents of a folder's pictures and captions."""
    total = hashlib.sha256()
    for path, caption in _pairs(folder):
        for file in (path, caption):
            total.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def pictures_of_folder(
    folder: Path, latents: Artifact, store: Store, device: torch.device, events: Events
) -> Pictures:
    """Pictures of a folder, each with its caption in a text file of its name, cut to the setting's size."""
    from PIL import Image, ImageOps

    setting, model, pairs = latents.spec.setting, open_model(latents.spec.setting), _pairs(folder)
    size = (setting.width, setting.height)
    drawn = [np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), size)) for path, _ in pairs]
    captions = tuple(caption.read_text(encoding="utf-8").strip() for _, caption in pairs)
    file = PromptFile(path=folder, prompts=captions, blank=0, duplicates=len(captions) - len(set(captions)))
    prompts = store_prompts(store, file, events)
    embeds = store_embeddings(store, model, prompts, device, events)
    return _pictures(np.stack(drawn), embeds, setting, device)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    if not folder.is_dir():
        raise UsageProblem(f"--images {folder}: no such folder")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES]
    if not found:
        raise UsageProblem(f"--images {folder}: no pictures ({', '.join(PICTURES)})")
    pairs = [(path, path.with_suffix(".txt")) for path in found]
    for path, caption in pairs:
        if not caption.is_file():
            raise UsageProblem(f"--images {folder}: {path.name} has no caption {caption.name}")
    return pairs


def drawn_pictures(
    latents: Artifact, store: Store, seed: int, device: torch.device, events: Events
) -> Artifact:
    """The floating-point model's own pictures of the calibration prompts, made where they are absent."""
    prompts, embeds = (store.follow(latents.manifest.inputs[role]) for role in ("prompts", "text-embeds"))
    spec = ImagesSpec(setting=latents.spec.setting, engine=Execution.FP, seed=seed, micro_batch=MICRO_BATCH)
    tags = ("latest-calibration",)
    return draw(spec, prompts, embeds, None, store, device, events, tags=tags)


def pictures_of_artifact(images: Artifact, store: Store, device: torch.device) -> Pictures:
    """Stored pictures with the text they were drawn from."""
    embeds = store.follow(images.manifest.inputs["text-embeds"])
    return _pictures(images.read("image"), embeds, images.spec.setting, device)


def _pictures(drawn: np.ndarray, embeds: Artifact, setting: Setting, device: torch.device) -> Pictures:
    model = open_model(setting)
    vae = model.vae(str(device))
    parts = [
        torch.from_numpy(drawn[i : i + MICRO_BATCH]).to(device) for i in range(0, len(drawn), MICRO_BATCH)
    ]
    return Pictures(
        x=torch.cat([encode_pictures(vae, part).half().cpu() for part in parts]),
        text=torch.from_numpy(embeds.read("index")),
        texts=read_texts(embeds, model, setting),
    )
