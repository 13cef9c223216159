"""Pictures that a calibration trains on: a folder's, or the model's own, as clean latents with their text."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..calibration.sources import Pictures
from ..errors import UsageProblem
from ..manifests import ImagesSpec, Setting
from ..models.autoencoder import encode_pictures
from ..pictures import SUFFIXES
from ..prompts import PromptFile
from ..types import Execution
from .images import Drawing, Images, draw
from .latents import Latents
from .prompts import Prompts, store_prompts
from .text_embeds import TextEmbeds, store_embeddings
from .workspace import Workspace

MICRO_BATCH = 8


def folder_digest(folder: Path) -> str:
    """Return the sha256 over names and contents of a folder's pictures and captions."""
    total = hashlib.sha256()
    for path, caption in _pairs(folder):
        for file in (path, caption):
            total.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def pictures_of_folder(workspace: Workspace, folder: Path, setting: Setting) -> Pictures:
    """Read a folder's pictures, cut to the setting's size, each with the caption in `NAME.txt`."""
    from PIL import Image, ImageOps

    pairs, size = _pairs(folder), (setting.width, setting.height)
    images = [np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), size)) for path, _ in pairs]
    captions = tuple(caption.read_text(encoding="utf-8").strip() for _, caption in pairs)
    file = PromptFile(path=folder, prompts=captions, blank=0, duplicates=len(captions) - len(set(captions)))
    prompts = store_prompts(workspace, file)
    embeds = store_embeddings(workspace, workspace.model(setting), prompts)
    return _pictures(workspace, np.stack(images), embeds, setting)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    if not folder.is_dir():
        raise UsageProblem(f"--images {folder}: no such folder")
    images = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not images:
        raise UsageProblem(f"--images {folder}: no pictures ({', '.join(SUFFIXES)})")
    pairs = [(path, path.with_suffix(".txt")) for path in images]
    for path, caption in pairs:
        if not caption.is_file():
            raise UsageProblem(f"--images {folder}: {path.name} has no caption {caption.name}")
    return pairs


def drawn_pictures(workspace: Workspace, latents: Latents, seed: int) -> Images:
    """Return the floating-point model's own pictures of the calibration prompts, drawn where absent."""
    drawing = Drawing(
        ImagesSpec(setting=latents.spec.setting, engine=Execution.FP, seed=seed, micro_batch=MICRO_BATCH),
        workspace.input(Prompts, latents, "prompts"),
        workspace.input(TextEmbeds, latents, "text-embeds"),
    )
    return draw(workspace, drawing, ("latest-calibration",))


def pictures_of_images(workspace: Workspace, images: Images) -> Pictures:
    """Return stored pictures with the text they were drawn from."""
    embeds = workspace.input(TextEmbeds, images, "text-embeds")
    return _pictures(workspace, images.read("image"), embeds, images.spec.setting)


def _pictures(workspace: Workspace, images: np.ndarray, embeds: TextEmbeds, setting: Setting) -> Pictures:
    model, device = workspace.model(setting), workspace.device
    vae = model.vae(str(device))
    encoded = []
    for start in range(0, len(images), MICRO_BATCH):
        part = torch.from_numpy(images[start : start + MICRO_BATCH]).to(device)
        encoded.append(encode_pictures(vae, part).half().cpu())
    return Pictures(torch.cat(encoded), torch.from_numpy(embeds.index()), embeds.texts(model, setting))
