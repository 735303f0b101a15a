"""Hostile and unusual files at the boundary."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from conceptloom.errors import PictureError
from conceptloom.pictures import load_picture
from conceptloom.pictures.decoding import MAX_FILE_BYTES, MAX_PIXELS, WHITE, read_pixels

CORNERS = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 10]]], dtype=np.uint8)
"""Red, green over blue, yellow."""


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    return CORNERS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def corners_of(pixels: np.ndarray) -> np.ndarray:
    return pixels[[[2], [-3]], [[2, -3]]]


def read(image: Image.Image, tmp_path: Path, kind: str = "PNG", **options: object) -> np.ndarray:
    path = tmp_path / "picture.bin"
    image.save(path, format=kind, **options)
    return read_pixels(path, WHITE, to_srgb=True)


def empty_png(width: int, height: int) -> bytes:
    """A file of under 100 bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_keep_every_pixel_whatever_their_extension(
    tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    np.testing.assert_array_equal(read(Image.fromarray(quadrants()), tmp_path, kind, **options), quadrants())


def test_pixels_can_be_written_to(tmp_path: Path) -> None:
    assert read(Image.fromarray(quadrants()), tmp_path).flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    # What a camera held that way stores, so that undoing `orientation` gives `quadrants()` again.
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](quadrants())
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(Image.fromarray(np.ascontiguousarray(stored)), tmp_path, exif=exif)
    np.testing.assert_array_equal(pixels, quadrants())


def test_a_broken_exif_block_does_not_spoil_the_picture(tmp_path: Path) -> None:
    pixels = read(Image.fromarray(quadrants()), tmp_path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff junk")
    np.testing.assert_array_equal(pixels, quadrants())


def test_transparent_pixels_are_white_and_half_transparent_ones_half_way(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((100, 0, 200, 128), (8, 0, 16, 16))
    pixels = read(image, tmp_path)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[0, 15], [177, 127, 227], atol=1)


def test_a_palette_with_a_transparent_entry_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(quadrants()).quantize(8)
    pixels = read(image, tmp_path, transparency=image.getpixel((0, 0)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[0, -1], CORNERS[0, 1], atol=8)


def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16).repeat(16, axis=0).repeat(4, axis=1)
    pixels = read(Image.fromarray(grey), tmp_path)
    assert pixels[0, ::4].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_becomes_the_same_three_channels(tmp_path: Path, mode: str) -> None:
    shades = np.zeros((16, 16, 3), dtype=np.uint8)
    shades[:, 8:] = 255
    image = Image.fromarray(shades).convert(mode)
    pixels = read(image, tmp_path, "JPEG" if mode == "CMYK" else "PNG")
    np.testing.assert_allclose(pixels, shades, atol=2)


def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = _with_red_and_blue_swapped(srgb.tobytes())
    pixels = read(Image.fromarray(quadrants()), tmp_path, icc_profile=swapped)
    np.testing.assert_allclose(corners_of(pixels), CORNERS[..., ::-1], atol=6)
    # A profile of another colour space than the pixels cannot apply.
    pixels = read(Image.fromarray(quadrants()), tmp_path, icc_profile=lab.tobytes())
    np.testing.assert_array_equal(pixels, quadrants())


def _with_red_and_blue_swapped(profile: bytes) -> bytes:
    """The profile with its red and blue primaries exchanged: its pixels are stored in the order B, G, R."""
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    edited = bytearray(profile)
    edited[red : red + 4], edited[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(edited)


@pytest.mark.parametrize("profile", [b"no profile", b"\x00" * 200])
def test_a_broken_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    pixels = read(Image.fromarray(quadrants()), tmp_path, icc_profile=profile)
    np.testing.assert_array_equal(pixels, quadrants())


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(quadrants()), Image.new("RGB", (48, 32))
    pixels = read(first, tmp_path, "WEBP", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(pixels, quadrants())


def _gif(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path, format="GIF")


def _text(path: Path) -> None:
    path.write_text("not a picture")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format="PNG")
    path.write_bytes(stream.getvalue()[:3000])


def _tiny(path: Path) -> None:
    Image.new("RGB", (200, 7)).save(path, format="PNG")


def _too_large(path: Path) -> None:
    path.write_bytes(empty_png(MAX_PIXELS // 2**10 + 1, 2**10))


def _bomb(path: Path) -> None:
    path.write_bytes(empty_png(2**31 - 1, 2**31 - 1))


def _below_the_bomb(path: Path) -> None:
    path.write_bytes(empty_png(10_000, 10_000))  # where Pillow only warns


def _huge_file(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _absent(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_gif, "is not a picture"),
        (_text, "is not a picture"),
        (_empty, "is not a picture"),
        (_truncated, "is damaged"),
        (_tiny, "is only 200 x 7 px"),
        (_too_large, "too many pixels"),
        (_bomb, "too many pixels"),
        (_below_the_bomb, "too many pixels"),
        (_huge_file, "at most 128 are read"),
        (_folder, "is not a file"),
        (_pipe, "is not a file"),
        (_absent, "No such file"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(PictureError, match=reason) as caught:
        load_picture(path)
    assert "\n" not in str(caught.value)


@cache
def sound_file(kind: str) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the date
    Image.fromarray(quadrants()).save(stream, format=kind, exif=exif, icc_profile=bytes(profile))
    return stream.getvalue()


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_damage_anywhere_gives_pixels_or_a_picture_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(sound_file(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        pixels = read_pixels(path, WHITE, to_srgb=True)
    except PictureError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
