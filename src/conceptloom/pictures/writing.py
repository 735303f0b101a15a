"""Writing images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conceptloom.runs import write_bytes_atomic


def write_png(
    path: str | Path,
    image: npt.NDArray[np.uint8] | npt.NDArray[np.bool_],
    text: Mapping[str, str] | None = None,
) -> None:
    """Write pixels, uint8 (H, W, 3), or a mask, bool (H, W), True = white, as a PNG file, all or nothing.

    ``text`` goes into PNG text chunks; keys are 1 to 79 Latin letters, values any text. The same input gives the same
    bytes. Raises ``OSError`` where the disk refuses.
    """
    if image.dtype == np.bool_:
        image = np.where(image, np.uint8(255), np.uint8(0))
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", pnginfo=chunks)
    write_bytes_atomic(path, buffer.getvalue())


def write_webp(path: str | Path, pixels: npt.NDArray[np.uint8], quality: int = 80) -> None:
    """Write pixels, uint8 (H, W, 3), as a lossy WebP file, all or nothing: for large sheets kept in a repository."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="WEBP", quality=quality, method=6)
    write_bytes_atomic(path, buffer.getvalue())
