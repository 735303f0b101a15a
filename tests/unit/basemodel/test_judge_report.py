"""What is told of a judge: the threshold for unknown, recall in scenes, and the report as a whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from conceptloom.basemodel.damage import KINDS
from conceptloom.basemodel.judge_report import (
    astray,
    calibrate_judge,
    calibrated,
    clean_renders,
    damaged_renders,
    is_refused,
    measure_judge,
    named_rightly,
    scene_recall,
)
from conceptloom.basemodel.judges import vocabulary_of
from conceptloom.judges.detector import Detections, Judge
from conceptloom.judges.networks import NetworkConfig, build_network
from conceptloom.scenes.composer import Scene, SceneRules, compose
from conceptloom.scenes.sprites import load_sprites

DEV = load_sprites("dev")[:6]
KEYS = tuple(sprite.key for sprite in DEV)
CONFIG = NetworkConfig(
    "residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8, side_px=64
)


def tiny_judge() -> Judge:
    return Judge(build_network(CONFIG, vocabulary_of(DEV, ()), 0))


def two_things() -> Scene:
    background = np.full((64, 64, 3), 90, np.uint8)
    return compose(DEV[:2], "grass", background, np.random.default_rng(0), SceneRules(64), "left of")


def seen(names: list[int], boxes: list[tuple[int, int, int, int]]) -> Detections:
    count = len(names)
    scores = np.eye(len(KEYS), dtype=np.float32)[np.array(names, int)]
    ones = np.ones(count, np.float32)
    places = np.array(boxes, np.float32).reshape(count, 4)
    return Detections(KEYS, places, ones, scores, ones, ones, np.zeros(count, bool), scores)


def test_the_threshold_refuses_the_asked_share_of_intact_drawings() -> None:
    confidences = np.random.default_rng(0).permutation(np.linspace(0.01, 1, 100))
    threshold = calibrated([float(value) for value in confidences], 0.05)
    assert (confidences < threshold).mean() == pytest.approx(0.05)


def test_no_intact_drawing_is_refused_at_a_share_of_nothing() -> None:
    assert calibrated([0.4, 0.9, 0.7], 0.0) == 0.4


def test_equal_confidences_are_not_refused() -> None:
    assert calibrated([0.6] * 50, 0.02) == 0.6


def test_every_drawing_found_under_its_name_is_a_recall_of_one() -> None:
    scene = two_things()
    assert scene_recall(seen([1, 0], [scene.objects[1].box, scene.objects[0].box]), scene) == 1


def test_a_wrong_name_is_not_found() -> None:
    scene = two_things()
    assert scene_recall(seen([0, 2], [scene.objects[0].box, scene.objects[1].box]), scene) == 0.5


def test_the_right_name_in_the_wrong_place_is_not_found() -> None:
    scene = two_things()
    assert scene_recall(seen([0, 1], [scene.objects[1].box, scene.objects[0].box]), scene) == 0


def test_nothing_seen_is_a_recall_of_nothing() -> None:
    assert scene_recall(seen([], []), two_things()) == 0


def test_the_surest_detection_decides_whether_a_drawing_is_named_rightly() -> None:
    (render, *_) = clean_renders(DEV, (), 64, 0, "clean")
    box = (8, 8, 40, 40)
    assert named_rightly(seen([0, 1], [box, box]), render) == 1
    assert named_rightly(seen([1, 0], [box, box]), render) == 0
    assert named_rightly(seen([], []), render) == 0


@pytest.mark.parametrize(
    ("unknown", "refused"), [([], 1), ([True], 1), ([False], 0), ([False, True], 0), ([True, False], 1)]
)
def test_nothing_found_or_a_surest_detection_that_is_unknown_is_a_refusal(
    unknown: list[bool], refused: float
) -> None:
    found = seen([0] * len(unknown), [(8, 8, 40, 40)] * len(unknown))
    assert is_refused(replace(found, unknown=np.array(unknown, bool))) == refused


def test_detections_that_lie_on_no_drawing_are_astray_whatever_their_name() -> None:
    scene = two_things()
    first, second = (thing.box for thing in scene.objects)
    width, height = first[2] - first[0], first[3] - first[1]
    half = (first[0], first[1], first[2], first[1] + round(0.4 * height))
    beside = (first[0] - width, first[1] - height, first[0], first[1])
    assert astray(seen([2, 0], [first, second]), scene) == 0
    assert astray(seen([0, 0, 1], [half, beside, second]), scene) == 2
    assert astray(seen([], []), scene) == 0


def test_calibration_and_measurement_draw_different_pictures() -> None:
    one, other = (clean_renders(DEV, (), 64, 0, use) for use in ("calibration", "clean"))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


def test_damage_is_rendered_in_every_kind() -> None:
    renders = damaged_renders(load_sprites("dev"), (), 64, 0, each=3)
    assert {render.kind for render in renders} == set(KINDS)


def test_a_calibrated_judge_refuses_few_of_what_it_was_calibrated_on() -> None:
    judge = calibrate_judge(tiny_judge(), DEV, (), lambda pixels: pixels, each=6)
    renders = clean_renders(DEV, (), 64, 0, "calibration")
    assert not any(judge.detect(render.pixels).unknown[:1].any() for render in renders)


def test_the_report_is_data_and_text() -> None:
    judge = tiny_judge()
    report = measure_judge(judge, DEV, (), lambda pixels: 255 - pixels, redrawn=3, scenes=4, damaged=2)
    told = json.loads(json.dumps(report.plain()))
    assert told["renders"] == 6
    assert set(told["damaged"]) <= set(KINDS)
    assert told["clean"]["mean"] == report.clean.mean
    assert "right on clean renders, 6" in report.text()
