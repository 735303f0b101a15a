"""Masks of units against the truth: one score per picture, concept and step, and the rows and curves made of them.

Scores are taken in the model's square frame, at its side: the truth is brought there once, by area.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import BenchmarkSet, TrueConcept
from conceptloom.evaluation.groups import clusters
from conceptloom.evaluation.mask_metrics import MaskScore, score_mask, swapped
from conceptloom.evaluation.statistics import Interval, cluster_bootstrap, paired_cluster_bootstrap
from conceptloom.evaluation.units import MaskRecord, UnitResult
from conceptloom.pictures import square_frame_mask

Measure = Literal["IoU", "boundary IoU"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""How the fit of a mask is told."""


@dataclass(frozen=True)
class ScoredMask:
    """One mask of one concept in one picture after one step, with all that tables split by."""

    set: str
    method: str
    variant: str
    seed: int
    picture: str
    concept: TrueConcept
    step: int
    score: MaskScore

    @property
    def is_place(self) -> bool:
        """Whether it is a background or pattern; those stand apart in every table."""
        return self.concept.kind != "subject"

    @property
    def pair(self) -> tuple[str, int, str, str]:
        """What two methods' masks must have in common to be compared."""
        return self.set, self.seed, self.picture, self.concept.name

    def fit(self, measure: Measure) -> float:
        """How well it fits the true mask, 0..1."""
        return self.score.iou if measure == "IoU" else self.score.boundary_iou


@dataclass(frozen=True)
class MaskRow:
    """Mean IoU and boundary IoU of a group of masks, over how many `clusters`, and how many are empty or full."""

    masks: int
    clusters: int
    iou: Interval
    boundary_iou: Interval
    empty: int
    full: int

    def fit(self, measure: Measure) -> Interval:
        """The mean of a measure."""
        return self.iou if measure == "IoU" else self.boundary_iou


def scored_masks(one: BenchmarkSet, result: UnitResult) -> list[ScoredMask]:
    """Every mask of a unit whose truth is known, in the order of steps, pictures and concepts."""
    truths = _framed_truths(one, result.masks)
    key = result.key
    return [
        ScoredMask(
            key.set,
            key.method,
            key.variant,
            key.seed,
            record.picture,
            one.concept(name),
            record.step,
            score_mask(mask, truths[record.picture, name]),
        )
        for record in result.masks
        for name, mask in zip(record.concepts, record.masks, strict=True)
        if (record.picture, name) in truths
    ]


def swapped_pictures(one: BenchmarkSet, result: UnitResult) -> dict[str, bool]:
    """By picture with two true subject masks or more, whether subjects have changed places in the final masks."""
    truths = _framed_truths(one, result.masks)
    found = {}
    for picture in {record.picture for record in result.masks}:
        final = result.masks_at(picture)
        subjects = [
            index
            for index, name in enumerate(final.concepts)
            if one.concept(name).kind == "subject" and (picture, name) in truths
        ]
        if len(subjects) > 1:
            truth = np.stack([truths[picture, final.concepts[index]] for index in subjects])
            found[picture] = swapped(final.masks[subjects], truth)
    return found


def final_masks(scored: Iterable[ScoredMask]) -> list[ScoredMask]:
    """Of every run, picture and concept, the mask it ended with."""
    last: dict[Hashable, ScoredMask] = {}
    for mask in sorted(scored, key=lambda mask: mask.step):
        last[(mask.method, mask.variant, *mask.pair)] = mask
    return list(last.values())


def first_masks(scored: Iterable[ScoredMask]) -> list[ScoredMask]:
    """Of every run, picture and concept, the mask it began with."""
    first: dict[Hashable, ScoredMask] = {}
    for mask in sorted(scored, key=lambda mask: mask.step):
        first.setdefault((mask.method, mask.variant, *mask.pair), mask)
    return list(first.values())


def mask_rows(
    scored: Iterable[ScoredMask], group: Callable[[ScoredMask], Hashable]
) -> dict[Hashable, MaskRow]:
    """A row for every value of `group`, resampled by `groups.clusters`."""
    groups: dict[Hashable, list[ScoredMask]] = defaultdict(list)
    for mask in scored:
        groups[group(mask)].append(mask)
    return {name: _row(masks) for name, masks in groups.items()}


def paired_difference(
    first: Iterable[ScoredMask], second: Iterable[ScoredMask], measure: Measure = "IoU"
) -> Interval:
    """Mean fit of `first` less `second` over the masks that both have, resampled by scene.

    Raises:
        ValueError: they have none in common.
    """
    pairs = mask_pairs(first, second)
    return _difference(pairs, [mask.set for mask, _ in pairs], measure)


def paired_difference_by_noun(
    first: Iterable[ScoredMask], second: Iterable[ScoredMask], measure: Measure = "IoU"
) -> Interval:
    """As `paired_difference`, resampled by `groups.clusters`."""
    pairs = mask_pairs(first, second)
    return _difference(pairs, clusters((mask.set, mask.concept) for mask, _ in pairs), measure)


def mask_pairs(
    first: Iterable[ScoredMask], second: Iterable[ScoredMask]
) -> list[tuple[ScoredMask, ScoredMask]]:
    """The masks of `first` that `second` has too, each with that one."""
    others = {mask.pair: mask for mask in second}
    return [(mask, others[mask.pair]) for mask in first if mask.pair in others]


def _difference(
    pairs: Sequence[tuple[ScoredMask, ScoredMask]], sources: Sequence[str], measure: Measure
) -> Interval:
    if not pairs:
        raise ValueError("the two share no mask to compare")
    return paired_cluster_bootstrap(
        [mask.fit(measure) for mask, _ in pairs], [other.fit(measure) for _, other in pairs], sources
    )


def mean_curves(
    scored: Sequence[ScoredMask], measure: Measure = "IoU"
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Fit by step: the steps (T,), and one curve per scene (S, T), the mean over its seeds, pictures and concepts.

    `scored` are masks of one method; where a run has no mask at a step its last one before holds.
    """
    steps = sorted({mask.step for mask in scored})
    runs: dict[tuple[str, int, str, str], dict[int, float]] = defaultdict(dict)
    for mask in scored:
        runs[mask.pair][mask.step] = mask.fit(measure)
    scenes: dict[str, list[list[float]]] = defaultdict(list)
    for (scene, *_), values in runs.items():
        scenes[scene].append(_held(values, steps))
    curves = [np.mean(rows, axis=0) for _, rows in sorted(scenes.items())]
    return steps, np.asarray(curves, np.float64)


def _held(values: dict[int, float], steps: Sequence[int]) -> list[float]:
    held, curve = values[min(values)], []
    for step in steps:
        held = values.get(step, held)
        curve.append(held)
    return curve


def _row(masks: Sequence[ScoredMask]) -> MaskRow:
    sources = clusters((mask.set, mask.concept) for mask in masks)
    return MaskRow(
        len(masks),
        len(set(sources)),
        cluster_bootstrap([mask.score.iou for mask in masks], sources),
        cluster_bootstrap([mask.score.boundary_iou for mask in masks], sources),
        sum(mask.score.empty_prediction for mask in masks),
        sum(mask.score.full_prediction for mask in masks),
    )


def _framed_truths(
    one: BenchmarkSet, records: Sequence[MaskRecord]
) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    if not records:
        return {}
    side = records[0].masks.shape[-1]
    return {
        (picture.name, name): square_frame_mask(mask, side)
        for picture in one.pictures
        for name, mask in picture.masks.items()
    }
