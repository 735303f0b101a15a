"""Sprites with their roles: which drawings the built-in model may see, and which are kept for judging.

The pack is a folder of atlases, one WebP per (role, family), and ``sprites.json``, which names every cell.
An atlas is opened only when its role is asked for, so that training cannot touch a ``test`` sprite by accident.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from conceptloom.errors import DataError

Role = Literal["train", "dev", "test"]
ROLES: tuple[Role, ...] = ("train", "dev", "test")
CELL_PX = 128
ATLAS_COLUMNS = 12


@dataclass(frozen=True, eq=False)
class Sprite:
    """One drawing of one noun.

    ``rgba`` is uint8 of shape (128, 128, 4), straight alpha; ``family`` is the drawing style it belongs to.
    """

    noun: str
    family: str
    role: Role
    class_word: str
    noun_split: str
    rgba: NDArray[np.uint8]

    @property
    def key(self) -> str:
        """``noun/family``: unique within the pack."""
        return f"{self.noun}/{self.family}"


def pack_folder() -> Path:
    """Folder of the sprite pack that ships with the package."""
    return Path(str(files("conceptloom") / "data" / "sprites"))


def load_sprites(role: Role, folder: Path | None = None) -> tuple[Sprite, ...]:
    """All sprites of one role, in a fixed order (family, then noun).

    Raises ``DataError`` when the pack is absent or its index names a cell that is not there.
    """
    return _load(role, folder or pack_folder())


@cache
def _load(role: Role, folder: Path) -> tuple[Sprite, ...]:
    index = folder / "sprites.json"
    if not index.is_file():
        raise DataError(f"no sprite pack at {folder}: expected sprites.json; reinstall or run 'make sprites'")
    atlases: dict[str, NDArray[np.uint8]] = {}
    sprites = []
    try:
        for entry in json.loads(index.read_text(encoding="utf-8"))["sprites"]:
            if entry["role"] != role:
                continue
            family = entry["family"]
            if family not in atlases:
                atlases[family] = _open_atlas(folder / f"{role}-{family}.webp")
            rgba = _cell(atlases[family], entry["cell"])
            sprites.append(
                Sprite(entry["noun"], family, role, entry["class_word"], entry["noun_split"], rgba)
            )
    except DataError:
        raise
    except Exception as error:  # JSON of another shape, and whatever a decoder trips over
        raise DataError(f"the sprite pack at {folder} is damaged: reinstall or run 'make sprites'") from error
    return tuple(sprites)


def _open_atlas(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"the sprite pack lacks {path.name}: reinstall or run 'make sprites'")
    with Image.open(path, formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGBA"))


def _cell(atlas: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    row, column = divmod(cell, ATLAS_COLUMNS)
    top, left = row * CELL_PX, column * CELL_PX
    found = np.ascontiguousarray(atlas[top : top + CELL_PX, left : left + CELL_PX])
    if found.shape != (CELL_PX, CELL_PX, 4):
        raise DataError(f"the sprite pack has no cell {cell}: reinstall or run 'make sprites'")
    return found


def nouns(sprites: Sequence[Sprite]) -> tuple[str, ...]:
    """The distinct nouns among ``sprites``, sorted."""
    return tuple(sorted({sprite.noun for sprite in sprites}))
