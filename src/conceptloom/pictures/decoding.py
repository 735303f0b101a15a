"""Untrusted image files to clean arrays: uint8 (H, W, 3) in sRGB, the right way up.

What a file claims about itself is checked before memory is spent on it, and whatever a decoder trips over becomes a
``PictureError`` of one line. No metadata leave this module: what is returned is pixels, and notes in our own words.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from conceptloom.errors import PictureError

FORMATS = ("PNG", "JPEG", "WEBP")
"""Accepted by content; a file's extension says nothing."""

MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 64 * 2**20
"""64 megapixels: more than cameras take, 200 MB once decoded, up to 0.8 GB while it is."""
MAX_WEBP_PIXELS = 24 * 2**20
"""Pillow holds a WebP file's pixels four times, 16 bytes each, while it decodes them."""
BAND_PIXELS = 4 * 2**20
"""So many pixels at a time are brought to sRGB and onto the matte."""
MIN_SIDE_PX = 8
MAX_ASPECT = 20
"""Of a longer strip the centred square shows next to nothing."""
MAX_SCANS = 100
"""Of a JPEG. Encoders make a dozen; each costs a pass over all pixels, and may be ten bytes long."""

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

_SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
_EXTENSIONS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
}
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright
_AS_STORED: Mapping[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}
"""By orientation, the view of an upright picture (H, W, 3) whose first row is the first one of the file."""
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # of a segment, or of the end
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"
_EIGHT_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)
"""The nearest of 256 greys by grey of 16 bits."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture file as pixels."""

    pixels: npt.NDArray[np.uint8]
    """uint8 (H, W, 3), sRGB."""
    notes: tuple[str, ...]
    """What the user should know about how the file was read, each said of the picture: "is ...", "has ..."."""


def read_picture(path: Path) -> Decoded:
    """Read a PNG, JPEG or WebP file: upright as its EXIF data say, in sRGB, on white where it is transparent.

    Of an animation the first frame is read.

    Raises:
        PictureError: no regular file, another format, damaged, too large, too small or too narrow.
    """
    data = _read_file(path)
    with _quietly():
        image = _opened(path, data)
        notes = []
        suffix = path.suffix.lower()
        if suffix[1:].isalpha() and suffix not in _EXTENSIONS[kind := _kind(image)]:
            notes.append(f"is a {kind} file, though its name ends in {suffix}")
        if (frames := _frames(image)) > 1:
            notes.append(f"is an animation of {frames} frames, of which only the first is used")
        profile = image.info.get("icc_profile")
        pixels, is_converted = _decoded(path, data, image, WHITE, profile)
    if profile and not is_converted:
        notes.append("has a colour profile that is broken or for other colours, and is ignored")
    return Decoded(pixels, tuple(notes))


def read_marks(path: Path, matte: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Read what was painted for a picture, a mask or strokes: as `read_picture`, but colours are taken as stored.

    Args:
        path: the file; an animation is refused.
        matte: colour seen where the image is transparent.
    """
    data = _read_file(path)
    with _quietly():
        image = _opened(path, data)
        if (frames := _frames(image)) > 1:
            raise PictureError(f"{path} is an animation of {frames} frames: save the one that counts alone")
        pixels, _ = _decoded(path, data, image, matte, None)
    return pixels


def _quietly() -> warnings.catch_warnings[None]:
    """Decoders warn of what they mend or ignore, in lines of their own that tell the user nothing."""
    return warnings.catch_warnings(action="ignore")


def _read_file(path: Path) -> bytes:
    try:
        # Opening a pipe would wait for ever, so the kind of file is asked first.
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError(f"{path} is not a file: give a PNG, JPEG or WebP file")
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise PictureError(f"{path}: {reason}; give a PNG, JPEG or WebP file") from error
    except ValueError as error:  # a zero byte in the name
        raise PictureError(f"{str(path)!r} is not a file name: give a PNG, JPEG or WebP file") from error
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"{path} has more than {MAX_FILE_BYTES >> 20} MiB: save it smaller")
    if not data:
        raise PictureError(f"{path} is empty: give a PNG, JPEG or WebP file")
    return data


def _opened(path: Path, data: bytes) -> Image.Image:
    """The image with its header read and found acceptable, no pixel decoded yet."""
    if not _SIGNATURE.match(data):
        raise PictureError(f"{path} is not a picture: give a PNG, JPEG or WebP file")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own guard, above MAX_PIXELS
        raise _too_many_pixels(path, "more than Pillow opens", MAX_PIXELS) from None
    except Exception as error:  # decoders raise whatever they trip over
        raise _damaged(path) from error
    size = f"{image.width} x {image.height}"
    most = MAX_WEBP_PIXELS if _kind(image) == "WEBP" else MAX_PIXELS
    if image.width * image.height > most:
        raise _too_many_pixels(path, size, most)
    if min(image.size) < MIN_SIDE_PX:
        raise PictureError(f"{path} is only {size} px: give a picture of at least {MIN_SIDE_PX} px a side")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise PictureError(
            f"{path} is a strip of {size} px: at most {MAX_ASPECT} times as long as wide, cut out what counts"
        )
    return image


def _decoded(
    path: Path, data: bytes, image: Image.Image, matte: tuple[int, int, int], profile: bytes | None
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Pixels, and whether they were converted from the profile."""
    try:
        if _kind(image) == "JPEG":
            _require_whole_jpeg(data)
        bits = data[24] if _kind(image) == "PNG" else 8  # a channel's, where PNG's first chunk has it
        image.load()
        width, height = image.size
        orientation = _orientation(image)
        upright = np.empty(
            (width, height, 3) if orientation in (5, 6, 7, 8) else (height, width, 3), np.uint8
        )
        stored = _AS_STORED[orientation](upright) if orientation in _AS_STORED else upright
        is_converted, rows = False, max(1, BAND_PIXELS // width)
        for top in range(0, height, rows):
            band = image.crop((0, top, width, min(top + rows, height)))
            opaque = _flattened(band, bits)
            converted = None if profile is None else _from_profile(opaque.colours, profile)
            seen = converted or _in_mode(opaque.colours, "RGB")
            if opaque.alpha is not None:
                seen = Image.composite(seen, Image.new("RGB", band.size, matte), opaque.alpha)
            stored[top : top + rows], is_converted = np.asarray(seen), converted is not None
        return upright, is_converted
    except MemoryError:
        size = f"{image.width} x {image.height}"
        raise PictureError(
            f"{path} has {size} pixels, too many for the memory left: save it smaller"
        ) from None
    except Exception as error:  # decoders raise whatever they trip over
        raise _damaged(path) from error


def _damaged(path: Path) -> PictureError:
    return PictureError(f"{path} is damaged: save it again with an image editor, or give another file")


def _too_many_pixels(path: Path, size: str, most: int) -> PictureError:
    return PictureError(
        f"{path} has too many pixels ({size}): at most {most >> 20} megapixels, save it smaller"
    )


def _kind(image: Image.Image) -> str:
    """One of FORMATS. What Pillow calls MPO is a JPEG that others follow, as many phones write it."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def _frames(image: Image.Image) -> int:
    """Frames of an animation as its header counts them; what follows a JPEG are no frames."""
    return 1 if _kind(image) == "JPEG" else int(getattr(image, "n_frames", 1))


def _require_whole_jpeg(data: bytes) -> None:
    """Raise ``ValueError`` where the file breaks off, or consists of absurdly many scans.

    What libjpeg finds where data are missing, such as the zeros of a download that never ended, it takes for pixels.
    """
    position, scans = 0, 0
    while marker := _JPEG_MARKER.search(data, position):
        if marker[1] == _JPEG_END:
            return
        scans += marker[1] == _JPEG_SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
        (length,) = struct.unpack_from(">H", data, marker.end())
        position = marker.end() + length
    raise ValueError("it has no end")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a camera's broken EXIF block does not spoil its picture
        return 1
    return orientation if isinstance(orientation, int) else 1


@dataclass(frozen=True, eq=False)
class _Flattened:
    colours: Image.Image
    """Mode L, RGB or CMYK, as its profile speaks of it."""
    alpha: Image.Image | None
    """Mode L: 0 where nothing is seen."""


def _flattened(image: Image.Image, bits: int) -> _Flattened:
    """Eight bits a channel, of which alpha apart. Colour of 16 bits is cut to 8 by Pillow itself."""
    if image.mode == "I;16":
        grey = np.asarray(image)
        alpha = None
        if (key := image.info.get("transparency")) is not None:
            alpha = Image.fromarray(np.where(grey == key, np.uint8(0), np.uint8(255)))
        return _Flattened(Image.fromarray(_EIGHT_BITS[grey]), alpha)
    if image.has_transparency_data:
        key = image.info.get("transparency")
        # Pillow compares the transparent colour as stored with pixels that it has brought to 8 bits.
        if image.mode == "L" and isinstance(key, int):
            image.info["transparency"] = key * {2: 85, 4: 17}.get(bits, 1)
        elif image.mode == "RGB" and isinstance(key, tuple) and bits == 16:
            image.info["transparency"] = tuple(channel >> 8 for channel in key)
        is_grey = image.mode in ("L", "LA")
        image = image.convert("RGBA")
        return _Flattened(image.convert("L" if is_grey else "RGB"), image.getchannel("A"))
    return _Flattened(image if image.mode in ("L", "CMYK") else _in_mode(image, "RGB"), None)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which copies even where nothing is to do


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB, None where the profile is broken or of another colour space: browsers ignore it, too."""
    try:
        # As browsers do: photographs keep their greys and the depth of their shadows.
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, struct.error):
        return None
