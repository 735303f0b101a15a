"""Compose scenes from sprites and backgrounds, with exact masks and loose captions, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from conceptloom.scenes.backgrounds import Photo, drawn, photo_crop, plain
from conceptloom.scenes.captions import RELATIONS, Mention, caption
from conceptloom.scenes.sprites import Sprite

MAX_OCCLUSION = 0.4
BackgroundKind = Literal["photo", "drawn", "plain"]


@dataclass(frozen=True)
class SceneRules:
    """What scenes are drawn from. Fractions are of the picture's side or probabilities.

    ``counts`` are the probabilities of one, two and three sprites; ``backgrounds`` those of a photograph,
    a drawn scene and a plain colour; ``loose_captions`` leave things out as `captions.caption` says; ``jitter``
    rotates slightly, mirrors, shades, and shifts brightness and colour; ``centred`` puts one or two sprites large in
    the middle.
    """

    side_px: int = 128
    counts: tuple[float, float, float] = (0.35, 0.45, 0.20)
    backgrounds: tuple[float, float, float] = (0.5, 0.38, 0.12)
    smallest: float = 0.12
    largest: float = 0.60
    loose_captions: bool = True
    jitter: bool = True
    centred: bool = False


@dataclass(frozen=True)
class SceneObject:
    """A placed sprite: its identity and the box of its visible part (left, top, right, bottom) in pixels."""

    noun: str
    family: str
    class_word: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """A composed picture.

    ``pixels`` uint8 (H, W, 3); ``masks`` bool (K, H, W), exact after occlusion, in the order of ``objects``;
    ``background`` the word for what is behind; ``relation`` holds for the first two objects or is None.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    objects: tuple[SceneObject, ...]
    background: str
    relation: str | None
    caption: str


@dataclass(frozen=True)
class Placement:
    """Where a sprite goes: centre, size (of its longer side), rotation in degrees, flip. Fractions of the side."""

    x: float
    y: float
    size: float
    angle: float
    flip: bool


def random_scene(
    sprites: Sequence[Sprite],
    photos: Sequence[Photo],
    rng: np.random.Generator,
    rules: SceneRules | None = None,
    count: int | None = None,
) -> Scene:
    """A scene of one to three random sprites, or of ``count``, on a random background (the training distribution)."""
    rules = rules or SceneRules()
    count = count or 1 + int(rng.choice(3, p=rules.counts))
    chosen = [sprites[int(index)] for index in rng.choice(len(sprites), count, replace=False)]
    label, background = random_background(photos, rng, rules)
    return compose(chosen, label, background, rng, rules)


def random_background(
    photos: Sequence[Photo], rng: np.random.Generator, rules: SceneRules
) -> tuple[str, NDArray[np.uint8]]:
    """The word for a background and its pixels (side, side, 3)."""
    kind = int(rng.choice(3, p=rules.backgrounds))
    if kind == 0 and photos:
        photo = photos[int(rng.integers(len(photos)))]
        return photo.label, photo_crop(photo, rng, rules.side_px)
    return plain(rng, rules.side_px) if kind == 2 else drawn(rng, rules.side_px)


def compose(
    sprites: Sequence[Sprite],
    label: str,
    background: NDArray[np.uint8],
    rng: np.random.Generator,
    rules: SceneRules | None = None,
    relation: str | None = None,
) -> Scene:
    """Place ``sprites`` on ``background``, every one at least 60 % visible.

    With two sprites a relation decides the layout: the given one, or a random one. The first sprite is its
    subject. Raises ``ValueError`` for an unknown relation or no sprites.
    """
    rules = rules or SceneRules()
    if not sprites:
        raise ValueError("compose needs at least one sprite, got none")
    if relation is not None and (relation not in RELATIONS or len(sprites) < 2):
        raise ValueError(f"relation must be one of {RELATIONS} between two sprites, got {relation!r}")
    if relation is None and len(sprites) == 2:
        relation = str(rng.choice(RELATIONS))
    layers: list[NDArray[np.float32]] = []
    for _ in range(30):
        places, order = layout(len(sprites), relation, rng, rules)
        if not rules.jitter:
            mirrors = relation == "facing"
            places = [replace(place, angle=0.0, flip=place.flip and mirrors) for place in places]
        layers = [_layer(sprite, place, rules.side_px) for sprite, place in zip(sprites, places, strict=True)]
        masks, occlusion = visible_masks([layer[..., 3] > 0.5 for layer in layers], order)
        if occlusion.max() <= MAX_OCCLUSION and masks.any(axis=(1, 2)).all():
            break
    else:
        order = list(range(len(sprites)))
        places = _apart(len(sprites), rng, rules)
        layers = [_layer(sprite, place, rules.side_px) for sprite, place in zip(sprites, places, strict=True)]
        masks, _ = visible_masks([layer[..., 3] > 0.5 for layer in layers], order)
        relation = None
    pixels = _paint(background, layers, order, rng, rules.jitter)
    objects = tuple(
        SceneObject(sprite.noun, sprite.family, sprite.class_word, _box(mask))
        for sprite, mask in zip(sprites, masks, strict=True)
    )
    mentions = [Mention(sprite.noun, sprite.class_word, sprite.family) for sprite in sprites]
    return Scene(
        pixels,
        masks,
        objects,
        label,
        relation,
        caption(mentions, relation, label, rng, loose=rules.loose_captions),
    )


def layout(
    count: int, relation: str | None, rng: np.random.Generator, rules: SceneRules
) -> tuple[list[Placement], list[int]]:
    """Placements and the order of painting (back to front) for ``count`` sprites under a relation."""
    typical = {1: (0.36, rules.largest), 2: (0.30, 0.56), 3: (0.26, 0.44)}[min(count, 3)]
    low, high = typical if rng.random() < 0.85 else (rules.smallest, typical[0])
    if rules.centred:
        low, high = {1: (0.48, 0.6), 2: (0.42, 0.5), 3: (0.26, 0.4)}[min(count, 3)]
    sizes = rng.uniform(low, high, count)
    flips = rng.random(count) < 0.5
    if rules.centred and count == 1:
        x, y = rng.uniform(0.45, 0.55, 2)
        return [Placement(float(x), float(y), float(sizes[0]), _angle(rng), bool(flips[0]))], [0]
    if relation is None or count < 2:
        places = [_free(size, flip, rng) for size, flip in zip(sizes, flips, strict=True)]
        return places, [int(index) for index in rng.permutation(count)]
    first, second, front = _pair(relation, sizes, flips, rng, centred=rules.centred)
    rest = [_free(size, flip, rng) for size, flip in zip(sizes[2:], flips[2:], strict=True)]
    return [first, second, *rest], [*range(2, count), *((1, 0) if front == 0 else (0, 1))]


def _free(size: float, flip: bool, rng: np.random.Generator) -> Placement:
    reach = size / 2
    x, y = rng.uniform(reach * 0.9, 1 - reach * 0.9), rng.uniform(max(reach * 0.9, 0.2), 1 - reach * 0.9)
    return Placement(float(x), float(y), float(size), _angle(rng), bool(flip))


def _angle(rng: np.random.Generator) -> float:
    return float(rng.uniform(-14, 14)) if rng.random() < 0.5 else 0.0


def _pair(
    relation: str,
    sizes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    centred: bool = False,
) -> tuple[Placement, Placement, int]:
    """Placements of a related pair (subject first) and which of the two is in front; ``centred`` as one whole."""
    a, b = float(sizes[0]), float(sizes[1])
    flip_a, flip_b = bool(flips[0]), bool(flips[1])
    front = int(rng.integers(2))
    side = 1.0 if rng.random() < 0.5 else -1.0
    gap = (a + b) / 2
    if relation == "left of":
        dx, dy = -gap * rng.uniform(0.95, 1.2), rng.uniform(-0.12, 0.12)
    elif relation == "right of":
        dx, dy = gap * rng.uniform(0.95, 1.2), rng.uniform(-0.12, 0.12)
    elif relation == "next to":
        dx, dy = side * gap * rng.uniform(0.9, 1.1), rng.uniform(-0.06, 0.06)
    elif relation == "facing":
        dx, dy = side * gap * rng.uniform(0.95, 1.15), rng.uniform(-0.03, 0.03)
        flip_a, flip_b = side < 0, side > 0
    elif relation == "above":
        dx, dy = rng.uniform(-0.1, 0.1), -gap * rng.uniform(0.9, 1.1)
    elif relation == "behind":
        dx, dy, front = side * gap * rng.uniform(0.45, 0.7), -rng.uniform(0.02, 0.14), 1
    elif relation == "in front of":
        dx, dy, front = side * gap * rng.uniform(0.45, 0.7), rng.uniform(0.02, 0.14), 0
    elif relation == "holding":
        b = min(b, 0.55 * a + 0.05)
        dx, dy, front = side * (a * 0.42 + b * 0.15), -a * 0.08 * rng.uniform(0, 1), 1
    else:
        a, b = min(a, b * 0.95), max(a, b)
        dx, dy, front = rng.uniform(-0.05, 0.05), -(a * 0.5 + b * 0.22), 0
    low_x, high_x = max(a / 2 - dx, b / 2), 1 - max(a / 2 + dx, b / 2)
    low_y, high_y = max(a / 2 - dy, b / 2), 1 - max(a / 2 + dy, b / 2)
    bx = _within(low_x, high_x, rng, centred)
    by = _within(low_y, high_y, rng, centred)
    first = Placement(bx + float(dx), by + float(dy), a, _angle(rng), flip_a)
    return first, Placement(bx, by, b, _angle(rng), flip_b), front


def _within(low: float, high: float, rng: np.random.Generator, centred: bool) -> float:
    """Anywhere from ``low`` to ``high``; ``centred`` near their middle; the middle where they cross."""
    middle = (low + high) / 2
    if low >= high:
        return middle
    if centred:
        low, high = max(low, middle - 0.05), min(high, middle + 0.05)
    return float(rng.uniform(low, high))


def _apart(count: int, rng: np.random.Generator, rules: SceneRules) -> list[Placement]:
    """A row of small sprites that cannot overlap: the way out when no random layout keeps all visible."""
    size = min(0.9 / count, rules.largest)
    return [
        Placement((index + 0.5) / count, float(rng.uniform(0.4, 0.7)), size, 0.0, False)
        for index in range(count)
    ]


def _layer(sprite: Sprite, place: Placement, side: int) -> NDArray[np.float32]:
    """The sprite on an empty canvas: float32 (side, side, 4), straight colour 0..255 and alpha 0..1."""
    image = Image.fromarray(sprite.rgba)
    if place.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = max(4, round(place.size * side))
    image = image.resize((size, size), Image.Resampling.BOX if size < 64 else Image.Resampling.BILINEAR)
    if place.angle:
        image = image.rotate(place.angle, Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, (round(place.x * side - size / 2), round(place.y * side - size / 2)))
    layer = np.asarray(canvas, np.float32)
    layer = layer.copy()
    layer[..., 3] /= 255
    return layer


def visible_masks(
    silhouettes: Sequence[NDArray[np.bool_]], order: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Masks after occlusion (K, H, W) and the hidden fraction of each silhouette (K,).

    ``order`` paints back to front: a later silhouette hides an earlier one.
    """
    masks = np.stack(silhouettes)
    hidden = np.zeros(masks.shape[1:], bool)
    occlusion = np.zeros(len(silhouettes))
    for index in reversed(order):
        area = masks[index].sum()
        masks[index] = silhouettes[index] & ~hidden
        occlusion[index] = 1 - masks[index].sum() / area if area else 1.0
        hidden |= silhouettes[index]
    return masks, occlusion


def _paint(
    background: NDArray[np.uint8],
    layers: Sequence[NDArray[np.float32]],
    order: Sequence[int],
    rng: np.random.Generator,
    jitter: bool,
) -> NDArray[np.uint8]:
    canvas = background.astype(np.float32)
    shadow = jitter and rng.random() < 0.5
    shift, softness = int(rng.integers(1, 4)), canvas.shape[0] / 40
    for index in order:
        layer = layers[index]
        alpha = layer[..., 3:]
        if shadow:
            dark = Image.fromarray((alpha[..., 0] * 255).astype(np.uint8)).filter(
                ImageFilter.BoxBlur(softness)
            )
            cast = np.roll(np.asarray(dark, np.float32), (shift, shift), (0, 1))[..., None] / 255
            canvas *= 1 - 0.35 * cast
        tint = rng.uniform(0.9, 1.1, 3).astype(np.float32) if jitter else np.ones(3, np.float32)
        canvas = canvas * (1 - alpha) + np.clip(layer[..., :3] * tint, 0, 255) * alpha
    brightness = float(rng.uniform(0.9, 1.1)) if jitter else 1.0
    painted: NDArray[np.uint8] = np.clip(canvas * brightness, 0, 255).astype(np.uint8)
    return painted


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
