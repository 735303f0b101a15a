"""From an evaluation's images to a study for people: the comparisons of one of the paper's two protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt
from conceptloom.evaluation.image_tables import Place
from conceptloom.evaluation.protocols import Pair, Protocol, draw_pairs, matched_pairs
from conceptloom.evaluation.study_bundle import Comparison, Reference
from conceptloom.evaluation.units import UnitResult

POPULATION_SEED = 0
"""Of the draw of a population: no secret, so that the automatic judge votes on the pairs that people are shown some of.
"""
UNMARKED = 0.35
"""Brightness that is left of what a reference does not show."""


def study_comparisons(
    benchmark: Benchmark,
    ours: Sequence[UnitResult],
    baseline: Sequence[UnitResult],
    protocol: Protocol,
    seed: int,
) -> list[Comparison]:
    """A protocol's population of comparisons from the measured images of two methods.

    Args:
        benchmark: holds the units' sets.
        ours: units of our method at one seed.
        baseline: units of the baseline at the same seed.
        protocol: how many concepts, prompts and images are drawn.
        seed: of that draw.

    Raises:
        ConfigError: an image has no counterpart.
    """
    sets = {one.name: one for one in benchmark.sets}
    pair_of = _pairs(benchmark, protocol)
    mine, theirs = (
        {
            pair: pixels
            for unit in units
            for (number, index), pixels in unit.images.items()
            if (pair := pair_of(unit.key.set, number, index, unit.key.seed)) is not None
        }
        for units in (ours, baseline)
    )
    drawn = draw_pairs(matched_pairs(mine, theirs), protocol, seed)
    found = []
    for pair in drawn:
        one = sets[pair.scene]
        prompt = next(prompt for prompt in one.prompts if prompt.text == pair.prompt)
        found.append(Comparison(pair, mine[pair], theirs[pair], references_of(one, prompt)))
    return found


def population(
    benchmark: Benchmark, places: Iterable[Place], protocol: Protocol, seed: int
) -> frozenset[Place]:
    """A protocol's population, as `study_comparisons` draws it, by the places of its images.

    Args:
        benchmark: holds the sets.
        places: of the images that both methods drew at the first seed.
        protocol: how many concepts, prompts and images are drawn.
        seed: of that draw.
    """
    pair_of = _pairs(benchmark, protocol)
    found = {pair: place for place in places if (pair := pair_of(*place, 0)) is not None}
    return frozenset(found[pair] for pair in draw_pairs(found, protocol, seed))


def references_of(one: BenchmarkSet, prompt: TestPrompt) -> tuple[Reference, ...]:
    """For every concept that the prompt names, the first picture with a true mask of it, all else darkened.

    A concept that has none is shown by the first picture that holds it, as it is.
    """
    return tuple(Reference(name, one.concept(name).kind, _marked(one, name)) for name in prompt.asked)


def _marked(one: BenchmarkSet, name: str) -> npt.NDArray[np.uint8]:
    pictures = one.pictures_with(name)
    for picture in pictures:
        mask = picture.masks.get(name)
        if mask is not None and mask.any():
            return np.where(
                mask[..., None], picture.pixels, np.rint(picture.pixels * UNMARKED).astype(np.uint8)
            )
    return pictures[0].pixels


def _pairs(benchmark: Benchmark, protocol: Protocol) -> Callable[[str, int, int, int], Pair | None]:
    """What the protocol counts an image as, by set, prompt, image and seed; None for one that is not measured."""
    sets = {one.name: one for one in benchmark.sets}
    # A study of concepts counts prompts by concept, one of scenes by scene.
    subjects = {
        one.name: _counted_by(one) if protocol.concepts is not None else [one.name] * len(one.prompts)
        for one in benchmark.sets
    }

    def pair_of(scene: str, number: int, index: int, seed: int) -> Pair | None:
        prompts = sets[scene].prompts
        if number >= len(prompts) or index >= protocol.images_per_prompt:
            return None
        return Pair(scene, subjects[scene][number], prompts[number].text, seed, index)

    return pair_of


def _counted_by(one: BenchmarkSet) -> list[str]:
    """The subject that each prompt counts for: the first it asks for; those that ask for none go to each in turn."""
    names = [subject.name for subject in one.subjects] or [one.name]
    turns = cycle(names)
    return [
        next((name for name in prompt.asked if name in names), None) or next(turns) for prompt in one.prompts
    ]
