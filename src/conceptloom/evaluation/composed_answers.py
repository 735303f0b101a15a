"""Perfect answers to the built-in benchmark's prompts, composed of the very drawings and photographs that are learned.

They show what a metric says of pictures that are right. Nothing is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt
from conceptloom.evaluation.builtin_sets import MIN_COVER, PLACEMENTS, SMALLEST, casts
from conceptloom.evaluation.image_view import FAMILY_OF
from conceptloom.judges.detector import Pixels
from conceptloom.scenes.backgrounds import DRAWN, load_photos, photo_crop
from conceptloom.scenes.composer import Scene, SceneRules, compose, random_background
from conceptloom.scenes.sprites import ROLES, Sprite, load_sprites
from conceptloom.seeding import numpy_generator

PlaceMaker = Callable[[np.random.Generator, int], Pixels]


def composed_answers(
    benchmark: Benchmark, prompts: int, num: int, seed: int = 0, side_px: int = 128
) -> dict[str, dict[tuple[int, int], Scene]]:
    """By set, `num` scenes that answer each of its first prompts, by (number of the prompt, number of the scene).

    Subjects are the set's own drawings, placed anew; a learned place is another crop of its photograph, or drawn anew;
    what is known is drawn from what the built-in model was taught. In an asked style stands the drawing of the same
    noun in that style; where there is none, the prompt has no answer.

    Args:
        benchmark: the built-in one.
        prompts: how many of each set's.
        num: scenes for each.
        seed: the benchmark's.
        side_px: side of the pictures.

    Raises:
        DataError: the benchmark is not the built-in one of that seed.
    """
    if benchmark.split not in ("dev", "test"):
        raise DataError(
            f"benchmark '{benchmark.name}' is not made of drawings: compose answers to the built-in one"
        )
    played = casts("dev" if benchmark.split == "dev" else "test", len(benchmark.sets), seed)
    found = {}
    for one, cast in zip(benchmark.sets, played, strict=True):
        if [sprite.noun for sprite in cast.sprites] != [concept.noun for concept in one.subjects]:
            raise DataError(
                f"set '{one.name}' is not of the built-in benchmark of seed {seed}: give its seed"
            )
        learned = (cast.place_b or cast.place_a).pixels
        found[one.name] = {
            (number, index): scene
            for number, prompt in enumerate(one.prompts[:prompts])
            for index in range(num)
            if (scene := _answer(one, prompt, learned, _rng(seed, one.name, number, index), side_px))
            is not None
        }
    return found


def _rng(seed: int, name: str, number: int, index: int) -> np.random.Generator:
    return numpy_generator(seed, "composed answers", name, number, index)


def _answer(
    one: BenchmarkSet, prompt: TestPrompt, learned: PlaceMaker, rng: np.random.Generator, side_px: int
) -> Scene | None:
    sprites = _shown(one, prompt, rng)
    if sprites is None:
        return None
    rules = SceneRules(side_px=side_px, smallest=SMALLEST)
    if prompt.asked_place is not None:
        label, background = one.concept(prompt.asked_place).noun, learned(rng, side_px)
    elif prompt.place is not None:
        label, background = prompt.place, known_place(prompt.place, rng, side_px)
    else:
        label, background = random_background(load_photos("train"), rng, rules)
    relation = None if prompt.relation is None else prompt.relation[1]
    scenes = [compose(sprites, label, background, rng, rules, relation)]
    while not _is_good(scenes[-1], relation) and len(scenes) < PLACEMENTS:
        scenes.append(compose(sprites, label, background, rng, rules, relation))
    return max(scenes, key=lambda scene: (_is_good(scene, relation), scene.masks.mean(axis=(1, 2)).min()))


def _is_good(scene: Scene, relation: str | None) -> bool:
    """Whether it is in the asked relation and all of it is large enough."""
    is_large = bool((scene.masks.mean(axis=(1, 2)) >= MIN_COVER).all())
    return is_large and (relation is None or scene.relation == relation)


def _shown(one: BenchmarkSet, prompt: TestPrompt, rng: np.random.Generator) -> Sequence[Sprite] | None:
    """The drawings that a prompt asks for, a relation's subject first; None where one does not exist."""
    asked = [concept for concept in one.subjects if concept.name in prompt.asked]
    shown: dict[str, Sprite | None] = {}
    for concept in asked:
        family = concept.family if prompt.style is None else FAMILY_OF[prompt.style]
        shown[concept.name] = _sprites().get((concept.noun, family or ""))
    for noun in prompt.known:
        drawings = [sprite for sprite in load_sprites("train") if sprite.noun == noun]
        shown[noun] = drawings[int(rng.integers(len(drawings)))]
    first = prompt.relation[0] if prompt.relation is not None else None
    ordered = [shown[name] for name in sorted(shown, key=lambda name: name != first)]
    found = [sprite for sprite in ordered if sprite is not None]
    return found if len(found) == len(ordered) else None


def known_place(word: str, rng: np.random.Generator, side_px: int) -> Pixels:
    """A background (side, side, 3) of that word, of what the built-in model was taught: a crop of a training
    photograph or drawn anew.
    """
    photos = [photo for photo in load_photos("train") if photo.label == word]
    if photos and (word not in DRAWN or rng.random() < 0.5):
        return photo_crop(photos[int(rng.integers(len(photos)))], rng, side_px)
    return DRAWN[word](rng, side_px)


@cache
def _sprites() -> Mapping[tuple[str, str], Sprite]:
    return {(sprite.noun, sprite.family): sprite for role in ROLES for sprite in load_sprites(role)}
