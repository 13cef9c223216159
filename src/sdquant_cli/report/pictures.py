"""Images as data URIs: PNG if they fit, else the best WebP that does."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

AMPLIFIED = 4  # factor by which differences are shown larger


@dataclass(frozen=True)
class Encoding:
    """An image format; `quality` None is lossless, `shrink` divides both sides."""

    format: str
    quality: int | None = None
    shrink: int = 1

    def __str__(self) -> str:
        if self.quality is None:
            return f"{self.format}, lossless"
        smaller = f", reduced {self.shrink}x" if self.shrink > 1 else ""
        return f"{self.format} of quality {self.quality}{smaller}, to keep the file small"


LADDER = (
    Encoding("PNG"),
    Encoding("WebP", 90),
    Encoding("WebP", 75),
    Encoding("WebP", 75, 2),
    Encoding("WebP", 60, 4),
)


def difference(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return |picture - reference| x 4 of two images (H,W,3), uint8."""
    distance = np.abs(picture.astype(np.int16) - reference.astype(np.int16))
    return np.minimum(AMPLIFIED * distance, 255).astype(np.uint8)


def encode(pictures: Sequence[np.ndarray], budget: int) -> tuple[list[str], Encoding]:
    """Return data URIs of images (H,W,3) uint8, in the first encoding that keeps within `budget` bytes.

    The last encoding is used if none fits.
    """
    for encoding in LADDER:
        uris: list[str] = []
        total = 0
        for picture in pictures:
            uris.append(data_uri(picture, encoding))
            total += len(uris[-1])
            if total > budget and encoding is not LADDER[-1]:
                break
        else:
            return uris, encoding
    raise AssertionError("the last encoding is always taken")


def data_uri(picture: np.ndarray, encoding: Encoding) -> str:
    """Return one image (H,W,3) uint8 as a data URI."""
    image = Image.fromarray(picture)
    if encoding.shrink > 1:
        image = image.reduce(encoding.shrink)
    options = {"optimize": True} if encoding.quality is None else {"quality": encoding.quality}
    data = io.BytesIO()
    image.save(data, encoding.format, **options)
    mime = f"image/{encoding.format.lower()}"
    return f"data:{mime};base64,{base64.b64encode(data.getvalue()).decode()}"
