"""One picture file: what is read as it is, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from sdquant_cli.pictures.read import BadPicture, read_picture
from tests.fakes import pictures

(PICTURE,) = pictures(1, side=16)
ALPHA = np.dstack([PICTURE, np.full((16, 16), 255, np.uint8)])


def saved(folder, picture, name="x.png", **options):
    path = folder / name
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def refusal(path) -> str:
    with pytest.raises(BadPicture) as caught:
        read_picture(path)
    return str(caught.value)


@pytest.mark.parametrize(("name", "options"), [("x.png", {}), ("x.webp", {"lossless": True})])
def test_lossless_formats_are_read_exactly(tmp_path, name, options):
    read = read_picture(saved(tmp_path, PICTURE, name, **options))
    assert (read.dtype, read.shape) == (np.uint8, (16, 16, 3))
    np.testing.assert_array_equal(read, PICTURE)


def test_a_jpeg_is_read_as_the_library_decodes_it(tmp_path):
    path = saved(tmp_path, PICTURE, "x.jpg", quality=95)
    read = read_picture(path).astype(int)
    assert 0 < np.abs(read - PICTURE).mean() < 8
    np.testing.assert_array_equal(read, np.asarray(Image.open(path)))


def test_grey_and_palette_pictures_become_rgb(tmp_path):
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(read_picture(saved(tmp_path, grey)), np.dstack([grey] * 3))
    palette = Image.fromarray(PICTURE).quantize(8)
    np.testing.assert_array_equal(read_picture(saved(tmp_path, palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_an_opaque_alpha_channel_is_dropped_and_any_other_refused(tmp_path, name):
    path = saved(tmp_path, ALPHA, name, lossless=True)
    np.testing.assert_array_equal(read_picture(path), PICTURE)
    clear = ALPHA.copy()
    clear[3, 4, 3] = 254
    assert "alpha channel that is not opaque" in refusal(saved(tmp_path, clear, name, lossless=True))


def test_a_transparent_colour_counts_as_alpha(tmp_path):
    path = saved(tmp_path, PICTURE, transparency=tuple(int(value) for value in PICTURE[0, 0]))
    assert "alpha channel that is not opaque" in refusal(path)


def test_16_bits_are_refused_with_the_mode(tmp_path):
    grey = saved(tmp_path, Image.fromarray(np.full((4, 4), 4660, np.uint16)))
    assert refusal(grey) == "is a PNG of 16 bits a channel (grey); convert it to 8 bits"
    colour = bytearray(saved(tmp_path, PICTURE).read_bytes())
    colour[24] = 16  # the header's bit depth
    (tmp_path / "deep.png").write_bytes(colour)
    assert refusal(tmp_path / "deep.png") == "is a PNG of 16 bits a channel (RGB); convert it to 8 bits"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = saved(tmp_path, pictures(1, side=64)[0], name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert refusal(path).startswith(("cannot be read (", "is not a PNG"))


def test_a_damaged_byte_of_a_png_is_refused(tmp_path):
    path = saved(tmp_path, pictures(1, side=64)[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refusal(path).startswith("cannot be read (")


def test_what_is_no_picture_of_a_known_format_is_refused(tmp_path):
    for data in (b"", b"not a picture"):
        (tmp_path / "x.png").write_bytes(data)
        assert refusal(tmp_path / "x.png") == "is not a PNG, JPEG or WebP picture"
    assert "is not a PNG" in refusal(saved(tmp_path, PICTURE, "x.png", format="BMP"))
    assert refusal(tmp_path / "absent.png").startswith("cannot be read (")


def test_several_frames_and_cmyk_are_refused(tmp_path):
    frames = [Image.fromarray(picture) for picture in pictures(2, side=16)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path / "x.webp") == "holds 2 frames, expected one"
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    assert refusal(saved(tmp_path, cmyk, "x.jpg")) == "is CMYK, expected RGB; convert it"
