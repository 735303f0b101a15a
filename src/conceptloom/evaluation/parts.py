"""Table "Parts": what each part of the method is worth, one switch changed at a time, against `paper`.

Rows about masks stop after stage 3, where masks stop changing; rows whose switch acts on the weights go through
stage 4 and draw what the comparison of methods draws. A row that changes nothing is `paper`'s own unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.groups import groups_of
from conceptloom.evaluation.mask_scores import (
    ScoredMask,
    mask_pairs,
    mask_rows,
    paired_difference,
    paired_difference_by_noun,
    scored_masks,
)
from conceptloom.evaluation.methods import method_config
from conceptloom.evaluation.plan import Size, Task, whole_task
from conceptloom.evaluation.statistics import Interval
from conceptloom.evaluation.units import MaskRecord, UnitResult, has_unit, load_unit
from conceptloom.learning import LearnConfig
from conceptloom.learning.e_step import collapsed
from conceptloom.masks import DenseCRF, update_masks
from conceptloom.pictures import square_frame

FAMILY = "builtin"
"""Of the base model whose preset decides which rows change nothing."""


@dataclass(frozen=True)
class Part:
    """One row: its name (the variant of its units), its title, the changed switches, whether it draws images."""

    name: str
    title: str
    overrides: Mapping[str, Any]
    generates: bool = False


PAPER = Part("paper", "paper", {}, generates=True)
CRF_AT_END = Part("crf-at-end", "CRF only at the end", {"crf": {"iterations": 0}})
"""Its run is that without the CRF; see `refined_at_end`."""

PARTS: tuple[Part, ...] = (
    PAPER,
    Part("no-crf", "no CRF", {"crf": {"iterations": 0}}),
    CRF_AT_END,
    Part("no-eq4", "no Eq. 4", {"lambda_attn": 0.0}),
    Part("no-mask", "no mask in Eq. 3", {"mask_loss_norm": "none"}),
    *(
        Part(f"timesteps-{count}", f"initial timesteps: {count}", {"initial_timesteps": count})
        for count in (1, 10, 50)
    ),
    *(Part(f"tau-{tau}", f"threshold: {tau}", {"tau": tau}) for tau in (0.3, 0.4, 0.5)),
    Part("layers-up_16", "layers: up path, 16x16", {"layers": "up_16"}),
    *(
        Part(f"start-{start}", f"tokens start from: {start}", {"initializer": start})
        for start in ("word", "random", "inversion")
    ),
    *(
        Part(f"weights-{when}", f"weights: {when}", {"weights": when}, generates=True)
        for when in ("end", "alternate")
    ),
    *(
        Part(f"joint-{what}", f"joint stage: {what}", {"train": what}, generates=True)
        for what in ("tokens", "full", "lora", "kv")
    ),
    *(
        Part(f"every-{period}", f"mask update every: {period}", {"mask_update_every": period})
        for period in (1, 5, 20, 50, 100)
    ),
)


@dataclass(frozen=True, eq=False)
class PartMasks:
    """What the runs of one part left.

    Attributes:
        scored: the final masks.
        scenes: how many runs there are, one a scene.
        updates: masks that all mask updates of all runs made, stage 2 included.
        rescues: how many of them were refused.
        collapsed: scenes whose last masks hold an empty, full or doubled one.
        seconds: mean wall time of learning a scene.
        work: seconds that all runs took, learning and drawing.
    """

    scored: tuple[ScoredMask, ...]
    scenes: int
    updates: int
    rescues: int
    collapsed: int
    seconds: float
    work: float


@dataclass(frozen=True)
class PartGroup:
    """A part's final masks of one group of concepts; intervals resample nouns.

    Attributes:
        iou: mean.
        change: IoU less that of `paper`, mask by mask; None for `paper` itself.
        masks: how many there are.
        clusters: over how many nouns, or scenes where all is of one noun, `iou` is.
    """

    iou: Interval
    change: Interval | None
    masks: int
    clusters: int


@dataclass(frozen=True)
class PartRow:
    """One row of the table.

    Attributes:
        name: the part's.
        title: the part's.
        run: name of the part whose runs these are (`run_of`).
        subjects: mean IoU of the subjects' final masks, resampled by noun; None where there is none.
        places: the same of backgrounds and patterns.
        subjects_change: IoU less that of `paper`, mask by mask, resampled by scene; None for `paper` itself.
        places_change: the same of backgrounds and patterns.
        subject_masks: how many masks `subjects` is the mean of.
        place_masks: the same of `places`.
        scenes, updates, rescues, collapsed, seconds, work: see `PartMasks`.
        stages: after which its runs ended, 3 or 4: what `seconds` is the time of.
        images: scores of the images it drew, by metric; empty where nothing was drawn.
        groups: its final masks by group of concepts (`groups_of`); those that have some.
    """

    name: str
    title: str
    run: str
    subjects: Interval | None
    places: Interval | None
    subjects_change: Interval | None
    places_change: Interval | None
    subject_masks: int
    place_masks: int
    scenes: int
    updates: int
    rescues: int
    collapsed: int
    seconds: float
    work: float
    stages: int
    images: Mapping[str, Interval] = field(default_factory=dict)
    groups: Mapping[str, PartGroup] = field(default_factory=dict)


def run_of(part: Part) -> Part:
    """The part whose units hold this one's run: the first whose switches make the same configuration."""
    config = method_config(FAMILY, "paper", 0, part.overrides)
    return next(other for other in PARTS if method_config(FAMILY, "paper", 0, other.overrides) == config)


def part_task(part: Part, one: BenchmarkSet, size: Size) -> Task:
    """The unit that holds the part's run on a set, at the first seed."""
    held = run_of(part)
    whole = whole_task(one, "paper", 0, size)
    if held == PAPER:
        return whole
    key = replace(whole.key, variant=held.name)
    overrides = {**whole.overrides, **held.overrides}
    return (
        Task(key, whole.draws, overrides)
        if held.generates
        else Task(key, {}, {**overrides, "joint_steps": 0})
    )


def parts_plan(benchmark: Benchmark, size: Size) -> tuple[Task, ...]:
    """The tasks of the table, each unit once, on the sets that draw images in the comparison, set by set.

    `paper`'s are the comparison's own.
    """
    tasks = [part_task(part, one, size) for one in _sets(benchmark, size) for part in PARTS]
    return tuple({task.key: task for task in tasks}.values())


def refined_at_end(one: BenchmarkSet, result: UnitResult, config: LearnConfig) -> tuple[MaskRecord, ...]:
    """Final masks of a run without the CRF, refined by it once: its last attention, cut at `tau`, then the DenseCRF.

    The rescue rules hold: where a refined mask is refused, the run's own last one stays.

    Args:
        one: the run's set.
        result: a unit that keeps the attention behind its masks.
        config: the mask rules and the CRF's numbers are read.

    Returns:
        A record per picture, at its last one's step.

    Raises:
        ValueError: the unit's masks do not come from attention.
    """
    records = []
    for picture in one.pictures:
        last = result.masks_at(picture.name)
        if last.maps is None:
            raise ValueError(f"the masks of '{picture.name}' do not come from attention: nothing to refine")
        crf = DenseCRF(square_frame(picture.pixels, last.masks.shape[-1]), config.crf.crf_config())
        maps = last.maps.astype(np.float32)
        update = update_masks(maps, crf, config.mask_rules, last.masks, len(last.concepts) > 1)
        records.append(
            replace(
                last,
                masks=update.masks,
                rescued=tuple(np.asarray(last.concepts)[update.rescued].tolist()),
                collapsed=tuple(last.concepts[index] for index in collapsed(update.masks)),
            )
        )
    return tuple(records)


def part_masks(
    part: Part, benchmark: Benchmark, results: Iterable[UnitResult], config: LearnConfig
) -> PartMasks:
    """Score the final masks of a part over scenes, and count what happened on the way.

    Args:
        part: which.
        benchmark: holds the units' sets.
        results: the units of its run, one a scene; they are looked at one after the other.
        config: of `paper`, for the CRF at the end.

    Raises:
        ValueError: no unit.
    """
    sets = {one.name: one for one in benchmark.sets}
    scored: list[ScoredMask] = []
    updates = rescues = num_collapsed = 0
    seconds, work = [], 0.0
    for result in results:
        one = sets[result.key.set]
        if part == CRF_AT_END:
            result = replace(result, masks=(*result.masks, *refined_at_end(one, result, config)))
        final = result.last_masks
        scored += scored_masks(one, replace(result, masks=final))
        updates += sum(len(record.masks) for record in result.masks)
        rescues += sum(len(record.rescued) for record in result.masks)
        num_collapsed += any(record.collapsed for record in final)
        seconds.append(result.seconds["learn"])
        work += sum(result.seconds.values())
    if not seconds:
        raise ValueError(f"part '{part.name}' has no unit to look at: run it first")
    return PartMasks(tuple(scored), len(seconds), updates, rescues, num_collapsed, fmean(seconds), work)


def parts_table(
    benchmark: Benchmark,
    size: Size,
    units: Path,
    config: LearnConfig,
    images: Mapping[str, Mapping[str, Interval]] = MappingProxyType({}),
) -> list[PartRow]:
    """The rows of the table, over the units that are done and did not diverge; a part that has none has no row.

    Args:
        benchmark: the sets, with true masks.
        size: as `parts_plan` took it.
        units: folder of the finished units.
        config: of `paper`.
        images: scores of drawn images by metric, by the name of the part whose units drew them (`run_of`).

    Raises:
        DataError: a unit is damaged.
    """
    found: dict[str, PartMasks] = {}

    def masks_of(part: Part) -> PartMasks | None:
        name = part.name if part == CRF_AT_END else run_of(part).name
        if name not in found:
            tasks = [part_task(part, one, size) for one in _sets(benchmark, size)]
            done = [task for task in tasks if has_unit(task.key, units)]
            left = _loaded(done, units)
            if (first := next(left, None)) is None:
                return None
            found[name] = part_masks(part, benchmark, chain([first], left), config)
        return found[name]

    paper = masks_of(PAPER)
    rows = []
    for part in PARTS:
        masks = masks_of(part)
        if masks is not None:
            drawn = images.get(run_of(part).name, {}) if part.generates else {}
            compared = None if run_of(part) == PAPER else paper
            row = part_row(part, masks, compared, drawn)
            rows.append(replace(row, groups=part_groups(benchmark, masks, compared)))
    return rows


def part_row(
    part: Part,
    masks: PartMasks,
    paper: PartMasks | None,
    images: Mapping[str, Interval] = MappingProxyType({}),
) -> PartRow:
    """A part's row; `paper` is what it is compared with, None for nothing."""
    rows = mask_rows(masks.scored, _is_place)
    subjects, places = rows.get(False), rows.get(True)
    return PartRow(
        name=part.name,
        title=part.title,
        run=run_of(part).name,
        subjects=subjects.iou if subjects else None,
        places=places.iou if places else None,
        subjects_change=_change(masks, paper, lambda mask: not mask.is_place),
        places_change=_change(masks, paper, _is_place),
        subject_masks=subjects.masks if subjects else 0,
        place_masks=places.masks if places else 0,
        scenes=masks.scenes,
        updates=masks.updates,
        rescues=masks.rescues,
        collapsed=masks.collapsed,
        seconds=masks.seconds,
        work=masks.work,
        stages=4 if run_of(part).generates else 3,
        images=dict(images),
    )


def part_groups(benchmark: Benchmark, masks: PartMasks, paper: PartMasks | None) -> dict[str, PartGroup]:
    """A part's masks in every group of the benchmark that has some; `paper` as in `part_row`."""
    sets = {one.name: one for one in benchmark.sets}
    theirs = () if paper is None else paper.scored
    found = {}
    for title, belongs in groups_of(benchmark):
        mine = [mask for mask in masks.scored if belongs(sets[mask.set], mask.concept)]
        for row in mask_rows(mine, lambda mask: mask.method).values():  # of a single method
            change = paired_difference_by_noun(mine, theirs) if mask_pairs(mine, theirs) else None
            found[title] = PartGroup(row.iou, change, row.masks, row.clusters)
    return found


def _sets(benchmark: Benchmark, size: Size) -> tuple[BenchmarkSet, ...]:
    return benchmark.sets[: size.image_sets]


def _loaded(tasks: Iterable[Task], units: Path) -> Iterator[UnitResult]:
    for task in tasks:
        unit = load_unit(task.key, units)
        if unit.diverged is None:
            yield unit


def _is_place(mask: ScoredMask) -> bool:
    return mask.is_place


def _change(
    masks: PartMasks, paper: PartMasks | None, where: Callable[[ScoredMask], bool]
) -> Interval | None:
    """None where the two share no mask."""
    if paper is None:
        return None
    theirs = {mask.pair for mask in paper.scored}
    mine = [mask for mask in masks.scored if where(mask) and mask.pair in theirs]
    return paired_difference(mine, paper.scored) if mine else None
