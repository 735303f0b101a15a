"""What each kind of file becomes, to the value: 8-bit sRGB, by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from conceptloom.pictures import load_picture

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
"""PNG's colour types."""
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
SIDE = 8
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, step of rows, step of columns of the seven passes."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    samples: np.ndarray, kind: int, depth: int, *further: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    """Samples (H, W, C) as a PNG file, as the specification has it and Pillow does not write it."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, right in passes:
        for row in samples[top::down, left::right]:
            bits = "".join(f"{int(sample):0{depth}b}" for sample in row.ravel())
            bits += "0" * (-len(bits) % 8)
            rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *further, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def two(kind: int, first: tuple[int, ...], second: tuple[int, ...]) -> np.ndarray:
    """Samples of a picture that is `first` on the left and `second` on the right."""
    samples = np.empty((SIDE, SIDE, CHANNELS[kind]), dtype=np.int64)
    samples[:, : SIDE // 2], samples[:, SIDE // 2 :] = first, second
    return samples


def shorts(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


PLTE = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 10, 20, 30, 7, 7, 7]))


def key(*values: int) -> tuple[bytes, bytes]:
    """The colour that is transparent."""
    return b"tRNS", shorts(*values)


@pytest.mark.parametrize("interlaced", [False, True], ids=["rows", "adam7"])
@pytest.mark.parametrize(
    ("kind", "depth", "first", "second", "further", "left", "right"),
    [
        (GREY, 1, (0,), (1,), (), 0, 255),
        (GREY, 2, (1,), (2,), (), 85, 170),
        (GREY, 4, (1,), (14,), (), 17, 238),
        (GREY, 8, (3,), (200,), (), 3, 200),
        (GREY, 16, (257,), (65535,), (), 1, 255),
        (GREY, 16, (128,), (129,), (), 0, 1),  # the nearest of 256 greys
        (COLOUR, 8, (1, 2, 3), (250, 0, 9), (), (1, 2, 3), (250, 0, 9)),
        (COLOUR, 16, (257, 514, 65535), (40000, 0, 1), (), (1, 2, 255), (156, 0, 0)),
        (PALETTE, 1, (0,), (1,), (PLTE,), (255, 0, 0), (0, 255, 0)),
        (PALETTE, 2, (2,), (1,), (PLTE,), (10, 20, 30), (0, 255, 0)),
        (PALETTE, 4, (2,), (0,), (PLTE,), (10, 20, 30), (255, 0, 0)),
        (PALETTE, 8, (2,), (0,), (PLTE,), (10, 20, 30), (255, 0, 0)),
        (GREY_ALPHA, 8, (9, 0), (9, 255), (), 255, 9),
        (GREY_ALPHA, 16, (9, 0), (257, 65535), (), 255, 1),
        (COLOUR_ALPHA, 8, (9, 8, 7, 0), (100, 0, 200, 51), (), 255, (224, 204, 244)),
        (COLOUR_ALPHA, 16, (9, 8, 7, 0), (40000, 0, 65535, 65535), (), 255, (156, 0, 255)),
        (GREY, 1, (0,), (1,), (key(0),), 255, 255),
        (GREY, 2, (1,), (2,), (key(1),), 255, 170),
        (GREY, 4, (0,), (14,), (key(14),), 0, 255),
        (GREY, 8, (3,), (200,), (key(3),), 255, 200),
        (GREY, 16, (257,), (258,), (key(257),), 255, 1),
        (COLOUR, 8, (1, 2, 3), (250, 0, 9), (key(1, 2, 3),), 255, (250, 0, 9)),
        (COLOUR, 16, (0, 40000, 0), (0, 300, 0), (key(0, 40000, 0),), 255, (0, 1, 0)),
        (COLOUR, 16, (0, 65535, 0), (0, 300, 0), (key(0, 300, 0),), (0, 255, 0), 255),
        (PALETTE, 2, (1,), (2,), (PLTE, (b"tRNS", bytes([255, 0, 51]))), 255, (206, 208, 210)),
        (PALETTE, 8, (1,), (2,), (PLTE, (b"tRNS", bytes([255, 0]))), 255, (10, 20, 30)),
    ],
)
def test_every_kind_of_png_becomes_the_same_values_of_srgb(
    tmp_path: Path,
    kind: int,
    depth: int,
    first: tuple[int, ...],
    second: tuple[int, ...],
    further: tuple[tuple[bytes, bytes], ...],
    left: int | tuple[int, ...],
    right: int | tuple[int, ...],
    interlaced: bool,
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png(two(kind, first, second), kind, depth, *further, interlaced=interlaced))
    expected = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    expected[:, : SIDE // 2], expected[:, SIDE // 2 :] = left, right
    np.testing.assert_array_equal(load_picture(path).pixels, expected)


@pytest.mark.parametrize(
    ("mode", "stored", "shown"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGB", (200, 200, 200), (200, 200, 200)),
        ("RGB", (250, 10, 10), (250, 10, 10)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 255, 0, 128), (127, 0, 127)),
    ],
)
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_every_kind_of_jpeg_becomes_the_same_values_of_srgb(
    tmp_path: Path,
    mode: str,
    stored: int | tuple[int, ...],
    shown: tuple[int, int, int],
    progressive: bool,
) -> None:
    path = tmp_path / "picture.jpg"
    Image.new(mode, (24, 16), stored).save(path, quality=100, progressive=progressive)
    np.testing.assert_allclose(load_picture(path).pixels, np.full((16, 24, 3), shown), atol=1)


def test_a_jpeg_of_ycck_is_read_as_its_colours(tmp_path: Path) -> None:
    stream = io.BytesIO()
    # Stored are Y 200, Cb 128, Cr 128 and no black once the marker says so: inks of 200 each, inverted.
    Image.new("CMYK", (16, 16), (55, 127, 127, 0)).save(stream, format="JPEG", quality=100)
    content = bytearray(stream.getvalue())
    transform = content.index(b"Adobe") + 11
    assert content[transform] == 0
    content[transform] = 2
    (path := tmp_path / "picture.jpg").write_bytes(content)
    np.testing.assert_allclose(load_picture(path).pixels, 55, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_wide_colours_are_brought_to_srgb(tmp_path: Path, kind: str) -> None:
    """Adobe RGB, whose (100, 200, 100) is (0, 201, 92) in sRGB: its green is a stronger one."""
    path = tmp_path / f"picture.{kind.lower()}"
    image = Image.new("RGB", (16, 16), (100, 200, 100))
    options = {"lossless": True} if kind == "WEBP" else {} if kind == "PNG" else {"quality": 100}
    image.save(path, format=kind, icc_profile=_adobe_rgb(), **options)
    read_from = load_picture(path)
    np.testing.assert_allclose(read_from.pixels[4, 4], _by_hand((100, 200, 100)), atol=2)
    assert read_from.notes == ()


ADOBE_TO_XYZ = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
"""Adobe RGB (1998) to XYZ of D50, as its profile has it."""
XYZ_TO_SRGB = np.array(
    [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
)
"""XYZ of D50 to linear sRGB."""


def _by_hand(stored: tuple[int, int, int]) -> np.ndarray:
    light = (np.array(stored) / 255) ** (563 / 256)
    linear = np.clip(XYZ_TO_SRGB @ ADOBE_TO_XYZ @ light, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _adobe_rgb() -> bytes:
    """The sRGB profile with the primaries and the curve of Adobe RGB (1998)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    where = {
        bytes(profile[at : at + 4]): struct.unpack_from(">I", profile, at + 4)[0]
        for at in range(132, 132 + 12 * count, 12)
    }
    for column, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        offset = where[name]
        struct.pack_into(
            ">3i", profile, offset + 8, *(round(value * 65536) for value in ADOBE_TO_XYZ[:, column])
        )
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        offset = where[name]
        profile[offset : offset + 14] = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563)
    return bytes(profile)
