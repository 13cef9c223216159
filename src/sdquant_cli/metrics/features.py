"""Features of pictures and prompts: the only door to metric networks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

# Mean and deviation of the embedded CLIP's input, per channel of a picture in 0..1.
CENTRE, SPREAD = 0.5, 0.5


class ClipFeatures:
    """Unit-length features of a CLIP directory in transformers layout."""

    def __init__(self, folder: Path) -> None:
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        """Features (N,D) fp32 of pictures (N,H,W,3) uint8, resized to the network's input."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        side = self._model.config.vision_config.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        found = self._model.get_image_features(pixel_values=(pixels - CENTRE) / SPREAD)
        return F.normalize(found.pooler_output, dim=-1).numpy()

    @torch.no_grad()
    def of_texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Features (N,D) fp32 of prompts, truncated as the tokenizer does."""
        tokens = self._tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        found = self._model.get_text_features(input_ids=tokens.input_ids)
        return F.normalize(found.pooler_output, dim=-1).numpy()
