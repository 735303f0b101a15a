"""Grids of pictures, from units whose images are plain colours: what stands where can be read off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from bare_scores import BARE
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.mask_metrics import MaskScore
from conceptloom.evaluation.mask_scores import ScoredMask
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.picture_grids import (
    Album,
    SetResults,
    all_grids,
    diverse_grid,
    masks_grid,
    prompt_grid,
    seeds_grids,
    seven_rows_grid,
    two_pictures_grid,
    worst_images_grid,
    worst_masks_grid,
)
from conceptloom.evaluation.plan import SMOKE, Size, whole_task
from conceptloom.evaluation.report import Grid, Tile
from conceptloom.evaluation.run_strip import LEFT_OUT, attention_over, cut_out, strip_grid
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult
from conceptloom.pictures import square_frame_mask

SIDE = 32
TEN_PROMPTS = Size(prompts=10, images=2, shown=2)
METHODS: tuple[MethodName, ...] = ("gt", "fixed", "paper")


@cache
def benchmark() -> Benchmark:
    return builtin_benchmark("dev", 6, side_px=64)


def colour(method: str, prompt: int, index: int) -> npt.NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), (40 * METHODS.index(method), 10 * prompt, 20 * index), np.uint8)


def unit(one: BenchmarkSet, method: MethodName, size: Size = TEN_PROMPTS) -> UnitResult:
    draws = whole_task(one, method, 0, size).draws
    numbers = {
        (prompt, index): colour(method, prompt, index)
        for prompt, num in draws.items()
        for index in range(num)
    }
    records = []
    for step in (0, 20, 40):
        for picture in one.pictures:
            names = one.contains[picture.name]
            masks = np.stack([square_frame_mask(picture.masks[name], SIDE) for name in names])
            maps = np.rint(255 * masks[:, ::8, ::8]).astype(np.uint8)
            records.append(MaskRecord(step, picture.name, names, masks, maps, (), ()))
    return UnitResult(
        UnitKey(one.name, method, 0),
        tuple(records),
        numbers,
        {"learn": 1.0, "draw": 1.0},
        None,
        {"tau": 0.35},
    )


def results(methods: tuple[MethodName, ...] = METHODS) -> list[SetResults]:
    return [
        SetResults(one, {method: unit(one, method) for method in methods}, SIDE) for one in benchmark().sets
    ]


def pixels(grid: Grid, album: Album, row: int, column: int) -> npt.NDArray[np.uint8]:
    from conceptloom.evaluation.report import Report

    key = grid.rows[row].tiles[column].picture
    assert key is not None
    report = Report(
        kind="smoke", title="", facts={}, tables=(), curves=(), grids=(), pictures={key: album.pictures[key]}
    )
    return report.picture(key)


def near(shown: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> bool:
    return bool(np.abs(shown.astype(int) - expected.astype(int)).max() <= 6)


def test_the_same_picture_is_kept_once() -> None:
    album = Album()
    first, second = album.add(colour("gt", 1, 1), "one"), album.add(colour("gt", 1, 1), "two")
    assert first.picture == second.picture
    assert len(album.pictures) == 1


def test_figure_one_shows_sets_of_two_pictures_with_own_background_stranger_and_both() -> None:
    album = Album()
    grid = two_pictures_grid(results(), album)
    assert grid is not None
    assert [row.label for row in grid.rows] == [
        "dev-002"
    ]  # the next, dev-005, has a concept in both pictures
    one = benchmark().sets[2]
    captions = [tile.caption for tile in grid.rows[0].tiles[2:]]
    assert captions == [one.shown[0].text, one.prompts[3].text, one.prompts[1].text, one.prompts[8].text]
    assert near(pixels(grid, album, 0, 3), colour("paper", 3, 0))


def test_figure_one_leaves_the_place_of_a_prompt_empty_that_was_not_drawn() -> None:
    (found,) = (one for one in results() if one.one.name == "dev-002")
    ours = found.units["paper"]
    shown = len(found.one.prompts)
    few = replace(ours, images={place: ours.images[place] for place in ((0, 0), (1, 0), (shown, 0))})
    album = Album()
    grid = two_pictures_grid([replace(found, units={"paper": few})], album)
    assert grid is not None
    tiles = dict(zip(grid.columns, grid.rows[0].tiles, strict=True))
    assert tiles["A's subject there"].picture is None
    assert tiles["both there"].picture is None
    assert tiles["both together"].caption == found.one.prompts[1].text


def test_figure_one_goes_by_what_is_in_the_pictures_and_what_is_asked_for_not_by_order() -> None:
    (found,) = (one for one in results() if one.one.name == "dev-002")
    one = found.one
    both_there, stranger_there, known, together = (one.prompts[number] for number in (8, 3, 7, 1))
    other_way = replace(
        one,
        pictures=one.pictures[::-1],
        prompts=(known, both_there, replace(stranger_there, kind="context"), together),
    )
    grid = two_pictures_grid(
        [replace(found, one=other_way, units={"paper": unit(other_way, "paper")})], Album()
    )
    assert grid is not None
    captions = dict(zip(grid.columns, (tile.caption for tile in grid.rows[0].tiles), strict=True))
    assert captions == {
        "picture A": "<hospital>",
        "picture B": "<motorcycle>, <place>",
        "own background": one.shown[0].text,
        "A's subject there": stranger_there.text,
        "both together": together.text,
        "both there": both_there.text,
    }


def test_figure_four_has_the_papers_seven_rows() -> None:
    album = Album()
    grid = seven_rows_grid(results(), album)
    assert grid is not None
    assert [row.label for row in grid.rows] == [
        "input",
        "true masks",
        "masks: fixed",
        "masks: paper",
        "image: true masks",
        "image: fixed",
        "image: paper",
    ]
    assert near(pixels(grid, album, 5, 0), colour("fixed", 1, 0))


def test_figure_four_needs_all_three_methods() -> None:
    assert seven_rows_grid(results(("fixed", "paper")), Album()) is None


def test_figures_are_of_refined_where_that_is_our_method() -> None:
    found = [
        replace(one, units={**one.units, "refined": one.units["paper"]}, ours="refined")
        for one in results(("gt", "fixed", "paper"))
    ]
    grid = seven_rows_grid(found, Album())
    assert grid is not None
    assert [row.label for row in grid.rows if "refined" in row.label] == ["masks: refined", "image: refined"]
    grids = {grid.key: grid.note for grid in all_grids(found, METHODS, [], Album())}
    assert all("refined" in grids[key] for key in ("figure-1", "figure-6", "figure-9"))


def test_figure_five_shows_the_sets_that_figure_four_does_not() -> None:
    grid = masks_grid(results(), Album())
    assert grid is not None
    assert grid.columns == ("dev-004", "dev-005")
    assert "The first 2 sets that are not in Fig. 4," in grid.note


@pytest.mark.parametrize(("methods", "count"), [(("fixed", "paper"), 6), (METHODS, 4)])
def test_figure_five_shows_the_first_sets_where_figure_four_leaves_none_or_is_not_there(
    methods: tuple[MethodName, ...], count: int
) -> None:
    found = results(methods)[:count]
    grid = masks_grid(found, Album())
    assert grid is not None
    assert grid.columns == tuple(one.one.name for one in found)
    assert f"The first {count} sets, first picture" in grid.note


def test_a_prompt_grid_shows_two_images_of_each_prompt_of_its_kind() -> None:
    album = Album()
    grid = prompt_grid(results(), album, "k", "t", ("known",), lambda one: one.name == "dev-003")
    assert grid is not None
    assert near(pixels(grid, album, 0, 2), colour("paper", 2, 0))
    assert near(pixels(grid, album, 0, 5), colour("paper", 7, 1))


def texts(grid: Grid) -> dict[str, list[str]]:
    """By row, what was asked for in its images, each prompt once."""
    return {row.label: list(dict.fromkeys(tile.caption for tile in row.tiles[2:])) for row in grid.rows}


def named(found: list[SetResults], key: str) -> Grid | None:
    return next((grid for grid in all_grids(found, METHODS, [], Album()) if grid.key == key), None)


def asked(number: int, *prompts: int) -> list[str]:
    return [benchmark().sets[number].prompts[prompt].text for prompt in prompts]


def test_figure_seven_shows_drawings_of_one_style_with_each_other_and_then_with_known_things() -> None:
    grid = named(results(), "figure-7")
    assert grid is not None
    assert texts(grid) == {"dev-003": asked(3, 1, 6, 2, 7), "dev-005": asked(5, 1, 6, 2, 7)}


def test_figure_eight_shows_interactions_of_subjects_that_were_photographed_together() -> None:
    grid = named(results(), "figure-8")
    assert grid is not None
    assert texts(grid) == {f"dev-00{number}": asked(number, 1, 6) for number in (0, 2, 3, 5)}


def without_styles(found: SetResults) -> SetResults:
    concepts = tuple(replace(concept, family=None) for concept in found.one.concepts)
    return replace(found, one=replace(found.one, concepts=concepts, place_type="none"))


def test_real_pictures_have_their_interactions_in_figure_eight_and_no_figure_seven() -> None:
    bare = [without_styles(found) for found in results() if len(found.one.subjects) > 1]
    assert named(bare, "figure-7") is None
    grid = named(bare, "figure-8")
    assert grid is not None
    assert list(texts(grid)) == [found.one.name for found in bare][:4]


def test_diverse_images_are_all_images_of_one_prompt() -> None:
    album = Album()
    grid = diverse_grid(results(), album)
    assert grid is not None
    assert len(grid.rows[0].tiles) == 1 + 2
    assert near(pixels(grid, album, 0, 2), colour("paper", 1, 1))


def test_grids_by_seed_leave_no_prompt_and_no_method_out() -> None:
    grids = seeds_grids(results(), Album(), METHODS)
    assert [len(row.tiles) for row in grids[0].rows] == [10, 10, 10]
    assert [row.label for row in grids[0].rows] == list(METHODS)


def test_the_worst_masks_come_first() -> None:
    scored = [
        ScoredMask(
            one.name,
            "paper",
            "",
            0,
            one.pictures[0].name,
            one.subjects[0],
            20,
            MaskScore(iou, iou, False, False, False),
        )
        for one, iou in zip(benchmark().sets, (0.9, 0.2, 0.5, 0.8, 0.1, 0.7), strict=True)
    ]
    grid = worst_masks_grid(results(), Album(), scored, count=2)
    assert grid is not None
    assert [tile.caption for tile in grid.rows[0].tiles] == ["dev-004-a", "dev-001-a"]


def score(
    scene: str,
    overall: float | None,
    prompt: int = 1,
    index: int = 0,
    method: MethodName = "paper",
    seed: int = 0,
) -> ImageScore:
    return replace(
        BARE,
        set=scene,
        method=method,
        seed=seed,
        prompt=prompt,
        index=index,
        memorisation=0.1,
        overall=overall,
    )


def test_the_worst_images_come_first_under_what_was_asked_and_how_they_score() -> None:
    album = Album()
    scores = [score("dev-000", 0.6), score("dev-001", 0.125, 2), score("dev-004", 0.25, 0, 1)]
    grid = worst_images_grid(results(), album, scores, count=2)
    assert grid is not None
    asked = benchmark().sets[1].prompts[2], benchmark().sets[4].prompts[0]
    captions = [tile.caption for tile in grid.rows[1].tiles]
    assert captions == [f"{asked[0].text}: 0.12", f"{asked[1].text}: 0.25"]
    assert near(pixels(grid, album, 1, 0), colour("paper", 2, 0))
    assert near(pixels(grid, album, 1, 1), colour("paper", 0, 1))


def test_a_bad_image_stands_under_a_picture_of_its_first_subject_or_else_of_its_place() -> None:
    found = results()[2]
    first, second = found.one.pictures
    named = {0: "hospital", 7: "motorcycle", 8: "hospital", 13: "place"}
    for number, shown in ((0, first), (7, second), (8, first), (13, second)):
        assert named[number] == found.one.prompts[number].asked[0]
        album = Album()
        grid = worst_images_grid(results(), album, [score("dev-002", 0.1, number)])
        assert grid is not None
        assert grid.rows[0].tiles[0].picture == album.add(found.frame(shown)).picture


def test_only_judged_images_of_our_method_at_the_first_seed_are_failures() -> None:
    others = [
        score("dev-000", None),
        score("dev-000", 0.1, method="fixed"),
        score("dev-000", 0.1, seed=1),
    ]
    assert worst_images_grid(results(), Album(), others) is None
    grid = worst_images_grid(results(), Album(), [*others, score("dev-000", 0.9)])
    assert grid is not None
    assert [tile.caption.rpartition(" ")[2] for tile in grid.rows[1].tiles] == ["0.90"]


def test_no_more_failures_are_shown_than_asked_for_and_those_of_one_score_in_the_sets_order() -> None:
    scores = [score(one.name, 0.5, number) for one in benchmark().sets for number in (1, 0)]
    grid, again = (worst_images_grid(results(), Album(), some, count=3) for some in (scores, scores[::-1]))
    assert grid == again
    assert grid is not None
    assert [len(row.tiles) for row in grid.rows] == [3, 3]
    texts = [tile.caption.rpartition(":")[0] for tile in grid.rows[1].tiles]
    first, second = benchmark().sets[:2]
    assert texts == [first.prompts[0].text, first.prompts[1].text, second.prompts[0].text]


def test_the_strip_has_attention_threshold_and_crf_for_every_concept() -> None:
    grid = strip_grid(results(), Album())
    assert grid is not None
    assert grid.columns == ("step 0", "step 20", "step 40")
    names = [concept.name for concept in benchmark().sets[0].concepts]
    assert [row.label for row in grid.rows] == [
        f"<{name}> {stage}" for name in names for stage in ("attention", "threshold", "CRF")
    ]


@pytest.mark.parametrize("switch", [{"normalise": "spread"}, {"crf_labels": "joint"}])
def test_the_strip_shows_no_threshold_where_it_is_no_share_of_the_maximum(switch: dict[str, str]) -> None:
    found = [
        replace(
            one,
            units={"refined": replace(one.units["paper"], config={"tau": 0.5, **switch})},
            ours="refined",
        )
        for one in results(("paper",))
    ]
    grid = strip_grid(found, Album())
    assert grid is not None
    assert "The threshold is not shown" in grid.note
    assert {row.label.rpartition(" ")[2] for row in grid.rows} == {"attention", "CRF"}


def test_attention_keeps_the_picture_where_it_is_full_and_darkens_it_where_it_is_nothing() -> None:
    shown = attention_over(np.full((1, 2, 3), 200, np.uint8), np.array([[1.0, 0.0]], np.float32))
    np.testing.assert_array_equal(shown[0, :, 0], [200, 24])


def test_what_is_outside_a_mask_is_light_grey() -> None:
    shown = cut_out(np.zeros((1, 2, 3), np.uint8), np.array([[True, False]]))
    np.testing.assert_array_equal(shown[0, :, 0], [0, LEFT_OUT])


def test_every_tile_of_every_grid_is_in_the_album() -> None:
    album = Album()
    grids = all_grids(results(), METHODS, [], album)
    tiles: list[Tile] = [tile for grid in grids for row in grid.rows for tile in row.tiles]
    assert {tile.picture for tile in tiles if tile.picture} == set(album.pictures)


@pytest.mark.parametrize("methods", [(), ("gt",)])
def test_without_our_method_no_figure_of_it_is_made(methods: tuple[MethodName, ...]) -> None:
    grids = all_grids(results(methods), methods, [], Album())
    assert not {grid.key for grid in grids} & {"figure-1", "figure-4", "figure-5", "figure-9"}


def test_a_smoke_run_has_every_figure_and_of_the_first_all_but_one_tile() -> None:
    found = [
        SetResults(one, {method: unit(one, method, SMOKE) for method in METHODS}, SIDE)
        for one in benchmark().sets[: SMOKE.sets]
    ]
    grids = {grid.key: grid for grid in all_grids(found, METHODS, [], Album())}
    assert {f"figure-{number}" for number in (1, 4, 5, 6, 7, 8, 9)} <= set(grids)
    first = grids["figure-1"]
    empty = {first.columns[place] for place, tile in enumerate(first.rows[0].tiles) if tile.picture is None}
    assert empty == {"both there"}


def test_a_grid_row_never_has_more_tiles_than_column_heads() -> None:
    tables: Mapping[str, Grid] = {grid.key: grid for grid in all_grids(results(), METHODS, [], Album())}
    for grid in tables.values():
        assert not grid.columns or all(len(row.tiles) <= len(grid.columns) for row in grid.rows)
