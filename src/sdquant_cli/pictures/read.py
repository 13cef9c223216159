"""Read one picture file."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1")
_PNG_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # by colour type
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class BadPicture(Exception):
    """A file that is no picture to compare; the message says why, and goes behind the file's name."""


def read_picture(path: Path) -> np.ndarray:
    """Return a picture (H,W,3) uint8; raises BadPicture for one that cannot be read as it is."""
    try:
        _check_depth(path)
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return _rgb(image)
    except UnidentifiedImageError:
        raise BadPicture("is not a PNG, JPEG or WebP picture") from None
    except _UNREADABLE as error:
        raise BadPicture(f"cannot be read ({first_line(error)})") from None


def _check_depth(path: Path) -> None:
    """Raise BadPicture for a PNG of 16 bits, which would lose the lower 8 of them in silence."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG") and len(head) == 26 and head[24] > 8:
        mode = _PNG_MODES.get(head[25], "unknown mode")
        raise BadPicture(f"is a PNG of {head[24]} bits a channel ({mode}); convert it to 8 bits")


def _rgb(image: Image.Image) -> np.ndarray:
    """Return the values of an open picture; raises BadPicture for what RGB does not hold."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadPicture(f"holds {frames} frames, expected one")
    if image.mode not in _MODES:
        raise BadPicture(f"is {image.mode}, expected RGB; convert it")
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"))
        if values[..., 3].min() < 255:
            raise BadPicture("has an alpha channel that is not opaque; draw it on a background first")
        return np.ascontiguousarray(values[..., :3])
    return np.asarray(image.convert("RGB"))
