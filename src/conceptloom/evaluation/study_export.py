"""From an evaluation's images to a study for people: the comparisons of one of the paper's two protocols."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt
from conceptloom.evaluation.protocols import Pair, Protocol, draw_pairs, matched_pairs
from conceptloom.evaluation.study_bundle import Comparison, Reference
from conceptloom.evaluation.units import UnitResult

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
    mine, theirs = _by_pair(sets, ours, protocol), _by_pair(sets, baseline, protocol)
    drawn = draw_pairs(matched_pairs(mine, theirs), protocol, seed)
    found = []
    for pair in drawn:
        one = sets[pair.scene]
        prompt = next(prompt for prompt in one.prompts if prompt.text == pair.prompt)
        found.append(Comparison(pair, mine[pair], theirs[pair], references_of(one, prompt)))
    return found


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


def _by_pair(
    sets: dict[str, BenchmarkSet], units: Sequence[UnitResult], protocol: Protocol
) -> dict[Pair, npt.NDArray[np.uint8]]:
    images = {}
    for unit in units:
        one = sets[unit.key.set]
        # A study of concepts counts prompts by concept, one of scenes by scene.
        subjects = _counted_by(one) if protocol.concepts is not None else [one.name] * len(one.prompts)
        for (number, index), pixels in unit.images.items():
            if number < len(one.prompts):
                pair = Pair(one.name, subjects[number], one.prompts[number].text, unit.key.seed, index)
                images[pair] = pixels
    return images


def _counted_by(one: BenchmarkSet) -> list[str]:
    """The subject that each prompt counts for: the first it asks for; those that ask for none go to each in turn."""
    names = [subject.name for subject in one.subjects] or [one.name]
    turns = cycle(names)
    return [
        next((name for name in prompt.asked if name in names), None) or next(turns) for prompt in one.prompts
    ]
