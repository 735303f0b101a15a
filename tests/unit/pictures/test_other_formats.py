"""Files of other formats under a picture's name, and files that are two things at once."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import PictureError
from conceptloom.pictures import load_mask, load_picture, load_strokes
from conceptloom.pictures.decoding import FORMATS

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, format=kind, **options)
    return stream.getvalue()


def _tiff_of_floats() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE[..., 0].astype(np.float32)).save(stream, format="TIFF")
    return stream.getvalue()


def _tiff_of_lab_pages() -> bytes:
    stream = io.BytesIO()
    page = Image.frombytes("LAB", (32, 32), NOISE.tobytes())
    page.save(stream, format="TIFF", save_all=True, append_images=[page])
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("payload.py", "print('run')")
    return stream.getvalue()


OTHERS: dict[str, Callable[[], bytes]] = {
    "gif": lambda: saved("GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))]),
    "tiff of floats": _tiff_of_floats,
    "tiff of several Lab pages": _tiff_of_lab_pages,
    "bmp": lambda: saved("BMP"),
    "ico": lambda: saved("ICO"),
    "jpeg 2000": lambda: saved("JPEG2000"),
    "avif": lambda: saved("AVIF"),
    "ppm": lambda: saved("PPM"),
    "pdf": lambda: saved("PDF"),
    "eps": lambda: saved("EPS"),
    "dds": lambda: saved("DDS"),
    "psd": lambda: b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x20\0\0\0\x20\0\x08\0\3" + bytes(400),
    "hdr": lambda: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 32 +X 32\n" + bytes(4096),
    "exr": lambda: b"v/1\x01\2\0\0\0" + bytes(400),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='32' height='32'><script>1</script></svg>",
    "html": lambda: b"<!DOCTYPE html><img src=x onerror=alert(1)>" + saved("PNG"),
    "zip": _zip,
    "text in utf-16": lambda: "not a picture".encode("utf-16"),
    "gif that goes on as a jpeg": lambda: b"GIF89a\xff\xd8\xff" + saved("JPEG"),
    "riff of sound": lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
    "png behind a byte": lambda: b"\n" + saved("PNG"),
}


@pytest.fixture
def no_other_parser(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parsers beside ours that were asked to open something, of all that Pillow has."""
    Image.init()
    reached: list[str] = []

    def trap(name: str) -> tuple[Callable[..., Image.Image], Callable[..., bool]]:
        def reach(*_: object) -> bool:
            reached.append(name)
            return False

        return reach, reach  # type: ignore[return-value]

    traps = {name: trap(name) for name in Image.OPEN if name not in FORMATS}
    assert len(traps) > 30
    for name, both in traps.items():
        monkeypatch.setitem(Image.OPEN, name, both)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: reached.append("a program"))
    return reached


@pytest.mark.parametrize("name", OTHERS)
def test_another_format_is_refused_in_one_line_and_its_parser_never_asked(
    tmp_path: Path, name: str, no_other_parser: list[str]
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(OTHERS[name]())
    for read in (
        load_picture,
        lambda path: load_mask(path, (32, 32)),
        lambda path: load_strokes(path, (32, 32)),
    ):
        with pytest.raises(PictureError, match="is not a picture: give a PNG, JPEG or WebP file"):
            read(path)
    assert no_other_parser == []


@pytest.mark.parametrize("tail", ["zip", "html", "pdf"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_hangs_behind_a_picture_is_never_looked_at(
    tmp_path: Path, kind: str, tail: str, no_other_parser: list[str]
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.write_bytes(saved(kind))
    together.write_bytes(saved(kind) + OTHERS[tail]())
    np.testing.assert_array_equal(load_picture(together).pixels, load_picture(alone).pixels)
    assert load_picture(together).notes == ()
    assert no_other_parser == []


def test_a_parser_that_was_asked_would_have_been_noticed(no_other_parser: list[str]) -> None:
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(OTHERS["gif"]()))
    assert "GIF" in no_other_parser
