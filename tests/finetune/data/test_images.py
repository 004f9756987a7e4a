"""Images of every kind become upright 8-bit RGB."""

import io

import numpy as np
import PIL
import pytest
from PIL import Image

from finetune.data.images import ImageError, decode, to_rgb

EIGHT_BIT = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


def noise(height=7, width=9, channels=3, seed=0, dtype=np.uint8, high=256):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def of_mode(mode):
    """An image with colours and, where the mode has it, varying alpha."""
    image = Image.fromarray(noise(channels=4), "RGBA")
    if mode in ("LA", "PA"):
        return image.convert("LA").convert(mode)
    return image.convert(mode) if mode in ("RGBA", "RGBa") else image.convert("RGB").convert(mode)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return {"path": None, "bytes": buffer.getvalue()}


def pixels(image):
    assert image.mode == "RGB"
    array = np.asarray(image)
    assert array.dtype == np.uint8
    return array


@pytest.mark.parametrize("mode", EIGHT_BIT)
def test_eight_bit_modes_become_what_pillow_makes_of_them(mode):
    image = of_mode(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(pixels(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [5, bytes(range(0, 256, 2))], ids=["one index", "a table"])
@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_transparency_keeps_its_colours_and_nobody_is_warned(form, transparency):
    if form == "GIF" and isinstance(transparency, bytes):
        transparency = 7
    image = Image.fromarray(noise()).quantize(64)
    decoded = decode(encoded(image, form, transparency=transparency))  # a warning would fail the test
    np.testing.assert_array_equal(pixels(decoded), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")],
        *[("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
        ("BMP", "RGB"),
        ("GIF", "P"),
        ("WEBP", "RGBA"),
    ],
)
def test_encoded_images_decode_as_pillow_opens_them(form, mode):
    if (form, mode) == ("TIFF", "YCbCr") and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow 12 does not read the YCbCr TIFF that it writes")
    value = encoded(of_mode(mode), form)
    expected = Image.open(io.BytesIO(value["bytes"]))
    np.testing.assert_array_equal(pixels(decode(value)), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bits_are_scaled_and_not_clipped(mode):
    greys = np.array([[0, 1, 128, 129, 255, 256, 257], [300, 1000, 12345, 32768, 40000, 65406, 65535]], np.uint16)
    order = ">u2" if mode.endswith("B") else "<u2"
    image = Image.frombytes(mode, greys.shape[::-1], greys.astype(order).tobytes())
    result = pixels(to_rgb(image))
    np.testing.assert_array_equal(result[..., 0], np.round(greys / 257))
    assert (result == result[..., :1]).all()
    assert len(np.unique(result)) == 8  # Pillow's own conversion makes white of nearly all


def test_a_dark_image_of_sixteen_bits_stays_dark():
    """Two neighbours of a dataset must not differ 257-fold in brightness because one has a pixel above 255."""
    for top in (1, 200, 255, 256, 300):
        image = Image.fromarray(np.full((3, 3), top, np.uint16))
        assert image.mode == "I;16"
        assert pixels(to_rgb(image)).max() == round(top / 257)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),  # 8 bits
        ([0, 257, 65535], [0, 1, 255]),  # 16 bits
        ([0, 257 * 100, 257 * 200], [0, 100, 200]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),  # more: by the largest
        ([-5, 0, 255], [0, 0, 255]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_modes_that_do_not_say_their_range_are_scaled_by_what_they_hold(values, expected, dtype):
    image = Image.fromarray(np.array([values], dtype))
    assert image.mode == {np.int32: "I", np.float32: "F"}[dtype]
    assert pixels(to_rgb(image))[0, :, 0].tolist() == expected


def test_floats_from_zero_to_one_are_scaled_by_255():
    image = Image.fromarray(np.array([[0.0, 0.25, 1.0, np.nan]], np.float32))
    assert pixels(to_rgb(image))[0, :, 1].tolist() == [0, 64, 255, 0]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_survive_the_file(form):
    greys = noise(channels=1, dtype=np.uint16, high=65536)
    np.testing.assert_array_equal(pixels(decode(encoded(Image.fromarray(greys), form)))[..., 2], np.round(greys / 257))


# By EXIF orientation: how an upright image has to be stored, from the standard's table of row 0 and column 0.
STORED = {
    1: lambda a: a,  # row 0 is the top, column 0 the left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: a.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_are_turned_upright(form, orientation):
    upright = noise(height=5, width=8)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(decode(encoded(stored, form, exif=exif))), upright)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.fromarray(np.full((4, 6), 200 * n, np.uint8)).convert("P") for n in range(2)]
    for form in ("GIF", "WEBP", "PNG"):
        value = encoded(frames[0].convert("RGB"), form, save_all=True, append_images=[frames[1].convert("RGB")])
        assert Image.open(io.BytesIO(value["bytes"])).n_frames == 2
        assert pixels(decode(value)).max() == 0


def test_a_path_or_an_image_decodes_too(tmp_path):
    expected = noise()
    file = tmp_path / "image.png"
    Image.fromarray(expected).save(file)
    for value in (str(file), {"path": str(file), "bytes": None}, Image.fromarray(expected)):
        np.testing.assert_array_equal(pixels(decode(value)), expected)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, ValueError, "no image"),
        ({"path": None, "bytes": None}, ValueError, "no image"),
        ({"path": "/nowhere/image.png", "bytes": None}, FileNotFoundError, "/nowhere/image.png"),
        ({"path": None, "bytes": b""}, ImageError, "^an empty file$"),
        ({"path": None, "bytes": b"<html>404</html>"}, ImageError, "^an HTML page, perhaps of a failed download$"),
    ],
)
def test_what_is_no_image_raises(value, error, message):
    with pytest.raises(error, match=message):
        decode(value)
