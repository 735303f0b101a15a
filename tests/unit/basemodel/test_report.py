"""The figures of the check: means over scenes and nouns, their intervals, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from conceptloom.basemodel import report as module
from conceptloom.basemodel.check import SceneAttention, through_grid
from conceptloom.basemodel.report import bootstrap, check_names, summarise_attention, write_report


def scene(
    pointed: tuple[bool, bool], covered: tuple[float, float], grid_iou: tuple[float, float]
) -> SceneAttention:
    return SceneAttention(
        pointed=pointed,
        swapped=False,
        threshold_iou=(0.2, 0.4),
        argmax_iou=(0.5, 0.5),
        covered=covered,
        grid_iou=grid_iou,
        shares={"begin": 0.5},
        layer_pointed={"mid": 1.0},
        band_pointed={"0 to 2": 0.0},
    )


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    values = [1.0] * 120 + [0.0] * 280
    found = bootstrap(values)
    low, high = stats.binom.ppf([0.025, 0.975], 400, 0.3) / 400
    assert found.mean == 0.3
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.5 / 400)


def test_an_interval_is_told_as_text_and_one_value_has_no_width() -> None:
    assert str(bootstrap([0.25])) == "0.250 [0.250, 0.250]"


def test_both_nouns_of_every_scene_count_alike_in_the_gate_and_in_its_chance_and_ceiling() -> None:
    report = summarise_attention(
        [scene((True, False), (0.1, 0.2), (0.9, 0.8)), scene((True, True), (0.3, 0.2), (0.7, 0.8))], 0
    )
    assert report.pointing.mean == pytest.approx(0.75)
    assert report.pointing_chance == pytest.approx(0.2)
    assert report.threshold_iou.mean == pytest.approx(0.3)
    assert report.iou_ceiling.mean == pytest.approx(0.8)
    assert "(chance 0.200)" in report.text()


def test_a_mask_along_the_grid_comes_through_whole_and_a_thin_one_does_not() -> None:
    masks = np.zeros((2, 64, 64), dtype=np.bool_)
    masks[0, :, :32] = True
    masks[1, :, 0] = True
    halves, thin = through_grid(masks, 16)
    np.testing.assert_array_equal(halves, masks[0])
    assert not thin.any()


def test_a_nouns_share_is_over_its_own_pictures_and_the_report_holds_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REAL_RENDERS", 2)
    monkeypatch.setattr(module, "best_noun", lambda judge, pixels: ("pizza", "cat")[int(pixels[0, 0, 0])])
    as_pizza, as_cat = (np.full((64, 64, 3), value, np.uint8) for value in (0, 1))
    shown = [("pizza", as_pizza), ("pizza", as_cat), ("cat", as_cat), ("cat", as_cat)]
    naming = check_names([(noun, "grass", pixels) for noun, pixels in shown])
    assert (naming.nouns, naming.per_noun, naming.right.mean) == (2, 2, 0.75)
    assert naming.right_by_noun == {"pizza": 0.5, "cat": 1.0}
    attention = summarise_attention([scene((True, True), (0.1, 0.1), (0.9, 0.9))], 0)
    check, sheet = write_report(tmp_path, attention, naming)
    written = json.loads(check.read_text())
    assert written["names"]["right_by_noun"] == naming.right_by_noun
    assert "images" not in written["names"]
    assert sheet.is_file()
    assert write_report(tmp_path / "gate", attention, None) == [tmp_path / "gate" / "check.json"]
