"""A user's picture and the masks given with it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from conceptloom.errors import PictureError
from conceptloom.pictures.decoding import BLACK, read_marks, read_picture
from conceptloom.pictures.hints import Hint
from conceptloom.runs import is_device_name

MAX_NAME_BYTES = 200
"""Names of files are made from a picture's, and end at 255 bytes."""
_MASK_CUT = 128
"""A mask's pixel belongs to the concept from this brightness on."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One user image ``I_j``, decoded, with what the user says about where its concepts are."""

    name: str
    """The file's stem (for a Break-A-Scene folder the folder's name): names the picture in prompts and outputs."""
    path: Path | None
    """Where it came from; ``None`` for one made in memory."""
    pixels: npt.NDArray[np.uint8]
    """uint8 (H, W, 3), sRGB."""
    masks: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Whole masks by concept name, bool (H, W): method gt learns under them, a benchmark measures against them."""
    hints: Mapping[str, Hint] = field(default_factory=dict)
    """What the user says by concept name to the methods that find masks themselves; held while they do."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it was read, each said of the picture: "is ...", "has ..."."""

    def __post_init__(self) -> None:
        shape, kind = self.pixels.shape, self.pixels.dtype
        assert len(shape) == 3 and shape[2] == 3 and kind == np.uint8, (
            f"pixels {shape} {kind}, not (H, W, 3) uint8"
        )
        for concept, mask in self.masks.items():
            assert mask.shape == shape[:2] and mask.dtype == np.bool_, (
                f"mask of {concept}: {mask.shape} {mask.dtype}, not {shape[:2]} bool"
            )
        for concept, hint in self.hints.items():
            assert hint.is_it.shape == shape[:2], f"hint for {concept}: {hint.is_it.shape}, not {shape[:2]}"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width, _ = self.pixels.shape
        return height, width


def load_picture(path: str | Path) -> Picture:
    """Read a PNG, JPEG or WebP file (told by its content) as a ``Picture`` without masks.

    It is turned upright by its EXIF data, converted to sRGB from its ICC profile, and laid over white where it is
    transparent; 16-bit, grey, palette and CMYK files are accepted, and of an animation the first frame: ``notes`` say
    what is not as one might expect. Raises ``PictureError`` for anything else, and for files that are damaged, larger
    than 64 megapixels or 128 MiB, below 8 px a side, or more than 20 times as long as wide.
    """
    path = Path(path)
    name, decoded = _name(path), read_picture(path)
    return Picture(name, path, decoded.pixels, notes=decoded.notes)


def load_mask(path: str | Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Read a mask file (white = concept; transparent = not) for a picture of ``size`` (H, W): bool (H, W).

    A mask of another size but the same aspect ratio is resized to the nearest pixel. Raises ``PictureError`` where
    the file cannot be read, its aspect ratio differs, or it is all black or all white.
    """
    path = Path(path)
    pixels = read_marks(path, BLACK)
    height, width = pixels.shape[:2]
    if not _same_aspect((height, width), size):
        turned = ", upright as the picture is shown" if _same_aspect((width, height), size) else ""
        raise PictureError(
            f"mask {path} is {width} x {height} px, its picture {size[1]} x {size[0]}:"
            f" save it at the picture's size{turned}"
        )
    grey = Image.fromarray(pixels).convert("L")
    if (height, width) != size:
        grey = grey.resize((size[1], size[0]), Image.Resampling.NEAREST)
    mask: npt.NDArray[np.bool_] = np.asarray(grey) >= _MASK_CUT
    if not mask.any():
        raise PictureError(f"mask {path} marks nothing: paint the concept white (255) and the rest black (0)")
    if mask.all():
        raise PictureError(
            f"mask {path} marks the whole picture: paint the concept white (255), the rest black (0)"
        )
    return mask


def load_mask_hint(path: str | Path, size: tuple[int, int]) -> Hint:
    """Read a mask file as `load_mask` does: the concept is there and nowhere else."""
    mask = load_mask(path, size)
    return Hint(mask, ~mask)


def load_break_a_scene(folder: str | Path, concept_names: Sequence[str]) -> Picture:
    """Read Break-A-Scene's folder layout: ``img.jpg`` with ``mask0.png``, ``mask1.png``, ... in the concepts' order.

    Raises ``PictureError`` where the folder does not hold exactly one mask per concept.
    """
    folder = Path(folder)
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise PictureError(
            f"{folder} cannot be listed: give a folder with img.jpg and mask0.png, ..."
        ) from error
    wanted = [f"mask{index}.png" for index in range(len(concept_names))]
    found = sorted(name for name in names if name.startswith("mask") and name.endswith(".png"))
    if sorted(wanted) != found:
        raise PictureError(
            f"{folder} holds {', '.join(found) or 'no masks'}, expected {', '.join(wanted)}:"
            " name as many concepts as there are masks, in their order"
        )
    decoded = read_picture(folder / "img.jpg")
    masks = {
        concept: load_mask(folder / name, decoded.pixels.shape[:2])
        for concept, name in zip(concept_names, wanted, strict=True)
    }
    return Picture(_name(folder.absolute()), folder / "img.jpg", decoded.pixels, masks, notes=decoded.notes)


def require_picture_name(name: str, told: str) -> None:
    """Raise `PictureError`, naming `told`, where `name` can be no folder in a concept set or no key of a command."""
    usual = name.isprintable() and not set(name) & set(':=/\\"*?<>|') and name.strip(" .") == name
    if not usual or not 1 <= len(name.encode()) <= MAX_NAME_BYTES or is_device_name(name):
        raise PictureError(f"{told!r} cannot name a picture: rename it with letters, digits, '-' and '_'")


def _name(path: Path) -> str:
    name = unicodedata.normalize("NFC", path.stem)
    require_picture_name(name, str(path))
    return name


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether scaling either to the other is off by no more than rounding to whole pixels."""
    (height, width), (other_height, other_width) = size, other
    if height > other_height:
        return _same_aspect(other, size)
    return abs(other_width * height / other_height - width) <= 1
