"""Decoding, masks and resizing against Pillow and torch, and on damaged files."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data import images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_is_kept_and_read_only() -> None:
    pixels = images.decode(encode(Image.fromarray(COLOUR)))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, COLOUR)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "P"])
def test_modes_agree_with_pillow(mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    contents = encode(picture, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_array_equal(images.decode(contents), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_composited(mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.putalpha(Image.fromarray(RNG.integers(0, 256, (12, 9), dtype=np.uint8)))
    opaque = picture.convert("RGB" if mode == "RGBA" else "L").convert("RGB")
    np.testing.assert_array_equal(images.decode(encode(picture)), np.asarray(opaque))


def test_transparent_palette_keeps_its_colours_without_a_warning() -> None:
    picture = Image.fromarray(COLOUR).quantize(8)
    contents = encode(picture, transparency=bytes([0, 128, 255, 3, 4, 5, 6, 7]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(images.decode(contents), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    contents = encode(Image.fromarray(eight * 257))
    np.testing.assert_array_equal(images.decode(contents)[..., 0], eight)
    np.testing.assert_array_equal(images.decode(eight * 257)[..., 2], eight)


def test_sixteen_bit_colour_takes_the_same_byte() -> None:
    samples = RNG.integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    contents = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))
    contents += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(images.decode(contents), images.decode(samples))


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_arrays(channels: int | None) -> None:
    array = RNG.integers(0, 256, (5, 4) if channels is None else (5, 4, channels), dtype=np.uint8)
    pixels = images.decode(array)
    assert pixels.shape == (5, 4, 3)
    grey = array if channels is None else array[..., 0]
    np.testing.assert_array_equal(pixels[..., 0], grey)
    assert array.flags.writeable  # the owner's array is left as it was
    if channels in (3, 4):
        np.testing.assert_array_equal(pixels, array[..., :3])


def test_exif_orientation_is_not_applied() -> None:
    picture = Image.fromarray(COLOUR)
    exif = picture.getexif()
    exif[0x0112] = 6
    assert images.decode(encode(picture, "JPEG", exif=exif)).shape == COLOUR.shape


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture"),
        (encode(Image.fromarray(COLOUR))[:-30], "cannot be read"),
        (np.zeros((4, 4, 5), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.zeros((4, 4), np.float32), "float32"),
        (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating"),
        (encode(Image.fromarray(np.full((4, 4), -3, np.int32)), "TIFF"), "16 bits"),
    ],
)
def test_unreadable_is_one_clear_line(contents: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        images.decode(contents)
    assert "\n" not in str(caught.value)


@settings(deadline=None)  # a busy machine is not a wrong decoder
@given(st.data())
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "GIF"]))
    contents = bytearray(encode(Image.fromarray(COLOUR), kind))
    for place in data.draw(st.lists(st.integers(0, len(contents) - 1), min_size=1, max_size=4)):
        contents[place] ^= data.draw(st.integers(1, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = images.decode(bytes(contents))
        except ValueError:
            return
    assert pixels.shape[2] == 3


def test_masks_are_above_zero_in_any_colour() -> None:
    marked = RNG.random((12, 9)) < 0.3
    classes = marked * RNG.integers(1, 10, marked.shape)  # class indices, not 255
    grey = Image.fromarray(classes.astype(np.uint8))
    blue = np.zeros((12, 9, 3), np.uint8)
    blue[..., 2] = classes
    palette = grey.copy()
    palette.putpalette([255, 255, 255] + [0, 0, 0] * 255)  # index 0 is white: the index decides
    opaque = Image.fromarray(np.zeros((12, 9, 3), np.uint8)).convert("RGBA")  # alpha 255 everywhere
    for picture in (grey, Image.fromarray(blue), palette, Image.fromarray(marked)):
        np.testing.assert_array_equal(images.decode_mask(encode(picture)), marked)
    np.testing.assert_array_equal(images.decode_mask(classes), marked)
    np.testing.assert_array_equal(
        images.decode_mask(encode(Image.fromarray(classes.astype(np.uint16)))), marked
    )
    assert not images.decode_mask(encode(opaque)).any()


def test_resize_is_pillows_antialiased_bicubic() -> None:
    expected = Image.fromarray(COLOUR).resize((5, 4), Image.Resampling.BICUBIC)
    resized = images.resize(COLOUR, (4, 5))
    np.testing.assert_array_equal(resized, np.asarray(expected))
    assert not resized.flags.writeable
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None].repeat(3, 2)
    smooth = images.resize(stripes, (16, 16))[
        2:-2, 2:-2
    ]  # aliasing would give stripes or one colour
    assert abs(smooth.astype(int) - 127).max() < 12


@pytest.mark.parametrize("size", [(3, 4), (12, 9), (32, 20), (1, 1)])
def test_resize_mask_is_nearest(size: tuple[int, int]) -> None:
    mask = RNG.random((12, 9)) < 0.5
    expected = Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(images.resize_mask(mask, size), np.asarray(expected) > 0)


@pytest.mark.parametrize("size", [(8, 8), (29, 17), (5, 3), (1, 1)])
def test_resize_maps_is_torchs_bilinear(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    maps = RNG.normal(size=(3, 8, 6)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False
    )[0]
    resized = images.resize_maps(maps, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        images.resize_maps(maps[1:2], size)[0], resized[1]
    )  # alone, same bits


def test_crop() -> None:
    np.testing.assert_array_equal(images.crop(COLOUR, (2, 1, 7, 6)), COLOUR[1:6, 2:7])
    for box in [(0, 0, 10, 3), (3, 0, 3, 4), (-1, 0, 2, 2)]:
        with pytest.raises(ValueError, match="inside 9 x 12"):
            images.crop(COLOUR, box)
