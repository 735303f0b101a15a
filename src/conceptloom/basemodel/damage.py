"""Drawings that are none: fused, smeared, holed, shuffled, scrambled. A judge must call them unknown.

The last two kinds, swirled and crossfaded, are kept from training: whether a judge refuses what it was never shown
broken is measured on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from conceptloom.scenes.sprites import Sprite

LEAST_CHANGE = 0.1
"""Mean change of a damaged drawing over its silhouette, as a share of full scale; less could pass for a shadow."""
TRIES = 20
SMEAR_STEPS = 12

Floats = NDArray[np.float32]


def damage(sprite: Sprite, others: Sequence[Sprite], kind: str, rng: np.random.Generator) -> Sprite | None:
    """A damaged ``sprite``; ``others`` are what it may be fused with.

    None when no try is solid and different enough from every drawing that went into it (a grey drawing has no colours
    to scramble).
    """
    own = _premultiplied(sprite)
    for _ in range(TRIES):
        second = _premultiplied(others[int(rng.integers(len(others)))]) if kind in FUSIONS else own
        damaged = KINDS[kind](own, second, rng)
        sources = (own, second) if kind in FUSIONS else (own,)
        if min(_change(damaged, source) for source in sources) >= LEAST_CHANGE and _is_solid(damaged):
            return replace(sprite, rgba=_straight(damaged))
    return None


def _fused(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """One side of a straight cut from each of two drawings."""
    angle, (x, y) = rng.uniform(0, 2 * np.pi), _coordinates(own)
    side = np.cos(angle) * x + np.sin(angle) * y > rng.uniform(-0.06, 0.06)
    return np.where(side[..., None], own, second)


def _smeared(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """Drawn out along a line by a quarter to a half of the cell."""
    angle, reach, side = rng.uniform(0, np.pi), rng.uniform(0.25, 0.5) * len(own), len(own)
    wide = np.pad(own, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    total = np.zeros_like(own)
    for part in np.linspace(-0.5, 0.5, SMEAR_STEPS):
        top, left = (side // 2 + round(float(step * reach * part)) for step in (np.sin(angle), np.cos(angle)))
        total += wide[top : top + side, left : left + side]
    total /= SMEAR_STEPS
    smeared: Floats = total * np.minimum(1.8, 1 / np.maximum(total[..., 3:], 1e-3))
    return smeared


def _holed(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """Discs cut out until a quarter to a half of the drawing is gone."""
    damaged, wanted = own.copy(), rng.uniform(0.25, 0.5)
    area = float(own[..., 3].sum())
    x, y = _coordinates(own)
    for _ in range(30):
        if damaged[..., 3].sum() <= (1 - wanted) * area:
            break
        inside = np.argwhere(damaged[..., 3] > 0.5)
        if not len(inside):
            break
        row, column = inside[int(rng.integers(len(inside)))]
        distance = np.hypot(x - x[row, column], y - y[row, column])
        damaged[distance < rng.uniform(0.07, 0.14)] = 0
    return damaged


def _shuffled(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """The drawing's box cut into 2x2 or 3x3 tiles, none of which stays in its place."""
    tiles = int(rng.integers(2, 4))
    rows, columns = np.flatnonzero(own[..., 3].any(1)), np.flatnonzero(own[..., 3].any(0))
    high, wide = max(1, len(rows) // tiles), max(1, len(columns) // tiles)
    places = [(rows[0] + r * high, columns[0] + c * wide) for r in range(tiles) for c in range(tiles)]
    order = rng.permutation(len(places))
    damaged = own.copy()
    # A cyclic shift of a random order moves every tile.
    for source, target in zip(order, np.roll(order, 1), strict=True):
        (top, left), (to_top, to_left) = places[source], places[target]
        damaged[to_top : to_top + high, to_left : to_left + wide] = own[top : top + high, left : left + wide]
    return damaged


def _scrambled(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """Channels permuted, or colours inverted."""
    damaged = own.copy()
    order = [(1, 2, 0), (2, 0, 1), (2, 1, 0), (1, 0, 2), (0, 2, 1)][int(rng.integers(5))]
    damaged[..., :3] = own[..., order]
    if rng.random() < 0.4:
        damaged[..., :3] = own[..., 3:] - damaged[..., :3]
    return damaged


def _swirled(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """Twisted about the middle, most in the middle."""
    x, y = _coordinates(own)
    turn = float(rng.choice([-1, 1])) * rng.uniform(2.0, 3.5) * np.clip(1 - np.hypot(x, y) / 0.5, 0, 1)
    side = len(own)
    from_x, from_y = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
    rows, columns = (
        np.clip(np.rint((v + 0.5) * side - 0.5), 0, side - 1).astype(int) for v in (from_y, from_x)
    )
    swirled: Floats = own[rows, columns]
    return swirled


def _crossfaded(own: Floats, second: Floats, rng: np.random.Generator) -> Floats:
    """Two drawings shining through one another."""
    share = float(rng.uniform(0.4, 0.6))
    faded: Floats = share * own + (1 - share) * second
    return faded


KINDS: dict[str, Callable[[Floats, Floats, np.random.Generator], Floats]] = {
    "fused": _fused,
    "smeared": _smeared,
    "holed": _holed,
    "shuffled": _shuffled,
    "scrambled": _scrambled,
    "swirled": _swirled,
    "crossfaded": _crossfaded,
}
FUSIONS = ("fused", "crossfaded")
TRAINED_KINDS = ("fused", "smeared", "holed", "shuffled", "scrambled")


def _premultiplied(sprite: Sprite) -> Floats:
    rgba = sprite.rgba.astype(np.float32) / np.float32(255)
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def _straight(rgba: Floats) -> NDArray[np.uint8]:
    straight = rgba.copy()
    straight[..., :3] /= np.maximum(rgba[..., 3:], 1e-3)
    return np.rint(np.clip(straight, 0, 1) * 255).astype(np.uint8)


def _coordinates(rgba: Floats) -> tuple[Floats, Floats]:
    """x and y of every pixel from the middle, in sides: -0.5 to 0.5, each (H, W)."""
    steps = (np.arange(len(rgba), dtype=np.float32) + 0.5) / len(rgba) - 0.5
    x: Floats = np.tile(steps, (len(rgba), 1))
    return x, x.T


def _is_solid(rgba: Floats) -> bool:
    """Whether enough of it is opaque to have a mask when it is drawn small."""
    side = len(rgba) // 16
    blocks = rgba[..., 3].reshape(16, side, 16, side).mean((1, 3))
    return int((blocks > 0.6).sum()) >= 6


def _change(damaged: Floats, source: Floats) -> float:
    """Mean absolute difference of (premultiplied colour, alpha) over where either is drawn."""
    drawn = np.maximum(damaged[..., 3], source[..., 3]) > 0.1
    return float(np.abs(damaged - source)[drawn].mean()) if drawn.any() else 0.0
