"""The built-in benchmark: sets composed from drawings and photographs that the built-in model never saw.

Set number i follows from (seed, split, i) alone, so the first sets of a larger benchmark are those of a smaller one.
Its design follows from i:

- every third set spans two pictures: A shows a subject, B another subject in the learned place; in one tenth of all
  sets (always of those) A shows both subjects, so one concept is shared by both pictures;
- the others are one picture of two, one or three subjects, in turn;
- of ten sets two learn a pattern as their place, one a drawn scene, six or seven a photograph; one learns no place
  (unless it spans two pictures);
- subjects of even sets are of different drawing styles, those of odd sets of one, as far as the drawings allow.

Every drawing of the split, and every photograph, is used before any comes again (but for the rare case in which the
last ones left would repeat a noun within a set).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, PlaceType, TestPrompt, TrueConcept
from conceptloom.evaluation.deck import Deck
from conceptloom.evaluation.prompt_templates import KnownWords, at_place, prompts_for
from conceptloom.pictures import Picture
from conceptloom.scenes.backgrounds import DRAWN, PATTERNS, Photo, load_photos, photo_crop
from conceptloom.scenes.captions import RELATIONS, STYLES
from conceptloom.scenes.composer import Scene, SceneRules, compose
from conceptloom.scenes.sprites import Sprite, load_sprites, nouns
from conceptloom.seeding import numpy_generator

BuiltinSplit = Literal["dev", "test"]

PLACE_NAME = "place"
SMALLEST = 0.24
"""Of the picture's side: a smaller drawing would cover less than four of the built-in model's 16 x 16 cells across."""
MIN_COVER = 0.02
"""Of the picture: a subject that covers less is placed anew, at most `PLACEMENTS` times."""
PLACEMENTS = 20

PLACES = {
    "beach": "on the {}",
    "brick wall": "in front of a {}",
    "canyon": "in the {}",
    "city": "in the {}",
    "desert": "in the {}",
    "field": "in the {}",
    "forest": "in the {}",
    "grass": "on the {}",
    "hills": "on the {}",
    "lake": "at the {}",
    "meadow": "in the {}",
    "mountain": "in front of a {}",
    "night sky": "in front of the {}",
    "room": "in a {}",
    "sand": "on the {}",
    "sea": "at the {}",
    "snow": "in the {}",
    "street": "on the {}",
    "water": "on the {}",
    "wood": "on {}",
}
"""Places the built-in model was taught, with how one says to be there."""

_SUBJECTS_OF_ONE_PICTURE = (2, 1, 3)
_PLACES_OF_TEN: tuple[PlaceType, ...] = (
    "photo",
    "pattern",
    "photo",
    "photo",
    "drawn",
    "photo",
    "none",
    "photo",
    "pattern",
    "photo",
)
_SHARING_OF_THIRTY = (5, 14, 26)


@dataclass(frozen=True)
class SetDesign:
    """What a set is to be: subjects in picture A, in picture B (0: no picture B), whether B's is one of A's, what the
    learned place is, whether the subjects are of different drawing styles.
    """

    in_a: int
    in_b: int
    shares: bool
    place_type: PlaceType
    crosses_styles: bool

    @property
    def subjects(self) -> int:
        """How many different subjects it has."""
        return self.in_a + self.in_b - self.shares


def design(index: int) -> SetDesign:
    """The design of set number `index`, balanced over thirty sets and nearly so over fewer."""
    place_type = _PLACES_OF_TEN[index % 10]
    crosses = index % 2 == 0
    if index % 3 == 2:
        shares = index % 30 in _SHARING_OF_THIRTY
        place_type = "photo" if place_type == "none" else place_type
        return SetDesign(2 if shares else 1, 1, shares, place_type, crosses)
    of_one_picture = index // 3 * 2 + index % 3
    return SetDesign(_SUBJECTS_OF_ONE_PICTURE[of_one_picture % 3], 0, False, place_type, crosses)


def builtin_benchmark(split: BuiltinSplit, sets: int, seed: int = 0, side_px: int = 128) -> Benchmark:
    """The first `sets` sets of the built-in benchmark, with exact masks and 20 prompts each.

    Every subject is at least 60 % visible. A concept starts from its noun where the built-in model was taught it,
    else from its class word. Prompts speak the built-in model's words only; their known things are nouns it was
    trained on.

    Args:
        split: "dev" for tuning and looking, "test" for what is published.
        sets: how many.
        seed: another one draws other sets of the same design.
        side_px: side of the pictures.

    Raises:
        DataError: fewer than one set is asked for, or drawings or photographs are absent.
    """
    made = (
        _compose_set(split, index, cast, seed, side_px) for index, cast in enumerate(casts(split, sets, seed))
    )
    return Benchmark("builtin", split, tuple(made))


@dataclass(frozen=True)
class Place:
    """A place to be: the word for it, and its photograph, or None for a drawn one."""

    word: str
    photo: Photo | None

    def pixels(self, rng: np.random.Generator, side_px: int) -> NDArray[np.uint8]:
        """A view of it, uint8 (side_px, side_px, 3): another crop, or drawn anew."""
        if self.photo is not None:
            return photo_crop(self.photo, rng, side_px)
        return DRAWN[self.word](rng, side_px)


@dataclass(frozen=True)
class Cast:
    """Who is in a set: its design, its subjects' drawings (A's first), the place of A and of B (None: no B)."""

    design: SetDesign
    sprites: tuple[Sprite, ...]
    place_a: Place
    place_b: Place | None


def casts(split: BuiltinSplit, sets: int, seed: int) -> list[Cast]:
    """Who is in the first `sets` sets: dealt from decks in the order of the sets."""

    def rng(what: str) -> np.random.Generator:
        return numpy_generator(seed, "built-in benchmark", split, what)

    sprites = Deck(load_sprites(split), rng("sprites"))
    photos = Deck([Place(photo.label, photo) for photo in load_photos(split)], rng("photos"))
    patterns = Deck([Place(word, None) for word in sorted(PATTERNS)], rng("patterns"))
    drawn = Deck([Place(word, None) for word in sorted(set(DRAWN) - PATTERNS)], rng("drawn scenes"))
    place_decks = {"photo": photos, "pattern": patterns, "drawn": drawn, "none": photos}
    made = []
    for index in range(sets):
        plan = design(index)
        chosen: list[Sprite] = []
        for _ in range(plan.subjects):
            chosen.append(sprites.draw(_newcomer(chosen), _in_style(chosen, plan.crosses_styles)))
        learned = place_decks[plan.place_type].draw()
        if plan.in_b:
            other = photos.draw(wish=_elsewhere(learned))
            made.append(Cast(plan, tuple(chosen), other, learned))
        else:
            made.append(Cast(plan, tuple(chosen), learned, None))
    return made


def _newcomer(chosen: Sequence[Sprite]) -> Callable[[Sprite], bool]:
    """Neither a noun nor a starting word comes twice in a set."""
    taken = {word for sprite in chosen for word in (sprite.noun, known_word(sprite))}
    return lambda sprite: taken.isdisjoint({sprite.noun, known_word(sprite)})


def _in_style(chosen: Sequence[Sprite], crosses: bool) -> Callable[[Sprite], bool]:
    families = {sprite.family for sprite in chosen}
    return lambda sprite: not families or (sprite.family not in families) == crosses


def _elsewhere(place: Place) -> Callable[[Place], bool]:
    return lambda other: other.word != place.word


def _compose_set(split: BuiltinSplit, index: int, cast: Cast, seed: int, side_px: int) -> BenchmarkSet:
    name = f"{split}-{index:03d}"
    plan = cast.design
    concepts = [_subject(sprite) for sprite in cast.sprites]
    if plan.place_type != "none":
        word = (cast.place_b or cast.place_a).word
        concepts.append(TrueConcept(PLACE_NAME, word, "background", word, None, "place", "place"))
    rng = numpy_generator(seed, "built-in benchmark", split, "pictures", index)
    in_a = cast.sprites[: plan.in_a]
    if cast.place_b is None:
        pictures = [_picture(f"{name}-a", in_a, cast.place_a, plan.place_type != "none", rng, side_px)]
        strangers: list[str] = []
    else:
        in_b = cast.sprites[:1] if plan.shares else cast.sprites[-1:]
        pictures = [
            _picture(f"{name}-a", in_a, cast.place_a, False, rng, side_px),
            _picture(f"{name}-b", in_b, cast.place_b, True, rng, side_px),
        ]
        strangers = [sprite.noun for sprite in cast.sprites if sprite not in in_b]
    prompts = prompts_for(
        concepts,
        builtin_words(),
        numpy_generator(seed, "built-in benchmark", split, "prompts", index),
        strangers=strangers,
        homes=[place.word for place in (cast.place_a, cast.place_b) if place is not None],
        own_styles=[STYLES[sprite.family] for sprite in cast.sprites],
    )
    contains = {picture.name: tuple(picture.masks) for picture in pictures}
    return BenchmarkSet(
        name,
        tuple(pictures),
        tuple(concepts),
        contains,
        prompts,
        plan.place_type,
        shown=_at_home(concepts, plan),
    )


def _at_home(concepts: Sequence[TrueConcept], plan: SetDesign) -> tuple[TestPrompt, ...]:
    """Picture B's subject in its own place, for sets of two pictures: the first column of the paper's Fig. 1."""
    if not plan.in_b:
        return ()
    native = concepts[0] if plan.shares else concepts[plan.subjects - 1]
    return (at_place(native, concepts[-1], PLACES),)


def _picture(
    name: str,
    sprites: Sequence[Sprite],
    place: Place,
    is_learned: bool,
    rng: np.random.Generator,
    side_px: int,
) -> Picture:
    """One composed picture; with two subjects or more the first two are in a random relation.

    Of up to `PLACEMENTS` the first in which all subjects are large enough, else that whose smallest is largest (thin
    drawings).
    """
    relation = str(rng.choice(RELATIONS)) if len(sprites) > 1 else None
    rules = SceneRules(side_px=side_px, smallest=SMALLEST)
    background = place.pixels(rng, side_px)
    scene = compose(sprites, place.word, background, rng, rules, relation)
    for _ in range(PLACEMENTS - 1):
        if _least_cover(scene) >= MIN_COVER:
            break
        other = compose(sprites, place.word, background, rng, rules, relation)
        scene = max(scene, other, key=_least_cover)
    masks = {sprite.noun: mask for sprite, mask in zip(sprites, scene.masks, strict=True)}
    if is_learned:
        masks[PLACE_NAME] = ~scene.masks.any(axis=0)
    return Picture(name, None, scene.pixels, masks)


def _least_cover(scene: Scene) -> float:
    return float(scene.masks.mean(axis=(1, 2)).min())


def _subject(sprite: Sprite) -> TrueConcept:
    split: Literal["instance", "novel noun"] = "instance" if sprite.noun in taught_nouns() else "novel noun"
    return TrueConcept(
        sprite.noun, known_word(sprite), "subject", sprite.noun, sprite.family, split, sprite.class_word
    )


def known_word(sprite: Sprite) -> str:
    """The noun where the built-in model was taught it, else the class word."""
    return sprite.noun if sprite.noun in taught_nouns() else sprite.class_word


def taught_nouns() -> Mapping[str, str]:
    """Class word by noun of everything the built-in model was taught."""
    return builtin_words().things


@cache
def builtin_words() -> KnownWords:
    """The words of the built-in model that test prompts are made of."""
    sprites = load_sprites("train")
    classes = {sprite.noun: sprite.class_word for sprite in sprites}
    return KnownWords(
        PLACES, {noun: classes[noun] for noun in nouns(sprites)}, tuple(sorted(STYLES.values()))
    )
