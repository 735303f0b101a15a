"""Backgrounds behind the sprites: photographs with roles, drawn scenes, patterns and plain colours.

Every function takes a generator and a side in pixels and returns uint8 of shape (side, side, 3).
Textures are correlated patterns: an autoencoder cannot keep white noise, and no photograph holds any.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from conceptloom.errors import DataError
from conceptloom.scenes.sprites import Role

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 60, 55),
    "green": (80, 165, 80),
    "blue": (65, 110, 200),
    "yellow": (235, 205, 80),
    "orange": (235, 145, 60),
    "purple": (140, 85, 175),
    "pink": (240, 165, 190),
    "brown": (130, 90, 60),
    "white": (245, 245, 245),
    "gray": (140, 140, 140),
    "black": (25, 25, 28),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph to crop from; ``pixels`` is uint8 (256, width, 3), ``label`` the word for it."""

    label: str
    role: Role
    source: str
    pixels: Pixels


def backgrounds_folder() -> Path:
    """Folder of the photographs that ship with the package."""
    return Path(str(files("conceptloom") / "data" / "backgrounds"))


def load_photos(role: Role, folder: Path | None = None) -> tuple[Photo, ...]:
    """Photographs of one role. Raises ``DataError`` when the folder or one of its files is absent."""
    return _load_photos(role, folder or backgrounds_folder())


@cache
def _load_photos(role: Role, folder: Path) -> tuple[Photo, ...]:
    index = folder / "backgrounds.json"
    if not index.is_file():
        raise DataError(
            f"no photographs at {folder}: expected backgrounds.json; reinstall or run 'make sprites'"
        )
    photos = []
    try:
        for entry in json.loads(index.read_text(encoding="utf-8"))["photos"]:
            if entry["role"] != role:
                continue
            path = folder / entry["file"]
            if not path.is_file():
                raise DataError(f"the photographs lack {entry['file']}: reinstall or run 'make sprites'")
            with Image.open(path, formats=["WEBP"]) as image:
                photos.append(Photo(entry["label"], role, entry["source"], np.asarray(image.convert("RGB"))))
    except DataError:
        raise
    except Exception as error:  # JSON of another shape, and whatever a decoder trips over
        raise DataError(
            f"the photographs at {folder} are damaged: reinstall or run 'make sprites'"
        ) from error
    return tuple(photos)


def photo_crop(photo: Photo, rng: np.random.Generator, side: int) -> Pixels:
    """A random square crop of a photograph, 55 to 100 % of its height, flipped half of the time."""
    height, width = photo.pixels.shape[:2]
    crop = min(height, int(height * rng.uniform(0.55, 1.0)))
    top = int(rng.integers(0, height - crop + 1))
    left = int(rng.integers(0, width - crop + 1))
    window = photo.pixels[top : top + crop, left : left + crop]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    image = Image.fromarray(np.ascontiguousarray(window))
    return np.asarray(
        image.resize((side, side), Image.Resampling.BOX if crop >= side else Image.Resampling.BICUBIC)
    )


# Drawn scenes and patterns --------------------------------------------------------------------------------------


def _smooth_noise(rng: np.random.Generator, side: int, cells_y: int, cells_x: int) -> Floats:
    """Noise of ``cells_y`` x ``cells_x`` knots, bicubically enlarged: (side, side), about -1 to 1."""
    knots = rng.uniform(-1, 1, (cells_y, cells_x)).astype(np.float32)
    return np.asarray(Image.fromarray(knots).resize((side, side), Image.Resampling.BICUBIC))


def _tint(rng: np.random.Generator, colour: tuple[int, int, int], spread: float = 18) -> Floats:
    return np.asarray(colour, np.float32) + rng.uniform(-spread, spread, 3).astype(np.float32)


def _vertical(top: Floats, bottom: Floats, rows: int, side: int) -> Floats:
    ramp = np.linspace(0, 1, max(rows, 1), dtype=np.float32)[:, None, None]
    return np.broadcast_to(top * (1 - ramp) + bottom * ramp, (max(rows, 1), side, 3)).copy()


def _finish(canvas: Floats) -> Pixels:
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _sky(rng: np.random.Generator, side: int, rows: int) -> Floats:
    sky = _vertical(_tint(rng, (90, 150, 225)), _tint(rng, (195, 222, 243)), rows, side)
    clouds = np.clip(_smooth_noise(rng, side, 5, 3)[:rows, :, None] * 1.6 - 0.5, 0, 1)
    clouded: Floats = sky * (1 - 0.75 * clouds) + 250 * 0.75 * clouds
    return clouded


def grass(rng: np.random.Generator, side: int) -> Pixels:
    """Lawn seen from above: green with fine upright streaks."""
    base = _tint(rng, (95, 155, 70))
    streaks = _smooth_noise(rng, side, side // 6, side // 3)[..., None] * 16
    patches = _smooth_noise(rng, side, 5, 5)[..., None] * 14
    return _finish(base + streaks + patches * np.array([1, 0.8, 0.4], np.float32))


def sand(rng: np.random.Generator, side: int) -> Pixels:
    """Sand with wind ripples."""
    base = _tint(rng, (218, 190, 140), 14)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    bend = _smooth_noise(rng, side, 4, 4) * 0.6
    ripples = np.sin((y * rng.uniform(9, 15) + x * rng.uniform(-2, 2) + bend) * 2 * np.pi)
    return _finish(base + ripples[..., None] * 8 + _smooth_noise(rng, side, 8, 8)[..., None] * 6)


def water(rng: np.random.Generator, side: int) -> Pixels:
    """Open water: wide soft waves with highlights."""
    base = _vertical(_tint(rng, (55, 120, 185)), _tint(rng, (30, 85, 150)), side, side)
    waves = _smooth_noise(rng, side, side // 5, side // 16)
    return _finish(base + waves[..., None] * 18 + np.clip(waves - 0.55, 0, 1)[..., None] * 160)


def night_sky(rng: np.random.Generator, side: int) -> Pixels:
    """Dark sky with soft stars, sometimes a moon."""
    canvas = _vertical(_tint(rng, (15, 18, 45), 8), _tint(rng, (45, 45, 95), 12), side, side)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    for _ in range(int(rng.integers(15, 40))):
        cy, cx, radius = rng.random(), rng.random(), rng.uniform(0.006, 0.014)
        canvas += 200 * np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / radius**2))[..., None]
    if rng.random() < 0.4:
        cy, cx, radius = rng.uniform(0.1, 0.3), rng.uniform(0.15, 0.85), rng.uniform(0.06, 0.1)
        disc = np.clip((radius - np.hypot(y - cy, x - cx)) * side + 0.5, 0, 1)[..., None]
        canvas = canvas * (1 - disc) + np.array([240, 236, 205], np.float32) * disc
    return _finish(canvas)


def brick_wall(rng: np.random.Generator, side: int) -> Pixels:
    """Running bond of bricks, each with its own shade."""
    rows = int(rng.integers(6, 11))
    height = side / rows
    width = height * rng.uniform(1.8, 2.4)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    row = np.floor(y / height).astype(int)
    shifted = x + (row % 2) * width / 2
    column = np.floor(shifted / width).astype(int)
    shade = rng.uniform(-16, 16, (rows + 1, int(side / width) + 3)).astype(np.float32)
    joint = ((y % height) < max(1.2, height * 0.12)) | ((shifted % width) < max(1.2, height * 0.12))
    bricks = (
        _tint(rng, (160, 80, 62))
        + shade[row, column][..., None]
        + _smooth_noise(rng, side, 16, 16)[..., None] * 6
    )
    return _finish(np.where(joint[..., None], _tint(rng, (196, 188, 178), 10), bricks))


def wood(rng: np.random.Generator, side: int) -> Pixels:
    """Boards with grain along them."""
    boards = int(rng.integers(3, 7))
    y = np.mgrid[0:side, 0:side][0].astype(np.float32) / side
    board = np.minimum((y * boards).astype(int), boards - 1)
    shade = rng.uniform(-14, 14, boards).astype(np.float32)[board]
    # At most 11 periods over the side: finer grain would alias into noise at 48 px.
    grain = np.sin((y * min(boards * 2.5, 11) + _smooth_noise(rng, side, 6, 3) * 0.9) * 2 * np.pi) * 7
    canvas = _tint(rng, (165, 115, 70)) + (shade + grain)[..., None]
    gap = ((y * boards) % 1) < 0.05
    canvas = np.where(gap[..., None], canvas * 0.55, canvas)
    return _finish(canvas if rng.random() < 0.5 else canvas.transpose(1, 0, 2))


def stripes(rng: np.random.Generator, side: int) -> Pixels:
    """Stripes of two colours at a random angle."""
    first, second = _two_colours(rng)
    angle = rng.choice([0.0, np.pi / 2, np.pi / 4, -np.pi / 4])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    phase = (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(3, 7)
    weight = np.clip(np.sin(phase * 2 * np.pi) * side / 14 + 0.5, 0, 1)[..., None]
    return _finish(first * weight + second * (1 - weight))


def checker(rng: np.random.Generator, side: int) -> Pixels:
    """Checkerboard of two colours."""
    first, second = _two_colours(rng)
    cells = int(rng.integers(4, 9))
    y, x = np.mgrid[0:side, 0:side]
    odd = ((y * cells // side) + (x * cells // side)) % 2
    return _finish(np.where(odd[..., None] == 1, first, second))


def dots(rng: np.random.Generator, side: int) -> Pixels:
    """Polka dots in staggered rows."""
    first, second = _two_colours(rng)
    cells = int(rng.integers(4, 8))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) * cells / side
    x = x + (np.floor(y) % 2) * 0.5
    distance = np.hypot(y % 1 - 0.5, x % 1 - 0.5)
    weight = np.clip((0.3 - distance) * side / cells + 0.5, 0, 1)[..., None]
    return _finish(first * weight + second * (1 - weight))


def _two_colours(rng: np.random.Generator) -> tuple[Floats, Floats]:
    first, second = rng.choice(list(COLOURS), 2, replace=False)
    return _tint(rng, COLOURS[first], 12), _tint(rng, COLOURS[second], 12)


def room(rng: np.random.Generator, side: int) -> Pixels:
    """Wall and floor with a skirting board, often a window."""
    horizon = int(side * rng.uniform(0.55, 0.75))
    canvas = np.empty((side, side, 3), np.float32)
    wall = _tint(rng, (215, 200, 180), 30)
    canvas[:horizon] = wall + np.linspace(8, -8, horizon, dtype=np.float32)[:, None, None]
    floor = wood(rng, side)[: side - horizon].astype(np.float32)
    canvas[horizon:] = floor
    canvas[max(horizon - max(2, side // 40), 0) : horizon] = wall * 0.75
    if rng.random() < 0.6:
        height, width = int(side * rng.uniform(0.2, 0.3)), int(side * rng.uniform(0.2, 0.34))
        top, left = int(side * rng.uniform(0.06, 0.18)), int(rng.uniform(0.05, 0.6) * side)
        frame = max(2, side // 40)
        canvas[top : top + height, left : left + width] = (240, 238, 232)
        pane = _sky(rng, side, height - 2 * frame)[:, : width - 2 * frame]
        canvas[top + frame : top + height - frame, left + frame : left + width - frame] = pane
    return _finish(canvas)


def beach(rng: np.random.Generator, side: int) -> Pixels:
    """Sky, sea and sand."""
    horizon, shore = int(side * rng.uniform(0.3, 0.42)), rng.uniform(0.55, 0.68) * side
    canvas = sand(rng, side).astype(np.float32)
    sea = water(rng, side).astype(np.float32)
    line = shore + _smooth_noise(rng, side, 2, 5)[0] * side * 0.04
    rows = np.arange(side, dtype=np.float32)[:, None]
    wet = np.clip((line[None] - rows) * 0.6, 0, 1)[..., None]
    foam = np.exp(-(((rows - line[None]) / (0.015 * side)) ** 2))[..., None]
    canvas = canvas * (1 - wet) + sea * wet
    canvas = canvas * (1 - 0.8 * foam) + 250 * 0.8 * foam
    canvas[:horizon] = _sky(rng, side, horizon)
    return _finish(canvas)


def street(rng: np.random.Generator, side: int) -> Pixels:
    """House fronts, pavement and a road with a broken line."""
    horizon = int(side * rng.uniform(0.52, 0.64))
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:horizon] = _sky(rng, side, horizon)
    left = 0
    while left < side:
        width = int(side * rng.uniform(0.16, 0.3))
        top = int(horizon * rng.uniform(0.1, 0.5))
        front = _tint(rng, (175, 150, 130), 45)
        canvas[top:horizon, left : left + width] = front
        pitch = max(6, side // 12)
        for window_top in range(top + pitch // 3, horizon - pitch, pitch):
            for window_left in range(left + pitch // 3, min(left + width, side) - pitch // 2, pitch):
                pane = (70, 90, 115) if rng.random() < 0.7 else (240, 220, 140)
                canvas[window_top : window_top + pitch // 2, window_left : window_left + pitch // 2] = pane
        left += width
    pavement = horizon + int(side * 0.06)
    canvas[horizon:pavement] = _tint(rng, (175, 172, 168), 8)
    canvas[pavement:] = _tint(rng, (88, 88, 92), 10)
    middle, thick, dash = (pavement + side) // 2, max(2, side // 40), side // 6
    for start in range(int(rng.integers(0, dash)), side, 2 * dash):
        canvas[middle : middle + thick, start : start + dash] = (235, 230, 200)
    return _finish(canvas)


def meadow(rng: np.random.Generator, side: int) -> Pixels:
    """Green hills under a sky, sometimes with flowers."""
    horizon = rng.uniform(0.4, 0.55) * side
    canvas = grass(rng, side).astype(np.float32)
    line = horizon + _smooth_noise(rng, side, 2, 4)[0] * side * 0.1
    above = np.clip(line[None] - np.arange(side, dtype=np.float32)[:, None], 0, 1)[..., None]
    canvas = canvas * (1 - above) + _sky(rng, side, side) * above
    if rng.random() < 0.5:
        colour = np.asarray(COLOURS[rng.choice(["red", "yellow", "white", "pink"])], np.float32)
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        for _ in range(int(rng.integers(12, 30))):
            cy, cx = rng.uniform(horizon + 0.15 * side, side), rng.uniform(0, side)
            dot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (0.014 * side) ** 2)[..., None]
            canvas = canvas * (1 - dot) + colour * dot
    return _finish(canvas)


def winter(rng: np.random.Generator, side: int) -> Pixels:
    """Snow under a pale sky."""
    horizon = rng.uniform(0.4, 0.6) * side
    line = horizon + _smooth_noise(rng, side, 2, 4)[0] * side * 0.08
    above = np.clip(line[None] - np.arange(side, dtype=np.float32)[:, None], 0, 1)[..., None]
    snow = _tint(rng, (236, 241, 248), 6) + _smooth_noise(rng, side, 6, 3)[..., None] * 9
    sky = _vertical(_tint(rng, (150, 175, 205)), _tint(rng, (215, 225, 236), 8), side, side)
    return _finish(snow * (1 - above) + sky * above)


DRAWN: dict[str, Callable[[np.random.Generator, int], Pixels]] = {
    "grass": grass,
    "sand": sand,
    "water": water,
    "night sky": night_sky,
    "brick wall": brick_wall,
    "wood": wood,
    "stripes": stripes,
    "checker": checker,
    "dots": dots,
    "room": room,
    "beach": beach,
    "street": street,
    "meadow": meadow,
    "snow": winter,
}
PATTERNS = frozenset({"stripes", "checker", "dots", "brick wall", "wood", "grass", "sand"})


def plain(rng: np.random.Generator, side: int) -> tuple[str, Pixels]:
    """A plain colour with a faint vertical gradient; returns ``("red background", pixels)``."""
    name = str(rng.choice(list(COLOURS)))
    base = _tint(rng, COLOURS[name], 12)
    return f"{name} background", _finish(_vertical(base + 6, base - 6, side, side))


def drawn(rng: np.random.Generator, side: int) -> tuple[str, Pixels]:
    """A drawn scene or pattern, uniformly over ``DRAWN``."""
    label = str(rng.choice(list(DRAWN)))
    return label, DRAWN[label](rng, side)
