"""Hard cases for masks: sets composed as the built-in benchmark's, each of one difficulty.

Set `dev-tiny-003` follows from (seed, split, case, 3) alone. Sets have no test prompts: they measure masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.builtin_sets import (
    PLACE_NAME,
    SMALLEST,
    BuiltinSplit,
    known_word,
    taught_nouns,
)
from conceptloom.evaluation.deck import Deck
from conceptloom.pictures import Picture
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.scenes.backgrounds import Photo, load_photos, photo_crop
from conceptloom.scenes.composer import Scene, SceneRules, compose
from conceptloom.scenes.sprites import Sprite, load_sprites
from conceptloom.seeding import numpy_generator

TRIES = 24
"""Compositions of which the hardest is taken where a case is a matter of degree."""


@dataclass(frozen=True)
class Case:
    """One difficulty.

    Attributes:
        name: in the names of its sets.
        title: for tables.
        subjects: how many there are in a picture.
        pictures: in how many pictures the first subject is, each with others beside it.
        hardness: what is largest in the composition that is taken; None takes the first that is not too small.
        largest: size of the first subject as a share of the picture's side, at most; None for the usual sizes.
        photos: from how many photographs the hardest composition is taken, `TRIES` of each.
    """

    name: str
    title: str
    subjects: int = 2
    pictures: int = 1
    hardness: Callable[[Scene], float] | None = None
    largest: float | None = None
    photos: int = 1


def box_overlap(scene: Scene) -> float:
    """Area that the first two subjects' boxes share, as a share of the smaller box, 0..1."""
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = (
        scene.objects[0].box,
        scene.objects[1].box,
    )
    width = max(0, min(right, other_right) - max(left, other_left))
    height = max(0, min(bottom, other_bottom) - max(top, other_top))
    areas = ((right - left) * (bottom - top), (other_right - other_left) * (other_bottom - other_top))
    return width * height / min(areas)


def colour_likeness(scene: Scene) -> float:
    """Minus the distance in Lab between the mean colour of the first subject and that of what surrounds it."""
    mask = scene.masks[0]
    lab = rgb_to_lab(scene.pixels)
    rows, columns = np.nonzero(mask)
    reach = scene.pixels.shape[0] // 10
    window = np.zeros_like(mask)
    window[
        max(rows.min() - reach, 0) : rows.max() + reach, max(columns.min() - reach, 0) : columns.max() + reach
    ] = True
    around = window & ~scene.masks.any(axis=0)
    if not around.any():
        return -np.inf
    return -float(np.linalg.norm(lab[mask].mean(axis=0) - lab[around].mean(axis=0)))


CASES: tuple[Case, ...] = (
    Case("two", "two subjects"),
    Case("same-class", "same class word twice"),
    Case("overlap", "strong overlap", hardness=box_overlap),
    Case("three", "three subjects", subjects=3),
    Case("five", "five subjects", subjects=5),
    Case("tiny", "a tiny subject", largest=0.16),
    Case(
        "camouflage", "a subject in its background's colours", subjects=1, hardness=colour_likeness, photos=8
    ),
    Case("shared", "a subject in three pictures", pictures=3),
    Case("random", "tokens from random starts"),
    Case("class-word", "class words for starts"),
    Case("novel", "novel nouns"),
    Case("loose", "a loose prompt of the user's own"),
)
LOOSE = (
    "my {a} and the {b} we found last summer",
    "look at this {a}, right there with the {b}",
    "{a} hanging out near {b}, taken with my old phone",
    "some day with {b} when {a} came along",
)


def hard_benchmark(
    split: BuiltinSplit, sets_per_case: int, seed: int = 0, side_px: int = 128, cases: Sequence[Case] = CASES
) -> Benchmark:
    """`sets_per_case` sets of every case; a set's name is "SPLIT-CASE-NUMBER".

    Raises:
        DataError: drawings or photographs are absent.
    """
    made: list[BenchmarkSet] = []
    for case in cases:
        made += _sets_of(case, split, sets_per_case, seed, side_px)
    return Benchmark("hard", split, tuple(made))


def case_of(name: str) -> Case:
    """The case of a set's name."""
    return next(case for case in CASES if name.split("-", 1)[1].rpartition("-")[0] == case.name)


def _sets_of(case: Case, split: BuiltinSplit, count: int, seed: int, side_px: int) -> Iterator[BenchmarkSet]:
    dealing = numpy_generator(seed, "hard cases", split, case.name, "cast")
    sprites = Deck(_drawings(case, split), dealing)
    photos = Deck(load_photos(split), dealing)
    for index in range(count):
        name = f"{split}-{case.name}-{index:03d}"
        rng = numpy_generator(seed, "hard cases", split, case.name, "pictures", index)
        chosen: list[Sprite] = []
        for _ in range(case.pictures + 1 if case.pictures > 1 else case.subjects):
            chosen.append(sprites.draw(_fitting(case, chosen)))
        pictures = []
        for number in range(case.pictures):
            cast = chosen if case.pictures == 1 else [chosen[0], chosen[number + 1]]
            behind = [photos.draw() for _ in range(case.photos)]
            pictures.append((cast, behind, f"{name}-{'abc'[number]}"))
        yield _set(case, name, pictures, rng, side_px)


def _drawings(case: Case, split: BuiltinSplit) -> tuple[Sprite, ...]:
    drawings = load_sprites(split)
    if case.name == "novel":
        return tuple(sprite for sprite in drawings if sprite.noun not in taught_nouns())
    if case.name == "same-class":  # classes with two nouns or more
        nouns = {(sprite.class_word, sprite.noun) for sprite in drawings}
        common = Counter(word for word, _ in nouns)
        return tuple(sprite for sprite in drawings if common[sprite.class_word] > 1)
    return drawings


def _fitting(case: Case, chosen: Sequence[Sprite]) -> Callable[[Sprite], bool]:
    """Neither a noun nor, but for the case that is about it, a starting word comes twice."""
    nouns = {sprite.noun for sprite in chosen}
    words = {_word(case, sprite) for sprite in chosen}
    if case.name == "same-class":
        return lambda sprite: sprite.noun not in nouns and (not words or _word(case, sprite) in words)
    if case.name == "novel":  # too few to insist on different class words as well
        return lambda sprite: sprite.noun not in nouns
    return lambda sprite: sprite.noun not in nouns and _word(case, sprite) not in words


def _word(case: Case, sprite: Sprite) -> str | None:
    if case.name in ("same-class", "class-word"):
        return sprite.class_word
    return known_word(sprite)


def _set(
    case: Case,
    name: str,
    pictures: Sequence[tuple[Sequence[Sprite], Sequence[Photo], str]],
    rng: np.random.Generator,
    side_px: int,
) -> BenchmarkSet:
    made: list[Picture] = []
    concepts: dict[str, TrueConcept] = {}
    captions: dict[str, str] = {}
    for number, (cast, photos, picture_name) in enumerate(pictures):
        scene = _scene(case, cast, photos, rng, side_px)
        is_learned = number == 0
        masks = {sprite.noun: mask for sprite, mask in zip(cast, scene.masks, strict=True)}
        for sprite in cast:
            concepts.setdefault(sprite.noun, _concept(case, sprite))
        if is_learned:
            masks[PLACE_NAME] = ~scene.masks.any(axis=0)
            place = _place(scene.background)
        if case.name == "loose":
            first, second = (f"<{sprite.noun}>" for sprite in cast)
            text = LOOSE[int(rng.integers(len(LOOSE)))].format(a=first, b=second)
            captions[picture_name] = f"{text}, <{PLACE_NAME}>"
        made.append(Picture(picture_name, None, scene.pixels, masks))
    contains = {picture.name: tuple(picture.masks) for picture in made}
    return BenchmarkSet(
        name, tuple(made), (*concepts.values(), place), contains, (), "photo", captions=captions
    )


def _concept(case: Case, sprite: Sprite) -> TrueConcept:
    word = None if case.name == "random" else _word(case, sprite)
    split: Literal["instance", "novel noun"] = "instance" if sprite.noun in taught_nouns() else "novel noun"
    return TrueConcept(sprite.noun, word, "subject", sprite.noun, sprite.family, split, sprite.class_word)


def _place(label: str) -> TrueConcept:
    return TrueConcept(PLACE_NAME, label, "background", label, None, "place", "place")


def _scene(
    case: Case, cast: Sequence[Sprite], photos: Sequence[Photo], rng: np.random.Generator, side_px: int
) -> Scene:
    """The hardest of some compositions, or the first one in which no subject is too small."""
    rules = SceneRules(side_px=side_px, smallest=SMALLEST)
    scenes: list[Scene] = []
    for photo in photos:
        background = photo_crop(photo, rng, side_px)
        if case.largest is not None:
            return _with_a_tiny_one(case.largest, cast, photo.label, background, rng, rules)
        scenes += [compose(cast, photo.label, background, rng, rules) for _ in range(TRIES)]
    large = [scene for scene in scenes if scene.masks.mean(axis=(1, 2)).min() >= 0.02] or scenes
    return large[0] if case.hardness is None else max(large, key=case.hardness)


def _with_a_tiny_one(
    largest: float,
    cast: Sequence[Sprite],
    label: str,
    background: NDArray[np.uint8],
    rng: np.random.Generator,
    rules: SceneRules,
) -> Scene:
    """The second subject at its usual size, and the first one tiny beside it."""
    first, second = cast
    for _ in range(TRIES):
        usual = compose([second], label, background, rng, rules)
        tiny = compose([_shrunk(first, largest)], label, usual.pixels, rng, rules)
        if not (tiny.masks[0] & usual.masks[0]).any():
            break
    masks = np.stack([tiny.masks[0], usual.masks[0] & ~tiny.masks[0]])
    return replace(tiny, masks=masks, objects=(*tiny.objects, *usual.objects), relation=None)


def _shrunk(sprite: Sprite, largest: float) -> Sprite:
    """The drawing in the middle of a larger empty canvas: of the size that the composer gives it little is left."""
    side = sprite.rgba.shape[0]
    canvas = np.zeros((round(side * SceneRules().largest / largest),) * 2 + (4,), dtype=np.uint8)
    start = (canvas.shape[0] - side) // 2
    canvas[start : start + side, start : start + side] = sprite.rgba
    return replace(sprite, rgba=canvas)
