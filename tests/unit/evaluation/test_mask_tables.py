"""Tables and curves of masks, from scores that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, ConceptSplit, TrueConcept
from conceptloom.evaluation.mask_metrics import MaskScore
from conceptloom.evaluation.mask_scores import ScoredMask
from conceptloom.evaluation.mask_tables import (
    change_split_table,
    change_table,
    failure_split_table,
    failure_table,
    mask_curves,
    mask_histories,
    mask_table,
    split_table,
)
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.report import Measured, Table, measured
from conceptloom.evaluation.statistics import clopper_pearson, cluster_bootstrap
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult
from conceptloom.pictures import Picture

BLANK = np.zeros((8, 8, 3), np.uint8)


def concept(name: str, split: ConceptSplit = "instance") -> TrueConcept:
    kind = "background" if split == "place" else "subject"
    return TrueConcept(name, name, kind, name, None if split == "place" else "noto", split, "thing")  # type: ignore[arg-type]


CAT, DOG, PLACE = concept("cat"), concept("dog", "novel noun"), concept("shore", "place")


def one_set(name: str, *pictures: str) -> BenchmarkSet:
    contains = dict.fromkeys(pictures, ("cat", "dog", "shore"))
    made = tuple(Picture(picture, None, BLANK) for picture in pictures)
    return BenchmarkSet(name, made, (CAT, DOG, PLACE), contains, (), "photo")


BENCHMARK = Benchmark("b", "dev", (one_set("a", "a1"), one_set("b", "b1", "b2")))


def mask(
    scene: str,
    what: TrueConcept,
    iou: float,
    step: int = 0,
    method: str = "paper",
    seed: int = 0,
) -> ScoredMask:
    score = MaskScore(iou, iou / 2, iou == 0, False, False)
    return ScoredMask(scene, method, "", seed, f"{scene}1", what, step, score)


def record(
    step: int = 0, picture: str = "only", rescued: tuple[str, ...] = (), collapsed: tuple[str, ...] = ()
) -> MaskRecord:
    return MaskRecord(step, picture, ("cat", "dog"), np.zeros((2, 8, 8), np.bool_), None, rescued, collapsed)


def run(
    scene: str,
    *records: MaskRecord,
    method: MethodName = "paper",
    seed: int = 0,
    diverged: str | None = None,
) -> UnitResult:
    return UnitResult(UnitKey(scene, method, seed), records, {}, {}, diverged=diverged)


def failures(
    runs: Sequence[UnitResult],
    methods: Sequence[MethodName] = ("paper",),
    swaps: Mapping[str, Sequence[tuple[str, bool]]] = MappingProxyType({}),
) -> Table:
    table = failure_table(runs, methods, swaps)
    assert table is not None
    return table


def split_failures(
    runs: Sequence[UnitResult], swaps: Mapping[str, Sequence[tuple[str, bool]]] = MappingProxyType({})
) -> Table:
    table = failure_split_table(runs, BENCHMARK, ["paper"], swaps)
    assert table is not None
    return table


def cell(table: Table, label: str, column: str) -> object:
    row = next(row for row in table.rows if row.label == label)
    return row.cells[table.columns.index(column)]


def value(table: Table, label: str, column: str) -> float:
    found = cell(table, label, column)
    assert isinstance(found, Measured)
    assert found.value is not None
    return found.value


def test_the_mask_table_holds_last_masks_with_subjects_and_backgrounds_apart() -> None:
    table = mask_table(
        [mask("a", CAT, 0.2), mask("a", CAT, 0.6, 20), mask("b", DOG, 0.4), mask("a", PLACE, 0.9)], ["paper"]
    )
    assert value(table, "subjects: paper", "IoU") == pytest.approx(0.5)
    assert value(table, "subjects: paper", "boundary IoU") == pytest.approx(0.25)
    assert value(table, "backgrounds: paper", "IoU") == pytest.approx(0.9)


def test_the_mask_table_counts_masks_and_empty_ones() -> None:
    table = mask_table([mask("a", CAT, 0.0), mask("b", DOG, 0.4)], ["paper"])
    assert (cell(table, "subjects: paper", "masks"), cell(table, "subjects: paper", "empty")) == (2, 1)


def test_the_mask_table_says_over_how_many_nouns_or_scenes_its_intervals_are() -> None:
    masks = [mask("a", CAT, 0.2), mask("b", CAT, 0.6), mask("b", DOG, 0.4)]
    places = [mask(scene, PLACE, 0.9) for scene in ("a", "b")]
    table = mask_table([*masks, *places, mask("a", CAT, 0.2, seed=1)], ["paper"])
    assert (cell(table, "subjects: paper", "masks"), cell(table, "subjects: paper", "resampled")) == (4, 2)
    assert cell(table, "backgrounds: paper", "resampled") == 2


def test_the_change_over_em_is_the_last_less_the_first() -> None:
    scored = [mask("a", CAT, 0.2), mask("a", CAT, 0.5, 20), mask("b", CAT, 0.3), mask("b", CAT, 0.4, 20)]
    table = change_table(scored, ["paper"])
    assert value(table, "paper: last masks less its first", "subjects") == pytest.approx(0.2)


def test_methods_are_compared_on_the_masks_that_both_have() -> None:
    scored = [mask("a", CAT, 0.5), mask("a", CAT, 0.3, method="fixed"), mask("b", CAT, 0.9, method="fixed")]
    table = change_table(scored, ["fixed", "paper"])
    assert value(table, "paper less fixed, at the end", "subjects") == pytest.approx(0.2)


def test_every_method_is_compared_with_each_named_before_it() -> None:
    scores = {"fixed": 0.2, "paper": 0.5, "refined": 0.9}
    table = change_table([mask("a", CAT, iou, method=name) for name, iou in scores.items()], list(scores))
    found = {row.label: value(table, row.label, "subjects") for row in table.rows}
    assert found == pytest.approx(
        {
            "paper less fixed, at the end": 0.3,
            "refined less fixed, at the end": 0.7,
            "refined less paper, at the end": 0.4,
        }
    )


def test_changes_say_over_how_many_scenes_they_are() -> None:
    scored = [
        mask(scene, CAT, iou, method=method)
        for method, iou in (("fixed", 0.3), ("paper", 0.5))
        for scene in ("a", "b")
    ]
    table = change_table([*scored, mask("a", PLACE, 0.9)], ["fixed", "paper"])
    cells = table.rows[0].cells
    assert [cells[at] for at, name in enumerate(table.columns) if name == "scenes"] == [2, 0]
    assert cells[table.columns.index("backgrounds")] is None


def test_changes_are_told_by_boundary_too() -> None:
    scored = [mask("a", CAT, 0.3, method="fixed"), mask("a", CAT, 0.5)]
    table = change_table(scored, ["fixed", "paper"])
    assert value(table, "paper less fixed, at the end", "subjects, boundary") == pytest.approx(0.1)


def test_changes_are_split_by_what_is_learned() -> None:
    ious = {"fixed": (0.1, 0.2, 0.9), "paper": (0.5, 0.3, 0.6)}
    scored = [
        mask("a", what, iou, method=method)
        for method, values in ious.items()
        for what, iou in zip((CAT, DOG, PLACE), values, strict=True)
    ]
    table = change_split_table(scored, BENCHMARK, ["fixed", "paper"])
    label = "paper less fixed, at the end"
    assert table.columns == (label,)
    found = {row.label: value(table, row.label, label) for row in table.rows}
    assert found["IoU: instances of known nouns"] == pytest.approx(0.4)
    assert found["IoU: novel nouns"] == pytest.approx(0.1)
    assert found["IoU: background: photograph"] == pytest.approx(-0.3)
    assert found["IoU: one picture"] == pytest.approx(0.25)
    assert found["boundary IoU: one picture"] == pytest.approx(0.125)
    assert "IoU: two pictures" not in found


def test_split_changes_resample_nouns() -> None:
    ious = {"fixed": (0.1, 0.2), "paper": (0.5, 0.3)}
    scored = [
        mask("a", what, iou, method=method)
        for method, values in ious.items()
        for what, iou in zip((CAT, DOG), values, strict=True)
    ]
    table = change_split_table(scored, BENCHMARK, ["fixed", "paper"])
    expected = measured(cluster_bootstrap([0.5 - 0.1, 0.3 - 0.2], ["cat", "dog"]))
    assert cell(table, "IoU: one picture", "paper less fixed, at the end") == expected


def test_the_split_table_leaves_out_groups_without_masks() -> None:
    table = split_table([mask("a", CAT, 0.5)], BENCHMARK, ["paper"])
    labels = {row.label for row in table.rows}
    assert "IoU: one picture" in labels
    assert "IoU: novel nouns" not in labels
    assert value(table, "IoU: one picture", "paper") == 0.5


def test_the_split_table_tells_boundaries_too() -> None:
    table = split_table([mask("a", CAT, 0.5), mask("b", CAT, 0.1)], BENCHMARK, ["paper"])
    assert value(table, "boundary IoU: one picture", "paper") == pytest.approx(0.25)
    assert value(table, "boundary IoU: two pictures", "paper") == pytest.approx(0.05)


def test_a_run_counts_once_however_many_of_its_masks_collapsed() -> None:
    table = failures([run("a", record(collapsed=("cat", "dog"))), run("b", record())])
    assert value(table, "paper", "collapsed") == 0.5
    assert cell(table, "paper", "runs") == 2


def test_a_run_that_collapsed_in_one_of_its_pictures_did() -> None:
    collapsed, whole = record(picture="first", collapsed=("cat",)), record(picture="second")
    assert value(failures([run("a", collapsed, whole)]), "paper", "collapsed") == 1


def test_seeds_of_a_scene_are_resampled_together_in_the_table_of_failures() -> None:
    table = failures(
        [
            run(scene, record(collapsed=("cat",) if scene == "a" else ()), seed=seed)
            for scene in ("a", "b")
            for seed in (0, 1, 2)
        ]
    )
    assert cell(table, "paper", "collapsed") == measured(cluster_bootstrap([1.0, 0.0], ["a", "b"]))
    assert (cell(table, "paper", "runs"), cell(table, "paper", "scenes")) == (6, 2)


@pytest.mark.parametrize("collapsed", [(), ("cat",)])
def test_what_happened_to_no_scene_or_to_all_is_bounded_by_the_number_of_scenes(
    collapsed: tuple[str, ...],
) -> None:
    runs = [run(scene, record(collapsed=collapsed), seed=seed) for scene in ("a", "b") for seed in (0, 1, 2)]
    expected = measured(clopper_pearson(2 if collapsed else 0, 2))
    assert cell(failures(runs), "paper", "collapsed") == expected


def test_rescues_on_the_way_are_told_apart_from_runs_that_end_on_one() -> None:
    table = failures([run("a", record(rescued=("cat",)), record(20))])
    assert value(table, "paper", "ends rescued") == 0
    assert cell(table, "paper", "rescues") == 1


def test_exchanged_masks_are_a_share_of_pictures() -> None:
    table = failures([run("a", record())], swaps={"paper": [("a", True), ("b", False)]})
    assert value(table, "paper", "swapped") == 0.5


def test_runs_that_diverged_are_a_share_of_all_runs_and_stand_there_without_masks_too() -> None:
    runs = [
        run("a", record()),
        run("b", diverged="not finite"),
        run("a", method="inversion", diverged="not finite"),
    ]
    table = failures(runs, ["paper", "inversion"])
    assert [row.label for row in table.rows] == ["paper", "inversion"]
    expected = cluster_bootstrap([0.0, 1.0], ["a", "b"])
    told = Measured(value=expected.value, low=expected.low, high=expected.high)
    assert (cell(table, "paper", "diverged"), cell(table, "paper", "runs")) == (told, 1)
    assert (value(table, "inversion", "diverged"), cell(table, "inversion", "runs")) == (1, 0)


def test_true_masks_that_are_handed_over_cannot_fail() -> None:
    handed_over = [run("a", record(), method="gt")]
    assert failure_table(handed_over, ["gt"], {}) is None
    assert failure_split_table(handed_over, BENCHMARK, ["gt"], {}) is None


def test_failures_are_split_by_whose_masks_they_are() -> None:
    table = split_failures([run("a", record(rescued=("cat",), collapsed=("dog",))), run("b", record())])
    told = {
        title: (value(table, f"paper: {title}", "collapsed"), cell(table, f"paper: {title}", "rescues"))
        for title in ("instances of known nouns", "novel nouns", "one picture", "background: photograph")
    }
    assert told == {
        "instances of known nouns": (0, 1),
        "novel nouns": (0.5, 0),
        "one picture": (1, 1),
        "background: photograph": (0, 0),
    }


def test_split_failures_are_over_the_runs_and_scenes_that_have_the_group() -> None:
    table = split_failures([run(scene, record(), seed=seed) for scene in ("a", "b") for seed in (0, 1)])
    for title, scenes in (("novel nouns", 2), ("one picture", 1), ("two pictures", 1)):
        counts = tuple(cell(table, f"paper: {title}", column) for column in ("runs", "scenes"))
        assert counts == (2 * scenes, scenes)
    expected = measured(clopper_pearson(0, 1))
    assert cell(table, "paper: one picture", "collapsed") == expected


def test_exchanged_masks_count_where_subjects_of_the_set_belong() -> None:
    table = split_failures([run("a", record()), run("b", record())], {"paper": [("a", True), ("b", False)]})
    assert value(table, "paper: one picture", "swapped") == 1
    assert value(table, "paper: novel nouns", "swapped") == 0.5
    assert cell(table, "paper: background: photograph", "swapped") is None


def test_runs_that_diverged_count_in_the_groups_of_what_they_should_have_learned() -> None:
    table = split_failures([run("a", record()), run("b", diverged="not finite")])
    assert value(table, "paper: two pictures", "diverged") == 1
    assert value(table, "paper: one picture", "diverged") == 0


def test_curves_stand_by_first_subject_other_subjects_and_background() -> None:
    scored = [
        mask(scene, what, iou, step)
        for scene in ("a", "b")
        for step in (0, 20)
        for what, iou in ((CAT, 0.1 + step / 100), (DOG, 0.5), (PLACE, 0.9))
    ]
    first, other, place = mask_curves(scored, BENCHMARK, ["paper"], []).panels
    assert first.lines[0].mean == pytest.approx((0.1, 0.3))
    assert other.lines[0].mean == pytest.approx((0.5, 0.5))
    assert place.lines[0].mean == pytest.approx((0.9, 0.9))


def test_the_history_of_a_concept_in_a_picture_is_kept_for_every_run() -> None:
    scored = [
        mask("a", CAT, 0.6, 20),
        mask("a", CAT, 0.2),
        mask("a", CAT, 0.5, seed=1),
        mask("b", DOG, 1 / 3),
    ]
    first, again, other = mask_histories(scored)
    assert (first.set, first.picture, first.concept, first.method) == ("a", "a1", "cat", "paper")
    assert (first.steps, first.iou, first.boundary_iou) == ((0, 20), (0.2, 0.6), (0.1, 0.3))
    assert (again.seed, again.iou) == (1, (0.5,))
    assert (other.concept, other.iou, other.boundary_iou) == ("dog", (0.3333,), (0.1667,))


def test_a_long_history_is_thinned_evenly_and_keeps_its_ends() -> None:
    (history,) = mask_histories([mask("a", CAT, step / 1000, step) for step in range(401)])
    assert history.steps == tuple(range(0, 401, 20))
    assert history.iou[-1] == 0.4


def test_curves_of_boundaries_are_a_figure_of_their_own() -> None:
    scored = [mask("a", CAT, 0.2), mask("a", CAT, 0.4, 20), mask("a", CAT, 0.3, method="fixed")]
    curves = mask_curves(scored, BENCHMARK, ["paper"], ["fixed"], "boundary IoU")
    moving, flat = curves.panels[0].lines
    assert (moving.mean, flat.mean) == ((0.1, 0.2), (0.15, 0.15))
    assert (curves.key, curves.y_label) == ("figure-3-boundary", "mask boundary IoU")


def test_a_flat_line_reaches_the_last_step_at_its_only_value() -> None:
    scored = [mask("a", CAT, 0.1), mask("a", CAT, 0.4, 20), mask("a", CAT, 0.3, method="fixed")]
    lines = mask_curves(scored, BENCHMARK, ["paper"], ["fixed"]).panels[0].lines
    assert (lines[1].label, lines[1].steps, lines[1].mean) == ("fixed", (0, 20), (0.3, 0.3))


def test_a_curve_over_one_scene_has_no_band() -> None:
    line = mask_curves([mask("a", CAT, 0.1)], BENCHMARK, ["paper"], []).panels[0].lines[0]
    assert line.low is None


def test_where_no_mask_moves_each_method_is_a_single_value() -> None:
    lines = mask_curves([mask("a", CAT, 0.3, method="fixed")], BENCHMARK, [], ["fixed"]).panels[0].lines
    assert (lines[0].steps, lines[0].mean) == ((0,), (0.3,))


def test_the_seeds_of_flat_lines_count_and_those_of_the_framing_rows_do_not() -> None:
    scored = [
        *(mask("a", CAT, 0.3, method="fixed", seed=seed) for seed in (1, 2)),
        mask("a", CAT, 0.9, method="oracle"),
    ]
    assert "over 2 seeds" in mask_curves(scored, BENCHMARK, [], ["fixed", "oracle"]).note
