"""The table of the method's parts: what runs, whose unit a row is, and what its masks say."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conceptloom.backbone import Backbone
from conceptloom.concepts.storage import is_plain_name
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.methods import method_config
from conceptloom.evaluation.parts import (
    CRF_AT_END,
    PAPER,
    PARTS,
    Part,
    part_groups,
    part_masks,
    part_row,
    part_task,
    parts_plan,
    parts_table,
    refined_at_end,
    run_of,
)
from conceptloom.evaluation.plan import MASKS, QUICK, SMOKE, Size, comparison_plan, whole_task
from conceptloom.evaluation.statistics import Interval
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult, run_unit, save_unit
from conceptloom.masks import DenseCRF, normalise_by_maximum, resize_maps, threshold, update_masks
from conceptloom.pictures import Picture, square_frame, square_frame_mask
from tiny_sets import tiny_benchmark_set

SIZE = Size(sets=3, seeds=1, image_sets=2, margin_sets=0, prompts=2, images=2, shown=3)
CONFIG = method_config("builtin", "paper", 0)
ONE = tiny_benchmark_set()
SIDE = 32


def part(name: str) -> Part:
    return next(one for one in PARTS if one.name == name)


def benchmark(count: int = 3) -> Benchmark:
    return Benchmark("own", "dev", tuple(replace(ONE, name=f"set-{index}") for index in range(count)))


# What runs


def test_names_are_distinct_plain_and_no_variant_of_the_comparison() -> None:
    names = [one.name for one in PARTS]
    assert len(set(names)) == len(names)
    assert all(is_plain_name(name) and " " not in name for name in names)
    assert not {MASKS, QUICK, ""} & set(names)


@pytest.mark.parametrize("family", ["builtin", "sd"])
def test_a_row_is_of_the_unit_of_the_same_configuration(family: str) -> None:
    for one in PARTS:
        own, held = (method_config(family, "paper", 0, which.overrides) for which in (one, run_of(one)))
        assert own == held, one.name


def test_rows_that_change_nothing_are_papers_own_units() -> None:
    same = {one.name for one in PARTS if run_of(one) == PAPER}
    assert same == {"paper", "timesteps-50", "start-word", "weights-end", "joint-full", "every-20"}


def test_the_crf_at_the_end_needs_no_run_of_its_own() -> None:
    assert run_of(CRF_AT_END).name == "no-crf"


def test_papers_units_are_the_comparisons() -> None:
    compared = comparison_plan(benchmark(), ("paper",), SIZE)
    papers = [task for task in parts_plan(benchmark(), SIZE) if task.key.variant == ""]
    assert papers == [task for task in compared if task.images]


def test_only_rows_of_the_joint_stage_and_of_the_weights_go_on_and_draw_what_the_comparison_draws() -> None:
    tasks = [task for task in parts_plan(benchmark(), SIZE) if task.key.set == "set-0"]
    whole = whole_task(benchmark().sets[0], "paper", 0, SIZE)
    drawing = {task.key.variant: task.draws for task in tasks if task.images}
    assert drawing == dict.fromkeys(
        ["", "weights-alternate", "joint-tokens", "joint-lora", "joint-kv"], whole.draws
    )
    for task in tasks:
        config = method_config("builtin", "paper", 0, task.overrides)
        assert config.joint_steps == (CONFIG.joint_steps if task.images else 0), task.key.variant


def test_every_unit_is_planned_once_on_the_sets_that_draw_and_can_be_sent_to_a_worker() -> None:
    tasks = parts_plan(benchmark(), SIZE)
    runs = {run_of(one).name for one in PARTS}
    assert len({task.key for task in tasks}) == len(tasks) == 2 * len(runs)
    assert {task.key.set for task in tasks} == {"set-0", "set-1"}
    for task in tasks:
        assert ForkingPickler.loads(ForkingPickler.dumps(task)) == task


def test_a_row_changes_its_switch_and_no_other() -> None:
    for one in PARTS:
        task = part_task(one, ONE, SIZE)
        config = method_config("builtin", "paper", 0, task.overrides).model_dump()
        changed = {key for key, value in CONFIG.model_dump().items() if config[key] != value}
        # the joint stage's rate follows what it trains
        assert changed <= {*one.overrides, "joint_steps", "joint_lr"}, one.name


def test_a_smoke_run_of_the_parts_is_short() -> None:
    for task in parts_plan(benchmark(), SMOKE):
        config = method_config("builtin", "paper", 0, task.overrides)
        assert (config.em_steps, config.joint_steps <= 6) == (40, True)


def test_a_run_that_stops_after_stage_three_has_the_masks_of_one_that_goes_on(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    short: dict[str, Any] = {
        "em_steps": 2,
        "mask_update_every": 1,
        "initial_timesteps": 2,
        "e_step_timesteps": 1,
        "prior_images": 1,
        "sample_steps": 1,
        "crf": {"iterations": 1},
    }
    left = []
    for joint_steps in (0, 2):
        overrides = {**short, "joint_steps": joint_steps}
        *_, result = run_unit(
            UnitKey("one", "paper", 0), ONE, tiny_backbone, tmp_path / "scratch", overrides=overrides
        )
        assert isinstance(result, UnitResult)
        left.append(result.masks)
    for stopped, gone_on in zip(*left, strict=True):
        np.testing.assert_array_equal(stopped.masks, gone_on.masks)


# The CRF switched off, and taken at the end


def disc_maps(seed: int = 0) -> npt.NDArray[np.float32]:
    """Attention (2, 8, 8) to the red square and to what is around it, with noise."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((8, 8), np.float32)
    inside[2:6, 2:6] = 1.0
    return (np.stack([inside, 1 - inside]) + rng.random((2, 8, 8)) * 0.5).astype(np.float32)


def frame() -> npt.NDArray[np.uint8]:
    return square_frame(ONE.pictures[0].pixels, SIDE)


def test_no_iteration_of_the_crf_leaves_the_thresholded_masks() -> None:
    config = method_config("builtin", "paper", 0, part("no-crf").overrides)
    maps = disc_maps()
    update = update_masks(maps, DenseCRF(frame(), config.crf.crf_config()), config.mask_rules, None, True)
    expected = threshold(normalise_by_maximum(resize_maps(maps, SIDE)), config.tau)
    assert not update.rescued.any()
    np.testing.assert_array_equal(update.masks, expected)


def unit(
    masks: npt.NDArray[np.bool_],
    maps: npt.NDArray[np.uint8] | None = None,
    *,
    name: str = "one",
    step: int = 400,
    rescued: tuple[str, ...] = (),
    collapsed: tuple[str, ...] = (),
    seconds: float = 10.0,
    variant: str = "",
) -> UnitResult:
    """A unit with first masks that are empty, and the last ones given: (2, side, side) of the pet and the place."""
    names = ("pet", "place")
    first = MaskRecord(0, "first", names, np.zeros_like(masks), maps, ("pet",), ())
    last = MaskRecord(step, "first", names, masks, maps, rescued, collapsed)
    key = UnitKey(name, "paper", 0, variant)
    return UnitResult(key, (first, last), {}, {"learn": seconds, "draw": 1000.0})


def true_masks() -> npt.NDArray[np.bool_]:
    masks = ONE.pictures[0].masks
    return np.stack([square_frame_mask(masks[name], SIDE) for name in ("pet", "place")])


def test_the_crf_at_the_end_refines_the_last_attention_as_one_mask_update_would() -> None:
    maps = np.rint(255 * normalise_by_maximum(disc_maps())).astype(np.uint8)
    result = unit(true_masks(), maps, step=40)
    (record,) = refined_at_end(ONE, result, CONFIG)
    crf = DenseCRF(frame(), CONFIG.crf.crf_config())
    direct = update_masks(maps.astype(np.float32), crf, CONFIG.mask_rules, None, True)
    assert not direct.rescued.any()
    np.testing.assert_array_equal(record.masks, direct.masks)
    assert (record.step, record.picture, record.rescued) == (40, "first", ())
    assert not np.array_equal(record.masks, threshold(resize_maps(maps / np.float32(255), SIDE), CONFIG.tau))


def test_a_refined_mask_that_is_refused_leaves_the_runs_own_last_one() -> None:
    nothing = np.zeros((2, 8, 8), np.uint8)
    own = true_masks()
    (record,) = refined_at_end(ONE, unit(own, nothing), CONFIG)
    np.testing.assert_array_equal(record.masks, own)
    assert record.rescued == ("pet", "place")


def test_two_masks_that_become_one_at_the_end_are_told_as_collapsed() -> None:
    same = np.repeat(np.rint(255 * normalise_by_maximum(disc_maps()[:1])).astype(np.uint8), 2, axis=0)
    (record,) = refined_at_end(ONE, unit(true_masks(), same), CONFIG)
    assert record.collapsed == ("pet", "place")


def test_masks_without_attention_cannot_be_refined() -> None:
    with pytest.raises(ValueError, match="attention"):
        refined_at_end(ONE, unit(true_masks()), CONFIG)


# Rows


def rows_kept(masks: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """The pet's mask (first of two) cut to its upper rows: IoU `share` with what it was."""
    cut = masks.copy()
    rows = np.flatnonzero(masks[0].any(axis=1))
    cut[0, rows[round(share * len(rows)) :]] = False
    return cut


def square_set(name: str, *nouns: str) -> BenchmarkSet:
    """The tiny set with other nouns and a pet of 20 x 20 pixels in a picture that is the frame: IoU is exact."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[6:26, 6:26] = True
    picture = Picture("first", None, pixels, {"pet": mask, "place": ~mask})
    concepts = tuple(replace(concept, noun=noun) for concept, noun in zip(ONE.concepts, nouns, strict=True))
    return replace(ONE, name=name, pictures=(picture,), concepts=concepts)


SQUARES = Benchmark("own", "dev", (square_set("a", "cat", "beach"), square_set("b", "dog", "sea")))
TRUTH = np.stack([SQUARES.sets[0].pictures[0].masks[name] for name in ("pet", "place")])


def test_only_the_last_masks_of_a_run_are_scored() -> None:
    found = part_masks(PAPER, SQUARES, [unit(TRUTH, name="a")], CONFIG)
    assert [(mask.concept.name, mask.score.iou) for mask in found.scored] == [("pet", 1.0), ("place", 1.0)]


def test_rescues_count_on_the_way_collapses_at_the_end_and_seconds_are_of_learning() -> None:
    units = [
        unit(TRUTH, name="a", rescued=("pet", "place"), collapsed=("pet", "place"), seconds=10.0),
        unit(TRUTH, name="b", seconds=30.0),
    ]
    found = part_masks(PAPER, SQUARES, units, CONFIG)
    # each first mask of the pet was rescued as well
    assert (found.scenes, found.updates, found.rescues, found.collapsed) == (2, 8, 4, 1)
    assert found.seconds == 20.0
    assert found.work == 10.0 + 30.0 + 2 * 1000.0  # and drawing


def test_the_crf_at_the_end_is_scored_and_counted_as_one_more_update() -> None:
    nothing = np.zeros((2, 8, 8), np.uint8)
    found = part_masks(CRF_AT_END, SQUARES, [unit(TRUTH, nothing, name="a", variant="no-crf")], CONFIG)
    assert (found.updates, found.rescues) == (6, 3)
    assert [mask.score.iou for mask in found.scored] == [1.0, 1.0]


def test_no_unit_is_no_row() -> None:
    with pytest.raises(ValueError, match="no unit"):
        part_masks(PAPER, SQUARES, [], CONFIG)


def test_a_row_holds_mean_iou_and_the_paired_change_of_subjects_and_places_apart() -> None:
    papers = part_masks(PAPER, SQUARES, [unit(TRUTH, name=name) for name in "ab"], CONFIG)
    cut = [unit(rows_kept(TRUTH, share), name=name) for name, share in (("a", 0.5), ("b", 0.7))]
    row = part_row(part("tau-0.5"), part_masks(part("tau-0.5"), SQUARES, cut, CONFIG), papers)
    assert row.subjects is not None
    assert row.subjects_change is not None
    assert (row.subjects.value, row.subjects.low, row.subjects.high) == pytest.approx((0.6, 0.5, 0.7))
    assert row.places == Interval(1.0, 1.0, 1.0)
    assert row.subjects_change.value == pytest.approx(-0.4)
    assert (row.subjects_change.low, row.subjects_change.high) == pytest.approx((-0.5, -0.3))
    assert row.places_change == Interval(0.0, 0.0, 0.0)
    assert (row.subject_masks, row.place_masks, row.stages) == (2, 2, 3)


def test_a_change_is_over_the_scenes_that_both_have() -> None:
    papers = part_masks(PAPER, SQUARES, [unit(TRUTH, name="a")], CONFIG)
    cut = [unit(rows_kept(TRUTH, share), name=name) for name, share in (("a", 0.5), ("b", 0.7))]
    row = part_row(part("tau-0.5"), part_masks(part("tau-0.5"), SQUARES, cut, CONFIG), papers)
    assert row.subjects_change is not None
    assert row.subjects_change.value == pytest.approx(-0.5)
    assert part_row(PAPER, papers, None).subjects_change is None


def test_masks_of_a_part_are_split_by_what_is_learned_and_resampled_by_noun() -> None:
    novel = replace(SQUARES.sets[1].concepts[0], split="novel noun")
    third = replace(SQUARES.sets[1], name="c", concepts=(novel, SQUARES.sets[1].concepts[1]))
    sets = Benchmark("own", "dev", (*SQUARES.sets, third))
    papers = part_masks(PAPER, sets, [unit(TRUTH, name=name) for name in "abc"], CONFIG)
    shares = {"a": 0.5, "b": 0.7, "c": 0.2}
    cut = [unit(rows_kept(TRUTH, share), name=name) for name, share in shares.items()]
    found = part_groups(sets, part_masks(part("tau-0.5"), sets, cut, CONFIG), papers)
    known, alone = found["instances of known nouns"], found["novel nouns"]
    assert (known.iou.value, known.iou.low, known.iou.high) == pytest.approx((0.6, 0.5, 0.7))
    assert (known.masks, known.clusters) == (2, 2)
    assert known.change is not None
    assert known.change.value == pytest.approx(-0.4)
    assert (alone.iou.value, alone.masks) == (pytest.approx(0.2), 1)
    assert found["background: photograph"].iou.value == 1
    assert "two pictures" not in found


def test_papers_own_masks_are_split_and_compared_with_nothing() -> None:
    papers = part_masks(PAPER, SQUARES, [unit(TRUTH, name=name) for name in "ab"], CONFIG)
    assert part_groups(SQUARES, papers, None)["one picture"].change is None


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Units of paper on both sets, of no CRF on the first, of a joint stage with LoRA on the first."""
    maps = np.rint(255 * normalise_by_maximum(disc_maps())).astype(np.uint8)
    for name in "ab":
        save_unit(unit(TRUTH, maps, name=name), tmp_path)
    save_unit(unit(rows_kept(TRUTH, 0.5), maps, name="a", variant="no-crf"), tmp_path)
    save_unit(unit(TRUTH, maps, name="a", variant="joint-lora"), tmp_path)
    return tmp_path


def test_the_table_has_the_rows_whose_units_are_done_in_the_parts_order(units: Path) -> None:
    rows = {row.name: row for row in parts_table(SQUARES, SIZE, units, CONFIG)}
    same = ["timesteps-50", "start-word", "weights-end", "joint-full", "every-20"]
    assert set(rows) == {"paper", "no-crf", "crf-at-end", "joint-lora", *same}
    assert list(rows) == [one.name for one in PARTS if one.name in rows]
    assert {name: row.scenes for name, row in rows.items()} == {
        **dict.fromkeys(rows, 2),
        **dict.fromkeys(["no-crf", "crf-at-end", "joint-lora"], 1),
    }


def test_a_row_says_whose_runs_it_is_of(units: Path) -> None:
    runs = {row.name: row.run for row in parts_table(SQUARES, SIZE, units, CONFIG)}
    assert runs["crf-at-end"] == runs["no-crf"] == "no-crf"
    assert runs["every-20"] == "paper"


def test_scenes_that_diverged_are_left_out_and_a_part_of_nothing_else_has_no_row(units: Path) -> None:
    for name, variant in (("b", "no-crf"), ("a", "tau-0.3")):
        done = unit(TRUTH, name=name, variant=variant)
        save_unit(replace(done, masks=(), diverged="not finite"), units)
    rows = {row.name: row for row in parts_table(SQUARES, SIZE, units, CONFIG)}
    assert (rows["no-crf"].scenes, rows["crf-at-end"].scenes) == (1, 1)
    assert "tau-0.3" not in rows


def test_papers_own_units_are_compared_with_nothing_and_others_with_paper(units: Path) -> None:
    rows = {row.name: row for row in parts_table(SQUARES, SIZE, units, CONFIG)}
    assert rows["every-20"].subjects_change is None
    assert rows["every-20"].subjects == rows["paper"].subjects
    no_crf, lora = rows["no-crf"].subjects_change, rows["joint-lora"].subjects_change
    assert no_crf is not None
    assert lora is not None
    assert (no_crf.value, lora.value) == pytest.approx((-0.5, 0.0))


def test_rows_hold_their_masks_by_group(units: Path) -> None:
    rows = {row.name: row for row in parts_table(SQUARES, SIZE, units, CONFIG)}
    change = rows["no-crf"].groups["one picture"].change
    assert change is not None
    assert change.value == pytest.approx(-0.5)
    assert rows["every-20"].groups["one picture"].change is None


def test_image_scores_stand_in_the_rows_that_drew(units: Path) -> None:
    of_paper, of_lora = {"identity": Interval(0.5, 0.4, 0.6)}, {"identity": Interval(0.3, 0.2, 0.4)}
    rows = parts_table(SQUARES, SIZE, units, CONFIG, {"paper": of_paper, "joint-lora": of_lora})
    images = {row.name: row.images for row in rows if row.images}
    assert images == {
        "paper": of_paper,
        "weights-end": of_paper,
        "joint-full": of_paper,
        "joint-lora": of_lora,
    }
