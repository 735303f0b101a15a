"""Untrusted image files to clean arrays: uint8 (H, W, 3) in sRGB, the right way up.

What a file claims about itself is checked before memory is spent on it, and whatever a decoder trips over becomes a
``PictureError`` of one line.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from conceptloom.errors import PictureError

FORMATS = ("PNG", "JPEG", "WEBP")
"""Accepted by content; a file's extension says nothing."""

MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 64 * 2**20
"""64 megapixels: more than cameras take, 200 MB once decoded."""
MIN_SIDE_PX = 8

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_pixels(path: Path, matte: tuple[int, int, int], *, to_srgb: bool) -> npt.NDArray[np.uint8]:
    """The pixels of a PNG, JPEG or WebP file, uint8 (H, W, 3), oriented as its EXIF data say.

    Args:
        path: the file; of an animation its first frame is read.
        matte: colour seen where the image is transparent, sRGB.
        to_srgb: convert colours from the embedded ICC profile to sRGB; else they are taken as stored.

    Raises:
        PictureError: no regular file, another format, damaged, too large or too small.
    """
    data = _read_file(path)
    try:
        # The size is known before any pixel is decoded. Pillow's own guard sits above MAX_PIXELS.
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(path, "more than Pillow opens") from None
    except Exception as error:  # decoders raise whatever they trip over
        raise PictureError(f"{path} is not a picture: give a PNG, JPEG or WebP file") from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(path, f"{image.width} x {image.height}")
    if min(image.size) < MIN_SIDE_PX:
        size = f"{image.width} x {image.height} px"
        raise PictureError(f"{path} is only {size}: give a picture of at least {MIN_SIDE_PX} px a side")
    try:
        image.load()
        orientation = _orientation(image)
        image = _flattened(image, matte, to_srgb)
    except Exception as error:  # decoders raise whatever they trip over
        raise PictureError(
            f"{path} is damaged: save it again with an image editor, or give another file"
        ) from error
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)


def _read_file(path: Path) -> bytes:
    try:
        # Opening a pipe would wait for ever, so the kind of file is asked first.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(f"{path} is not a file: give a PNG, JPEG or WebP file")
        if status.st_size > MAX_FILE_BYTES:
            size = f"{status.st_size / 2**20:.0f} MiB"
            raise PictureError(f"{path} has {size}, at most {MAX_FILE_BYTES >> 20} are read: save it smaller")
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise PictureError(f"{path}: {reason}; give a PNG, JPEG or WebP file") from error
    except ValueError as error:  # a zero byte in the name
        raise PictureError(f"{str(path)!r} is not a file name: give a PNG, JPEG or WebP file") from error


def _too_many_pixels(path: Path, size: str) -> PictureError:
    return PictureError(
        f"{path} has too many pixels ({size}): at most {MAX_PIXELS >> 20} megapixels, save it smaller"
    )


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a camera's broken EXIF block does not spoil its picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _flattened(image: Image.Image, matte: tuple[int, int, int], to_srgb: bool) -> Image.Image:
    """The image as RGB in sRGB, with `matte` where it is transparent."""
    profile = image.info.get("icc_profile") if to_srgb else None
    alpha: Image.Image | None = None
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image = _in_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, matte), alpha)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; colour of 16 bits is decoded to 8 by Pillow itself."""
    wide = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((wide + 128) // 257).clip(0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # As browsers do: photographs keep their greys and the depth of their shadows.
            converted = ImageCms.profileToProfile(
                image,
                source,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, struct.error):
            # A profile that is broken, or of another colour space than the pixels, is ignored, as browsers do.
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")
