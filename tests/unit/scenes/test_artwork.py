"""Sprite packs and photographs on disk, and what is said where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptloom.errors import DataError
from conceptloom.pictures import write_webp
from conceptloom.scenes.backgrounds import load_photos
from conceptloom.scenes.sprites import ATLAS_COLUMNS, CELL_PX, load_sprites

SPRITE = {
    "noun": "cat",
    "family": "noto",
    "role": "train",
    "class_word": "animal",
    "noun_split": "train",
    "cell": 1,
}
PHOTO = {"role": "train", "file": "beach.webp", "label": "beach", "source": "somebody"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack of one row of sprites, and one photograph."""
    (tmp_path / "sprites.json").write_text(json.dumps({"sprites": [SPRITE]}))
    (tmp_path / "backgrounds.json").write_text(json.dumps({"photos": [PHOTO]}))
    write_webp(tmp_path / "train-noto.webp", np.full((CELL_PX, CELL_PX * ATLAS_COLUMNS, 3), 99, np.uint8))
    write_webp(tmp_path / "beach.webp", np.full((16, 24, 3), 99, np.uint8))
    return tmp_path


def test_a_pack_is_read_as_its_index_says(folder: Path) -> None:
    (sprite,), (photo,) = load_sprites("train", folder), load_photos("train", folder)
    assert (sprite.key, sprite.rgba.shape) == ("cat/noto", (CELL_PX, CELL_PX, 4))
    assert (photo.label, photo.pixels.shape) == ("beach", (16, 24, 3))


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"sprites": 1}',
        '{"sprites": [1]}',
        '{"sprites": [{}]}',
        json.dumps({"sprites": [{**SPRITE, "cell": "1"}]}),
        json.dumps({"sprites": [{**SPRITE, "family": []}]}),
    ],
)
def test_a_damaged_index_of_sprites_is_refused_in_one_line(index: str, folder: Path) -> None:
    (folder / "sprites.json").write_text(index)
    with pytest.raises(DataError, match=r"sprite pack at .* is damaged: reinstall"):
        load_sprites("train", folder)


@pytest.mark.parametrize("cell", [ATLAS_COLUMNS, -1, 10**9])
def test_a_cell_that_is_not_there_is_refused(cell: int, folder: Path) -> None:
    (folder / "sprites.json").write_text(json.dumps({"sprites": [{**SPRITE, "cell": cell}]}))
    with pytest.raises(DataError, match=f"has no cell {cell}"):
        load_sprites("train", folder)


@pytest.mark.parametrize("photos", [None, 1, [1], [{}], [{**PHOTO, "file": 1}], [{**PHOTO, "file": []}]])
def test_a_damaged_index_of_photographs_is_refused_in_one_line(photos: Any, folder: Path) -> None:
    (folder / "backgrounds.json").write_text(json.dumps({"photos": photos}))
    with pytest.raises(DataError, match=r"photographs at .* are damaged: reinstall"):
        load_photos("train", folder)


def test_damaged_pictures_of_a_pack_are_refused_in_one_line(folder: Path) -> None:
    for name in ("train-noto.webp", "beach.webp"):
        (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(DataError, match=r"sprite pack at .* is damaged"):
        load_sprites("train", folder)
    with pytest.raises(DataError, match=r"photographs at .* are damaged"):
        load_photos("train", folder)
