"""A report from units made by hand: which tables, curves and grids it holds, in which order, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bare_scores import BARE
from conceptloom.backbone import Backbone
from conceptloom.evaluation.assembly import (
    COVERAGE,
    Findings,
    build_report,
    cost_table,
    image_tables,
    parts_report_table,
    parts_split_table,
    set_results,
)
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.image_tables import OTHER_SEED, Judged
from conceptloom.evaluation.image_view import ConceptScore
from conceptloom.evaluation.margins import Margin
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.parts import PartGroup, PartRow
from conceptloom.evaluation.plan import MASKS, QUICK, SMOKE, Size
from conceptloom.evaluation.report import Measured, Report, Table, load_report, save_report
from conceptloom.evaluation.statistics import Interval, clopper_pearson
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult
from conceptloom.pictures import square_frame_mask

SIDE = 64
"""Of the tiny base model's pictures."""
SIZE = Size(sets=3, seeds=1, image_sets=3, margin_sets=0, prompts=2, images=1, shown=2)
METHODS: tuple[MethodName, ...] = ("gt", "fixed", "paper")
OVERALL: Mapping[str, float] = {"gt": 0.9, "fixed": 0.4, "paper": 0.7, "words": 0.1}
FACTS = {"Base model": "tiny", "Judge": "planted"}


@cache
def benchmark() -> Benchmark:
    """Two subjects on a photograph, one on a pattern, and a set of two pictures."""
    return builtin_benchmark("dev", 3, side_px=SIDE)


def colour(method: MethodName, prompt: int, index: int) -> npt.NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), (60 * METHODS.index(method), 10 * prompt, 40 * index), np.uint8)


def half(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Every other row of them: half of the true pixels, and none that is wrong."""
    cut = masks.copy()
    cut[:, ::2] = False
    return cut


@cache
def unit(one: BenchmarkSet, method: MethodName, seed: int = 0, variant: str = "") -> UnitResult:
    """True masks by `gt` and, in the end, by `paper`; every other row by `fixed` and, at first, by `paper`."""
    records = []
    for step in (0,) if method in ("gt", "fixed") else (0, 20):
        for picture in one.pictures:
            names = one.contains[picture.name]
            truth = np.stack([square_frame_mask(picture.masks[name], SIDE) for name in names])
            masks = truth if method == "gt" or step else half(truth)
            maps = np.rint(255 * masks[:, ::8, ::8]).astype(np.uint8)
            records.append(MaskRecord(step, picture.name, names, masks, maps, (), ()))
    drawn = [0, 1, *range(len(one.prompts), len(one.prompts) + len(one.shown))]
    images = {(prompt, index): colour(method, prompt, index) for prompt in drawn for index in range(2)}
    seconds = {"learn": 3000.0, "draw": 600.0}
    if variant == MASKS:
        images, seconds = {}, {"learn": 3000.0, "draw": 0.0}
    return UnitResult(
        UnitKey(one.name, method, seed, variant), tuple(records), images, seconds, None, {"tau": 0.35}
    )


def units(methods: Sequence[MethodName] = METHODS, variant: str = "") -> tuple[UnitResult, ...]:
    return tuple(unit(one, method, 0, variant) for one in benchmark().sets for method in methods)


def score(
    scene: str, method: str, prompt: int = 0, overall: float | None = None, seed: int = 0
) -> ImageScore:
    subject = next(one for one in benchmark().sets if one.name == scene).subjects[0]
    return replace(
        BARE,
        concepts=(ConceptScore(subject, 0.5, True, 0, {}, None, None),),
        set=scene,
        method=method,
        seed=seed,
        prompt=prompt,
        memorisation=0.1,
        overall=OVERALL[method] if overall is None else overall,
    )


def judged(methods: Sequence[str] = METHODS, margin: float | None = 0.1) -> Judged:
    """Scores that say gt > paper > fixed of every image, and the same of `paper`'s other seed."""
    scenes = [one.name for one in benchmark().sets]
    compared = tuple(
        score(scene, method, prompt) for scene in scenes for method in methods for prompt in (0, 1)
    )
    again = tuple(replace(one, seed=1) for one in compared if one.method == "paper")
    return Judged(compared, again, (), None if margin is None else of_dev(margin), 6)


def of_dev(value: float) -> Margin:
    return Margin(value=value, benchmark="builtin", split="dev", sets=3, pairs=6)


def findings(**changes: object) -> Findings:
    given = Findings(benchmark(), METHODS, SIZE, units())
    return replace(given, **changes)  # type: ignore[arg-type]


def keys(tables: Sequence[Table]) -> list[str]:
    return [table.key for table in tables]


def named(tables: Sequence[Table], key: str) -> Table:
    return next(table for table in tables if table.key == key)


def cell(table: Table, label: str, column: str) -> object:
    row = next(row for row in table.rows if row.label == label)
    found = row.cells[table.columns.index(column)]
    return found.value if isinstance(found, Measured) else found


@pytest.fixture(scope="module")
def bare(tiny_backbone: Backbone) -> Report:
    """What nobody judged."""
    return build_report(findings(), tiny_backbone, FACTS)


@pytest.fixture(scope="module")
def whole(tiny_backbone: Backbone) -> Report:
    """What somebody judged."""
    return build_report(findings(judged=judged()), tiny_backbone, FACTS)


# Tables of images


def test_without_a_judge_there_is_no_table_of_images() -> None:
    assert image_tables(findings()) == ()


def test_without_an_image_there_is_no_table_of_images() -> None:
    assert image_tables(findings(judged=Judged((), (), (), of_dev(0.1), 6))) == ()


def test_forced_choice_comes_before_the_metrics() -> None:
    found = image_tables(findings(judged=judged()))
    assert keys(found) == [
        "table-1",
        "table-1-split",
        "rivals",
        "images",
        "image-changes",
        "image-changes-split",
        "identity-split",
        "images-split",
        "prompt-kinds",
    ]


def test_without_a_margin_nothing_is_chosen() -> None:
    found = image_tables(findings(judged=judged(margin=None)))
    assert not {"table-1", "table-1-split", "rivals"} & {*keys(found)}
    assert keys(found)[:2] == ["images", "image-changes"]


def test_without_the_baseline_our_method_still_meets_the_others_and_itself() -> None:
    found = image_tables(findings(methods=("gt", "paper"), judged=judged(("gt", "paper"))))
    assert keys(found)[0] == "rivals"
    assert [row.label for row in found[0].rows] == ["paper against gt", f"paper against {OTHER_SEED}"]


def test_without_our_method_nothing_is_chosen() -> None:
    found = image_tables(findings(methods=("gt", "fixed"), judged=judged(("gt", "fixed"))))
    assert keys(found) == ["images", "identity-split", "images-split", "prompt-kinds"]


def test_methods_stand_in_the_order_asked_for_and_without_those_that_drew_nothing() -> None:
    asked = findings(methods=("words", "paper", "inversion", "gt"), judged=judged(("gt", "paper", "words")))
    assert named(image_tables(asked), "prompt-kinds").columns == ("words", "paper", "gt", "scenes")


def test_planted_scores_come_back_as_means_and_votes() -> None:
    found = image_tables(findings(judged=judged()))
    for method in METHODS:
        assert cell(named(found, "images"), "overall", method) == pytest.approx(OVERALL[method])
    assert cell(named(found, "table-1"), "paper: automatic judge, 1 x margin", "ours") == 1
    assert cell(named(found, "rivals"), "paper against gt", "rival") == 1
    assert cell(named(found, "rivals"), f"paper against {OTHER_SEED}", "neutral") == 1


def test_the_judge_votes_on_what_a_study_for_people_is_made_from_too() -> None:
    table = named(image_tables(findings(judged=judged(), study="random")), "table-1")
    assert cell(table, "paper, protocol random: automatic judge, 1 x margin", "votes") == 3 * 2
    again = named(image_tables(findings(judged=judged())), "table-1")
    assert not [row.label for row in again.rows if "protocol" in row.label]


def test_images_are_averaged_over_the_sets_of_which_every_method_drew() -> None:
    one, other, _ = benchmark().sets
    compared = (
        score(one.name, "fixed", overall=0.25),
        score(one.name, "paper", overall=0.5),
        score(other.name, "paper", overall=1.0),
    )
    found = image_tables(findings(judged=Judged(compared, (), (), of_dev(0.1), 6)))
    assert cell(named(found, "images"), "overall", "paper") == 0.5
    assert cell(named(found, "prompt-kinds"), BARE.kind, "paper") == 0.5


def test_without_a_set_of_which_every_method_drew_there_are_no_means() -> None:
    one, other, _ = benchmark().sets
    compared = (score(one.name, "fixed"), score(other.name, "paper"))
    assert image_tables(findings(judged=Judged(compared, (), (), of_dev(0.1), 6))) == ()


# Table "Parts"

PAPER = PartRow(
    name="paper",
    title="paper",
    run="paper",
    subjects=Interval(0.8, 0.7, 0.9),
    places=Interval(0.6, 0.5, 0.7),
    subjects_change=None,
    places_change=None,
    subject_masks=4,
    place_masks=2,
    scenes=2,
    updates=100,
    rescues=3,
    collapsed=1,
    seconds=1234.6,
    work=7200.0,
    stages=4,
    images={"identity": Interval(0.5, 0.4, 0.6)},
)
NO_CRF = replace(
    PAPER,
    name="no-crf",
    title="no CRF",
    run="no-crf",
    work=1800.0,
    subjects_change=Interval(-0.2, -0.3, -0.1),
    places=None,
    stages=3,
    images={},
)


def test_a_row_of_the_parts_holds_its_numbers_under_their_heads() -> None:
    table = parts_report_table([PAPER, NO_CRF])
    told = {
        "subjects": 0.8,
        "less paper": -0.2,
        "backgrounds": None,
        "refused": 3,
        "of": 100,
        "collapsed": 1,
        "scenes": 2,
        "seconds": 1235,
        "stages": 3,
    }
    assert {column: cell(table, "no CRF", column) for column in told} == told


def test_the_note_of_the_parts_tells_the_hours_of_all_runs_each_once() -> None:
    at_end = replace(NO_CRF, name="crf-at-end", title="CRF only at the end")
    assert "took 2.5 hours of one worker" in parts_report_table([PAPER, NO_CRF, at_end]).note


def test_differences_to_paper_stand_behind_what_they_are_of() -> None:
    table = parts_report_table([replace(NO_CRF, places_change=Interval(0.1, 0.0, 0.2))])
    changes = [
        found
        for column, found in zip(table.columns, table.rows[0].cells, strict=True)
        if column == "less paper"
    ]
    assert changes == [Measured(value=-0.2, low=-0.3, high=-0.1), Measured(value=0.1, low=0.0, high=0.2)]


def test_image_columns_are_those_that_some_part_has() -> None:
    assert parts_report_table([NO_CRF]).columns[-1] == "stages"
    table = parts_report_table([NO_CRF, PAPER])
    assert table.columns[-1] == "identity"
    assert cell(table, "no CRF", "identity") is None
    assert table.rows[1].cells[-1] == Measured(value=0.5, low=0.4, high=0.6)


def test_masks_of_the_parts_stand_by_group_under_each_other() -> None:
    novel = PartGroup(Interval(0.4, 0.3, 0.5), Interval(-0.2, -0.3, -0.1), 3, 2)
    paper = replace(PAPER, groups={"one picture": replace(novel, change=None)})
    table = parts_split_table([paper, replace(NO_CRF, groups={"one picture": novel, "novel nouns": novel})])
    assert table is not None
    assert [row.label for row in table.rows] == [
        "one picture: paper",
        "one picture: no CRF",
        "novel nouns: no CRF",
    ]
    assert table.rows[2].cells == (
        Measured(value=0.4, low=0.3, high=0.5),
        Measured(value=-0.2, low=-0.3, high=-0.1),
        3,
        2,
    )
    assert table.rows[0].cells[1] is None


def test_parts_without_a_group_have_no_table_of_groups() -> None:
    assert parts_split_table([PAPER, NO_CRF]) is None


# Units by set


def test_sets_stand_in_the_benchmarks_order_with_the_first_seed_of_each_method() -> None:
    one, other, missing = benchmark().sets
    results = (unit(other, "paper"), unit(one, "paper", 1), unit(one, "fixed"), unit(missing, "paper", 1))
    found = set_results(findings(results=results), SIDE)
    assert [(each.one.name, sorted(each.units)) for each in found] == [
        (one.name, ["fixed"]),
        (other.name, ["paper"]),
    ]


def test_where_paper_did_not_run_the_figures_are_of_refined() -> None:
    one = benchmark().sets[0]
    refined = replace(unit(one, "paper"), key=UnitKey(one.name, "refined", 0))
    told = [set_results(findings(results=results), SIDE)[0].ours for results in ((refined,), units())]
    assert told == ["refined", "paper"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_unit_that_drew_images_goes_before_one_that_did_not(order: int) -> None:
    one = benchmark().sets[0]
    results = (unit(one, "paper", 0, MASKS), unit(one, "paper"))[::order]
    (found,) = set_results(findings(results=results), SIDE)
    assert found.units["paper"].key.variant == ""


# Cost


def test_cost_is_the_mean_of_a_unit_and_the_sum_of_all() -> None:
    table = cost_table(findings())
    row = next(row for row in table.rows if row.label == "paper: learn and draw")
    images = sum(len(one.images) for one in units(("paper",)))
    assert row.cells == (3, 3000, 600, images, "3.00")


def test_units_that_only_learned_masks_and_smoke_runs_stand_apart() -> None:
    results = (*units(("paper",)), *units(("fixed",), MASKS), *units(("gt",), QUICK))
    table = cost_table(findings(results=results))
    assert [row.label for row in table.rows] == [
        "gt: smoke run",
        "fixed: masks only",
        "paper: learn and draw",
    ]
    assert cell(table, "fixed: masks only", "images") == 0
    assert cell(table, "fixed: masks only", "hours in all") == "2.50"


# The report


def test_a_report_without_a_judge_holds_masks_pictures_and_cost(bare: Report) -> None:
    assert keys(bare.tables) == [
        "masks",
        "mask-changes",
        "mask-changes-split",
        "masks-split",
        "mask-failures",
        "mask-failures-split",
        "cost",
    ]
    assert [curves.key for curves in bare.curves] == ["figure-3", "figure-3-boundary"]
    assert bare.kind == "evidence"


def test_a_report_is_partial_while_a_run_is_missing_and_a_smoke_run_stays_one() -> None:
    assert findings(missing=1).kind == "partial"
    assert findings(missing=1, size=SMOKE).kind == "smoke"


def test_masks_are_averaged_over_the_runs_that_every_method_finished(tiny_backbone: Backbone) -> None:
    one, other, _ = benchmark().sets
    results = (unit(one, "fixed"), unit(one, "paper"), unit(other, "paper"), unit(one, "paper", 1))
    report = build_report(findings(results=results), tiny_backbone, FACTS)
    alone = build_report(findings(results=results[:2]), tiny_backbone, FACTS)
    assert named(report.tables, "masks") == named(alone.tables, "masks")
    assert report.curves == alone.curves
    assert cell(named(report.tables, "mask-failures"), "paper", "runs") == 3


def test_a_run_that_diverged_is_counted_with_its_reason_and_shown_nowhere(tiny_backbone: Backbone) -> None:
    one, other, third = benchmark().sets
    reason = "the loss is no longer finite at EM step 9"
    failed = replace(unit(other, "paper"), masks=(), images={}, diverged=reason)
    done = (unit(one, "fixed"), unit(one, "paper"), unit(other, "fixed"), failed, unit(third, "fixed"))
    report = build_report(findings(results=done), tiny_backbone, FACTS)
    expected = clopper_pearson(1, 2)
    assert cell(named(report.tables, "mask-failures"), "paper", "diverged") == expected.value
    assert report.facts["Diverged"] == f"1 of 5 runs; the first, {failed.key.folder_name}: {reason}"
    assert cell(named(report.tables, "cost"), "paper: learn and draw", "units") == 2


def test_runs_that_diverged_are_counted_where_no_mask_has_a_truth(tiny_backbone: Backbone) -> None:
    one = benchmark().sets[0]
    failed = replace(unit(one, "gt"), masks=(), images={}, diverged="not finite")
    report = build_report(findings(methods=("gt",), results=(failed,)), tiny_backbone, FACTS)
    assert cell(named(report.tables, "mask-failures"), "gt", "diverged") == 1


def test_how_runs_fail_is_told_where_no_mask_has_a_truth(tiny_backbone: Backbone) -> None:
    sets = tuple(
        replace(one, pictures=tuple(replace(picture, masks={}) for picture in one.pictures))
        for one in benchmark().sets
    )
    bare = findings(benchmark=Benchmark("folder", "own", sets), results=units(("fixed", "paper")))
    report = build_report(bare, tiny_backbone, FACTS)
    assert keys(report.tables) == ["mask-failures", "mask-failures-split", "cost"]
    assert cell(named(report.tables, "mask-failures"), "paper", "runs") == 3


def test_a_mask_without_a_truth_collapses_too(tiny_backbone: Backbone) -> None:
    one = benchmark().sets[0]
    name, *others = one.contains[one.pictures[0].name]
    picture = replace(one.pictures[0], masks={other: one.pictures[0].masks[other] for other in others})
    records = tuple(replace(record, collapsed=(name,)) for record in unit(one, "paper").masks)
    report = build_report(
        findings(
            benchmark=Benchmark("folder", "own", (replace(one, pictures=(picture,)),)),
            results=(replace(unit(one, "paper"), masks=records),),
        ),
        tiny_backbone,
        FACTS,
    )
    assert cell(named(report.tables, "mask-failures"), "paper", "collapsed") == 1


def test_without_a_run_that_every_method_finished_masks_have_no_means(tiny_backbone: Backbone) -> None:
    one, other, _ = benchmark().sets
    report = build_report(findings(results=(unit(one, "fixed"), unit(other, "paper"))), tiny_backbone, FACTS)
    assert keys(report.tables) == ["mask-changes", "mask-failures", "mask-failures-split", "cost"]
    assert report.curves == ()


def test_a_judge_adds_tables_of_images_and_the_worst_of_them(bare: Report, whole: Report) -> None:
    added = [table.key for table in whole.tables if table.key not in keys(bare.tables)]
    assert added == keys(image_tables(findings(judged=judged())))
    grids = [grid.key for grid in bare.grids]
    assert [grid.key for grid in whole.grids if grid.key not in grids] == ["worst-images"]


def test_figures_stand_in_the_papers_order(bare: Report) -> None:
    figures = [grid.key for grid in bare.grids if grid.key.startswith("figure-")]
    assert figures[:4] == ["figure-1", "figure-2", "figure-4", "figure-5"]
    assert figures == sorted(figures)


def test_without_sets_of_two_pictures_the_strip_comes_first(tiny_backbone: Backbone) -> None:
    alone = tuple(one for one in units() if one.key.set != "dev-002")
    report = build_report(findings(results=alone), tiny_backbone, FACTS)
    assert [grid.key for grid in report.grids][:2] == ["figure-2", "figure-4"]


def test_masks_are_scored_from_the_units(bare: Report) -> None:
    table = named(bare.tables, "masks")
    assert cell(table, "subjects: paper", "IoU") == 1.0
    assert cell(table, "subjects: fixed", "IoU") == pytest.approx(0.5, abs=0.05)


def test_every_mask_that_was_found_can_be_looked_up(bare: Report) -> None:
    last = {
        (mask.set, mask.picture, mask.concept, mask.method): (mask.steps[-1], mask.iou[-1])
        for mask in bare.masks
    }
    wanted = {
        (one.name, picture.name, name, method)
        for one in benchmark().sets
        for picture in one.pictures
        for name in one.contains[picture.name]
        for method in ("fixed", "paper")
    }
    assert set(last) == wanted
    assert {found for (*_, method), found in last.items() if method == "paper"} == {(20, 1.0)}


def test_true_masks_are_not_scored_against_themselves(bare: Report) -> None:
    assert not [row.label for row in named(bare.tables, "masks").rows if row.label.endswith(": gt")]


def test_masks_that_are_found_once_are_a_flat_line_and_others_a_curve(bare: Report) -> None:
    lines = {line.label: line for line in bare.curves[0].panels[0].lines}
    assert [line.label for line in bare.curves[0].panels[0].lines] == ["paper", "fixed", "oracle", "trivial"]
    assert lines["paper"].mean == pytest.approx((lines["fixed"].mean[0], 1.0))
    assert lines["fixed"].is_flat
    assert lines["oracle"].is_flat
    assert lines["trivial"].is_flat


def test_methods_that_find_masks_once_alone_are_reported_too(tiny_backbone: Backbone) -> None:
    report = build_report(findings(methods=("fixed",), results=units(("fixed",))), tiny_backbone, FACTS)
    lines = report.curves[0].panels[0].lines
    assert [(line.label, line.steps) for line in lines] == [
        ("fixed", (0,)),
        ("oracle", (0,)),
        ("trivial", (0,)),
    ]


def test_methods_without_masks_alone_leave_no_table_and_no_curve_of_masks(tiny_backbone: Backbone) -> None:
    words = tuple(
        UnitResult(
            UnitKey(one.name, "words", 0), (), {(0, 0): colour("gt", 0, 0)}, {"learn": 0.0, "draw": 1.0}
        )
        for one in benchmark().sets
    )
    report = build_report(findings(methods=("words",), results=words), tiny_backbone, FACTS)
    assert keys(report.tables) == ["cost"]
    assert report.curves == ()


def test_parts_stand_before_the_cost(tiny_backbone: Backbone) -> None:
    report = build_report(findings(parts=(PAPER, NO_CRF)), tiny_backbone, FACTS)
    assert keys(report.tables)[-2:] == ["parts", "cost"]


def test_facts_are_kept_and_the_work_is_added(bare: Report) -> None:
    images = sum(len(one.images) for one in units())
    assert bare.facts == {
        **FACTS,
        "Work": f"9 units, {images} images, 9.0 worker hours",
        "Intervals": COVERAGE,
    }


def test_a_smoke_run_is_marked(tiny_backbone: Backbone) -> None:
    results = units(("paper",), QUICK)
    report = build_report(findings(methods=("paper",), size=SMOKE, results=results), tiny_backbone, FACTS)
    assert report.kind == "smoke"


def test_every_picture_of_every_grid_is_in_the_report_and_no_other(whole: Report) -> None:
    shown = {tile.picture for grid in whole.grids for row in grid.rows for tile in row.tiles}
    assert shown - {None} == set(whole.pictures)


def test_a_report_that_is_built_twice_is_the_same(whole: Report, tiny_backbone: Backbone) -> None:
    assert build_report(findings(judged=judged()), tiny_backbone, FACTS) == whole


def test_the_order_of_the_units_does_not_change_the_report(whole: Report, tiny_backbone: Backbone) -> None:
    backwards = findings(judged=judged(), results=units()[::-1])
    assert build_report(backwards, tiny_backbone, FACTS) == whole


def test_a_report_comes_back_from_its_file(whole: Report, tmp_path: Path) -> None:
    save_report(whole, tmp_path / "report.json")
    assert load_report(tmp_path / "report.json") == whole
