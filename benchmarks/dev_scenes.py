"""Scenes and concept sets from `dev` sprites and `dev` photographs for the benchmarks: the same for every method.

A scene is drawn from (seed, index) alone. Each concept starts from its noun where the built-in model knows it, else
from its class word.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptloom.pictures import Picture
from conceptloom.scenes.backgrounds import load_photos, photo_crop
from conceptloom.scenes.composer import Scene, SceneRules, compose
from conceptloom.scenes.sprites import Sprite, load_sprites, nouns
from conceptloom.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class ConceptScene:
    """A picture of two subjects on a photograph, the words to start from, and the true masks.

    ``masks`` bool (3, H, W): first subject, second subject, background.
    """

    name: str
    picture: Picture
    words: dict[str, str]
    sprites: tuple[Sprite, Sprite]
    masks: NDArray[np.bool_]


def known_word(sprite: Sprite) -> str:
    """The noun where the built-in model was taught it, else the class word."""
    return sprite.noun if sprite.noun in _train_nouns() else sprite.class_word


def _train_nouns() -> frozenset[str]:
    return frozenset(nouns(load_sprites("train")))


def two_subject_scene(index: int, side_px: int, seed: int = 0) -> ConceptScene:
    """Scene number ``index``: concepts ``first``, ``second`` and ``place``."""
    sprites, photos = load_sprites("dev"), load_photos("dev")
    rng = numpy_generator(seed, "two subjects", index)
    while True:
        a, b = (sprites[int(i)] for i in rng.choice(len(sprites), 2, replace=False))
        if a.noun != b.noun:
            break
    photo = photos[int(rng.integers(len(photos)))]
    rules = SceneRules(side_px=side_px)
    scene: Scene = compose([a, b], photo.label, photo_crop(photo, rng, side_px), rng, rules)
    name = f"scene-{index:03d}"
    words = {"first": known_word(a), "second": known_word(b), "place": photo.label}
    masks = np.concatenate([scene.masks, ~scene.masks.any(0, keepdims=True)])
    true_masks = dict(zip(words, masks, strict=True))
    return ConceptScene(name, Picture(name, None, scene.pixels, true_masks), words, (a, b), masks)


class ResultLog:
    """One JSON line a finished unit, so that an interrupted benchmark goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


def fresh_folder(path: Path) -> Path:
    """The path, with nothing there: what an interrupted benchmark left is gone."""
    shutil.rmtree(path, ignore_errors=True)
    return path


def bootstrap(values: Sequence[float], seed: int = 0, repeats: int = 4000) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval over independent units."""
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (repeats, len(array)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(array.mean()), float(low), float(high)
