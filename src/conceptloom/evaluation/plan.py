"""What an evaluation runs: which units, in which order, and what each draws.

Every set is learned by every method. The first `image_sets` go the whole way at the first seed and draw images; the
others, and all further seeds, stop where masks stop changing, for the curves need no more. `paper`, or `refined` where
`paper` is not compared, goes the whole way at one more seed: what two seeds of one method differ by is the neutral
margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conceptloom.evaluation.benchmark import PROMPT_KINDS, Benchmark, BenchmarkSet
from conceptloom.evaluation.methods import FINDS_ONCE, MethodName, finds_masks, our_method
from conceptloom.evaluation.units import UnitKey

MASKS = "masks"
"""Variant of the units that stop after stage 3."""
QUICK = "quick"
"""Variant of all units of a smoke run."""
SHOWN_PROMPT = 1
"""Number of the prompt that is drawn more often, for the figure of diverse images: an interaction."""

# Plain dictionaries: tasks are sent to other processes.
_SMOKE: Mapping[str, Any] = {"em_steps": 40, "joint_steps": 6, "prior_images": 2}


@dataclass(frozen=True)
class Size:
    """How much an evaluation runs.

    Attributes:
        sets: sets whose masks are measured.
        seeds: seeds of the masks: 0, 1, ...
        image_sets: the first of them draw images.
        margin_sets: the first of those draw with `our_method` at a second seed, for the neutral margin.
        prompts: the first prompts of a set are drawn.
        images: images per prompt that are measured.
        shown: images of `SHOWN_PROMPT`; those beyond `images` are looked at, not measured.
        smoke: short runs, which show that all works and measure nothing.
    """

    sets: int = 40
    seeds: int = 3
    image_sets: int = 20
    margin_sets: int = 10
    prompts: int = 10
    images: int = 2
    shown: int = 8
    smoke: bool = False


FULL = Size()
STUDIES: Mapping[str, Size] = {
    "random": Size(images=6),
    "coco": Size(sets=60, image_sets=60, prompts=20, images=8),
}
"""For the paper's two protocols, which need as many images as people are to compare. 60 scenes of benchmark `coco` are
the paper's 120 concepts; two share a scene's 20 prompts.
"""
SMOKE = Size(
    sets=4, seeds=1, image_sets=4, margin_sets=1, prompts=len(PROMPT_KINDS), images=2, shown=3, smoke=True
)
"""The least that has something for every figure and table: a prompt of each kind, two images of it, one set twice."""


@dataclass(frozen=True)
class Task:
    """One unit to run: its key, how many images of which prompts it draws, and changed switches."""

    key: UnitKey
    draws: Mapping[int, int]
    overrides: Mapping[str, Any]

    @property
    def images(self) -> int:
        """Images it draws."""
        return sum(self.draws.values())


def comparison_plan(benchmark: Benchmark, methods: Sequence[MethodName], size: Size) -> tuple[Task, ...]:
    """The tasks of the comparison of methods, those with images first.

    Sets and methods alternate, so that an evaluation stopped halfway has compared something.
    """
    sets = benchmark.sets[: size.sets]
    drawing = sets[: size.image_sets]
    tasks = [whole_task(one, method, 0, size) for one in drawing for method in methods]
    ours = our_method(methods)
    if ours is not None:
        tasks += [whole_task(one, ours, 1, size) for one in drawing[: size.margin_sets]]
    done = {(task.key.set, task.key.method, task.key.seed) for task in tasks}
    finding = [method for method in methods if finds_masks(method)]
    for seed in range(size.seeds):
        for one in sets:
            for method in finding:
                if (one.name, method, seed) not in done:
                    tasks.append(mask_task(one, method, seed, size))
    return tuple(tasks)


def whole_task(one: BenchmarkSet, method: MethodName, seed: int, size: Size) -> Task:
    """A unit that goes through all stages and draws."""
    measured = range(min(size.prompts, len(one.prompts)))
    looked_at = range(len(one.prompts), len(one.prompts) + len(one.shown))
    draws = dict.fromkeys([*measured, *looked_at], size.images)
    if SHOWN_PROMPT in measured:
        draws[SHOWN_PROMPT] = max(size.images, size.shown)
    if size.smoke:
        overrides = {} if method == "words" else dict(_SMOKE)
        return Task(UnitKey(one.name, method, seed, QUICK), draws, overrides)
    return Task(UnitKey(one.name, method, seed), draws, {})


def mask_task(one: BenchmarkSet, method: MethodName, seed: int, size: Size) -> Task:
    """A unit that stops where its masks stop changing, and draws nothing."""
    to_masks = {"joint_steps": 0, "em_steps": 0} if method in FINDS_ONCE else {"joint_steps": 0}
    if size.smoke:
        return Task(UnitKey(one.name, method, seed, QUICK), {}, {**_SMOKE, **to_masks})
    return Task(UnitKey(one.name, method, seed, MASKS), {}, to_masks)
