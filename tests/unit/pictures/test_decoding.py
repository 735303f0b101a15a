"""Hostile and unusual files at the boundary."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, ImageFile, WebPImagePlugin

from conceptloom.errors import PictureError
from conceptloom.pictures import load_picture
from conceptloom.pictures.decoding import BLACK, MAX_FILE_BYTES, MAX_PIXELS, Decoded, read_marks, read_picture

CORNERS = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 10]]], dtype=np.uint8)
"""Red, green over blue, yellow."""


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    return CORNERS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def corners_of(pixels: np.ndarray) -> np.ndarray:
    return pixels[[[2], [-3]], [[2, -3]]]


def read(image: Image.Image, tmp_path: Path, kind: str = "PNG", **options: object) -> np.ndarray:
    return decoded(image, tmp_path / f"picture.{kind.lower()}", kind, **options).pixels


def decoded(image: Image.Image, path: Path, kind: str = "PNG", **options: object) -> Decoded:
    image.save(path, format=kind, **options)
    return read_picture(path)


def empty_png(width: int, height: int) -> bytes:
    """A file of under 100 bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_keep_every_pixel(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(read(Image.fromarray(quadrants()), tmp_path, kind, **options), quadrants())


def test_pixels_can_be_written_to(tmp_path: Path) -> None:
    assert read(Image.fromarray(quadrants()), tmp_path).flags.writeable


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, kind: str) -> None:
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
    pixels = read(Image.fromarray(np.ascontiguousarray(stored)), tmp_path, kind, exif=exif)
    assert pixels.shape == (32, 48, 3)
    np.testing.assert_allclose(corners_of(pixels), CORNERS, atol=0 if kind == "PNG" else 6)


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
    other = decoded(Image.fromarray(quadrants()), tmp_path / "lab.png", icc_profile=lab.tobytes())
    np.testing.assert_array_equal(other.pixels, quadrants())
    assert other.notes == ("has a colour profile that is broken or for other colours, and is ignored",)


def _with_red_and_blue_swapped(profile: bytes) -> bytes:
    """The profile with its red and blue primaries exchanged: its pixels are stored in the order B, G, R."""
    red, blue = profile.find(b"rXYZ"), profile.find(b"bXYZ")
    edited = bytearray(profile)
    edited[red : red + 4], edited[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(edited)


@pytest.mark.parametrize("profile", [b"no profile", b"\x00" * 200])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_broken_profile_is_ignored_and_noted(tmp_path: Path, profile: bytes, kind: str) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    read_from = decoded(Image.fromarray(quadrants()), path, kind, icc_profile=profile)
    np.testing.assert_allclose(corners_of(read_from.pixels), CORNERS, atol=0 if kind == "PNG" else 6)
    assert read_from.notes == ("has a colour profile that is broken or for other colours, and is ignored",)


def test_grey_with_alpha_is_converted_from_a_profile_of_grey(tmp_path: Path) -> None:
    half = Image.new("LA", (16, 16), (128, 255))
    read_from = decoded(half, tmp_path / "grey.png", icc_profile=_grey_profile(gamma=1.0))
    assert read_from.pixels[0, 0].tolist() == [188, 188, 188]  # half the light, in sRGB
    assert read_from.notes == ()


def _grey_profile(gamma: float) -> bytes:
    """A monochrome ICC profile whose grey is light to the power of `1 / gamma`."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    tags = struct.pack(">I", 2)
    tags += b"wtpt" + struct.pack(">II", 156, len(white)) + b"kTRC" + struct.pack(">II", 176, len(curve))
    header = struct.pack(">I4xI4s4s4s12x4s", 192, 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp").ljust(
        68, b"\0"
    )
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + white + curve


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_read_and_the_others_are_noted(
    tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    further = [Image.new("RGB", (48, 32), (level, 0, 0)) for level in (0, 99)]
    path = tmp_path / f"picture.{kind.lower()}"
    read_from = decoded(
        Image.fromarray(quadrants()), path, kind, save_all=True, append_images=further, **options
    )
    np.testing.assert_array_equal(read_from.pixels, quadrants())
    assert read_from.notes == ("is an animation of 3 frames, of which only the first is used",)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_marks_nothing(tmp_path: Path, kind: str) -> None:
    black, white = Image.new("L", (16, 16)), Image.new("L", (16, 16), 255)
    black.save(path := tmp_path / "mask", kind, save_all=True, append_images=[white])
    with pytest.raises(PictureError, match="is an animation of 2 frames: save the one that counts alone"):
        read_marks(path, BLACK)


def test_of_a_phones_several_pictures_in_a_file_the_main_one_is_read(tmp_path: Path) -> None:
    depth = Image.new("RGB", (48, 32), (7, 7, 7))
    path = tmp_path / "picture.jpg"
    read_from = decoded(Image.fromarray(quadrants()), path, "MPO", save_all=True, append_images=[depth])
    np.testing.assert_allclose(corners_of(read_from.pixels), CORNERS, atol=6)
    assert read_from.notes == ()


@pytest.mark.parametrize(
    ("kind", "name", "notes"),
    [
        ("PNG", "a.jpg", ("is a PNG file, though its name ends in .jpg",)),
        ("JPEG", "a.png", ("is a JPEG file, though its name ends in .png",)),
        ("WEBP", "a.GIF", ("is a WEBP file, though its name ends in .gif",)),
        ("JPEG", "a.JPG", ()),
        ("PNG", "a.2", ()),
        ("PNG", "a", ()),
    ],
)
def test_content_decides_and_an_extension_that_says_otherwise_is_noted(
    tmp_path: Path, kind: str, name: str, notes: tuple[str, ...]
) -> None:
    read_from = decoded(Image.fromarray(quadrants()), tmp_path / name, kind)
    np.testing.assert_allclose(corners_of(read_from.pixels), CORNERS, atol=6)
    assert read_from.notes == notes


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
    Image.new("RGB", (140, 7)).save(path, format="PNG")


def _single_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, format="PNG")


def _no_pixel(path: Path) -> None:
    path.write_bytes(empty_png(0, 600))


def _strip(path: Path) -> None:
    Image.new("RGB", (8, 4000)).save(path, format="PNG")


def _too_large(path: Path) -> None:
    path.write_bytes(empty_png(MAX_PIXELS // 2**10 + 1, 2**10))


def _bomb(path: Path) -> None:
    path.write_bytes(empty_png(2**31 - 1, 2**31 - 1))


def _below_the_bomb(path: Path) -> None:
    path.write_bytes(empty_png(10_000, 10_000))  # where Pillow only warns


def _jpeg_bomb(path: Path) -> None:
    content = bytearray(sound_file("JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    path.write_bytes(content)


def _webp_bomb(path: Path) -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), (level, 0, 0)) for level in (0, 99)]
    frames[0].save(stream, format="WEBP", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    content[24:30] = struct.pack("<I", 16_382)[:3] * 2  # the canvas, less one
    path.write_bytes(content)


def _bomb_of_scans(path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (64, 64), 77).save(stream, format="JPEG", progressive=True)
    content = stream.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + 10_000 * scan + content[-2:])


def _bomb_of_text(path: Path) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(2**21))
    body = b"zTXt" + text
    chunk = struct.pack(">I", len(text)) + body + struct.pack(">I", zlib.crc32(body))
    content = sound_file("PNG")
    path.write_bytes(content[:33] + chunk + content[33:])


def _unfinished_download(path: Path) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format="JPEG")
    content = stream.getvalue()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


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
        (_empty, "is empty"),
        (_truncated, "is damaged"),
        (_unfinished_download, "is damaged"),
        (_tiny, "is only 140 x 7 px: give a picture of at least 8 px a side"),
        (_single_pixel, "is only 1 x 1 px"),
        (_no_pixel, "is (damaged|only 0 x 600 px)"),
        (_strip, "is a strip of 8 x 4000 px: at most 20 times as long as wide"),
        (_too_large, "too many pixels"),
        (_bomb, "too many pixels"),
        (_below_the_bomb, "too many pixels"),
        (_jpeg_bomb, "too many pixels"),
        (_webp_bomb, "too many pixels"),
        (_bomb_of_scans, "is damaged"),
        (_bomb_of_text, "is damaged"),
        (_huge_file, "has more than 128 MiB"),
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
    started = time.process_time()
    with pytest.raises(PictureError, match=reason) as caught:
        load_picture(path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


def test_nothing_is_decoded_of_a_picture_refused_for_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    for make in (_too_large, _bomb, _below_the_bomb, _jpeg_bomb, _webp_bomb, _strip):
        make(path := tmp_path / make.__name__)
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", decode)
            patch.setattr(WebPImagePlugin.WebPImageFile, "load", decode)
            with pytest.raises(PictureError):
                load_picture(path)


def test_a_decoder_that_runs_out_of_memory_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    (path := tmp_path / "picture.png").write_bytes(sound_file("PNG"))
    with pytest.raises(PictureError, match="has 48 x 32 pixels, too many for the memory left"):
        load_picture(path)


def test_what_a_decoder_warns_of_reaches_nobody(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for make in (_below_the_bomb, _broken_animation):
            make(path := tmp_path / "picture.png")
            with suppress(PictureError):
                load_picture(path)
    assert told == []


def _broken_animation(path: Path) -> None:
    body = b"acTL" + struct.pack(">II", 0, 0)  # of which Pillow warns: an animation of no frames
    content = sound_file("PNG")
    path.write_bytes(
        content[:33] + struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body)) + content[33:]
    )


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
    read_or_refused(
        tmp_path_factory.getbasetemp() / "damaged", bytes(content[: data.draw(st.integers(1, len(content)))])
    )


def read_or_refused(path: Path, content: bytes) -> Decoded | None:
    """What is read from the content; None where it is refused, which is the only other thing that may happen."""
    path.write_bytes(content)
    try:
        read_from = read_picture(path)
    except PictureError:
        return None
    height, width, channels = read_from.pixels.shape
    assert read_from.pixels.dtype == np.uint8
    assert (channels, min(height, width) >= 8, height * width <= MAX_PIXELS) == (3, True, True)
    assert all(note.isprintable() for note in read_from.notes)
    return read_from


@settings(deadline=None, max_examples=100)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBPVP8X"]),
    rest=st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    read_or_refused(tmp_path_factory.getbasetemp() / "any", start + rest)


@settings(deadline=None, max_examples=100)
@given(kinds=st.permutations(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_pieces_of_files_put_together_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], data: st.DataObject
) -> None:
    content = sound_file(kinds[0])
    for _ in range(data.draw(st.integers(1, 3))):
        other = sound_file(data.draw(st.sampled_from(kinds)))
        first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(other))] * 2)))
        cut, resumed = data.draw(st.tuples(*[st.integers(0, len(content))] * 2))
        content = content[:cut] + other[first:last] + content[resumed:]
    read_or_refused(tmp_path_factory.getbasetemp() / "pieces", content)


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_a_file_that_breaks_off_is_refused_or_whole_already(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    whole = sound_file(kind)
    path = tmp_path_factory.getbasetemp() / "broken-off"
    part = read_or_refused(path, whole[: data.draw(st.integers(1, len(whole) - 1))])
    if part is not None:
        expected = read_or_refused(path, whole)
        assert expected is not None
        np.testing.assert_array_equal(part.pixels, expected.pixels)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_wrong_bit_in_the_pixels_of_a_png_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(noisy_png())
    start = content.index(b"IDAT") + 4
    content[data.draw(st.integers(start, len(content) - 17))] ^= 1 << data.draw(st.integers(0, 7))
    read_from = read_or_refused(tmp_path_factory.getbasetemp() / "flipped", bytes(content))
    assert read_from is None


@cache
def noisy_png() -> bytes:
    """Several chunks of pixels that do not compress."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format="PNG")
    assert stream.getvalue().count(b"IDAT") > 1
    return stream.getvalue()


SIDES = st.tuples(st.integers(8, 40), st.integers(8, 40))
GREY = hnp.arrays(np.uint8, SIDES)
COLOUR = hnp.arrays(np.uint8, SIDES.map(lambda size: (*size, 3)))


@settings(deadline=None, max_examples=60)
@given(pixels=COLOUR, kind=st.sampled_from(["PNG", "WEBP"]))
def test_any_colours_come_back_from_a_lossless_file(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "colours"
    options = {"lossless": True} if kind == "WEBP" else {}
    read_from = decoded(Image.fromarray(pixels), path, kind, **options)
    np.testing.assert_array_equal(read_from.pixels, pixels)
    assert read_from.notes == ()


@settings(deadline=None, max_examples=60)
@given(grey=GREY, alpha=st.sampled_from([0, 255]), mode=st.sampled_from(["L", "LA", "RGBA", "P", "I;16"]))
def test_any_greys_come_back_from_every_mode_and_white_where_transparent(
    tmp_path_factory: pytest.TempPathFactory, grey: np.ndarray, alpha: int, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
        if "A" in mode:
            image.putalpha(alpha)
    read_from = decoded(image, tmp_path_factory.getbasetemp() / "greys")
    seen = np.full_like(grey, 255) if "A" in mode and alpha == 0 else grey
    np.testing.assert_array_equal(read_from.pixels, np.stack([seen] * 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16"])
def test_a_picture_read_in_bands_is_the_picture_read_at_once(
    mode: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (41, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    elif mode == "P":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = 3
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind = "JPEG" if mode == "CMYK" else "PNG"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if mode == "RGB" else None
    at_once = read(image, tmp_path, kind, exif=exif, icc_profile=profile)
    monkeypatch.setattr("conceptloom.pictures.decoding.BAND_PIXELS", 7 * 60)
    np.testing.assert_array_equal(read(image, tmp_path, kind, exif=exif, icc_profile=profile), at_once)


def test_a_webp_of_more_pixels_than_its_decoder_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conceptloom.pictures.decoding.MAX_WEBP_PIXELS", 1500)
    with pytest.raises(PictureError, match=r"too many pixels \(48 x 32\)"):
        read(Image.fromarray(quadrants()), tmp_path, "WEBP")
    assert read(Image.fromarray(quadrants()), tmp_path, "PNG").shape == (32, 48, 3)


PEAK = """
import sys
from pathlib import Path
from conceptloom.pictures import load_picture

def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])

before = peak()
load_picture(sys.argv[1])
print(before // 1024, (peak() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; ru_maxrss is inherited")
@pytest.mark.parametrize(
    ("kind", "mode", "side"),
    [("PNG", "RGBA", 8192), ("PNG", "P", 8192), ("JPEG", "RGB", 8192), ("WEBP", "RGBA", 5016)],
)
def test_the_largest_pictures_take_less_than_600_mb(kind: str, mode: str, side: int, tmp_path: Path) -> None:
    path = tmp_path / "large"
    image = Image.new(mode, (side, side))
    image.save(path, kind, **({"lossless": True, "method": 0} if kind == "WEBP" else {}))
    ran = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    before, more = map(int, ran.stdout.split())
    assert before < 200
    assert side**2 * 3 // 2**20 <= more < 600
