import base64
import io

import numpy as np
from PIL import Image

from sdquant_cli.report.pictures import LADDER, difference, encode


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_pictures_are_lossless_where_they_fit():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (uri,), encoding = encode([picture], 1_000_000)
    assert uri.startswith("data:image/png;base64,")
    assert str(encoding) == "PNG, lossless"
    assert np.array_equal(decoded(uri), picture)


def test_large_pictures_are_compressed_until_they_fit():
    """72 pictures of 512x512, the default report of one model, within its 8 MB."""
    ramp = np.linspace(0, 255, 512)[:, None, None] * np.ones((1, 512, 3))
    grain = np.random.default_rng(0).normal(0, 6, (512, 512, 3))
    picture = (ramp + grain).clip(0, 255).astype(np.uint8)
    uris, encoding = encode([picture] * 12, 8_000_000 // 6)
    assert sum(map(len, uris)) <= 8_000_000 // 6
    assert encoding in LADDER[1:]
    assert "to keep the file small" in str(encoding)
    assert all(uri.startswith("data:image/webp;") for uri in uris)


def test_the_smallest_encoding_is_taken_where_none_fits():
    uris, encoding = encode([np.zeros((64, 64, 3), np.uint8)], 1)
    assert encoding is LADDER[-1]
    assert decoded(uris[0]).shape == (16, 16, 3)


def test_a_difference_is_amplified_and_has_no_sign():
    one = np.array([[[10, 200, 0]]], np.uint8)
    other = np.array([[[13, 100, 0]]], np.uint8)
    assert difference(one, other).tolist() == difference(other, one).tolist() == [[[12, 255, 0]]]
