"""The trainless judge: what it must see in pictures made for it."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.judges.names import NameCheck
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.scenes.composer import SceneRules, compose
from conceptloom.scenes.sprites import load_sprites

DEV = load_sprites("dev")


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_agrees_with_published_values(rgb, lab) -> None:
    assert rgb_to_lab(np.array(rgb, np.uint8)) == pytest.approx(np.array(lab), abs=0.05)


def test_a_pasted_drawing_is_found_again() -> None:
    judge = NameCheck(DEV)
    rules = SceneRules(side_px=128, counts=(1, 0, 0))
    background = np.full((128, 128, 3), (90, 140, 200), np.uint8)
    right = []
    for index, sprite in enumerate(DEV[::5]):
        scene = compose([sprite], "blue background", background, np.random.default_rng(index), rules)
        right.append(judge.sprites[int(judge.scores(scene.pixels).argmax())].key == sprite.key)
    assert np.mean(right) >= 0.85


def test_a_flat_picture_matches_nothing() -> None:
    scores = NameCheck(DEV[:10]).scores(np.full((64, 64, 3), 128, np.uint8))
    assert scores.max() < 0.05


def test_scores_never_leave_the_range_of_a_correlation() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    scores = NameCheck(DEV[:10]).scores(noise)
    assert np.abs(scores).max() <= 1.0


def test_the_best_score_of_a_noun_is_that_of_its_best_drawing() -> None:
    judge = NameCheck(DEV[:3])
    best = judge.best_by_noun(np.array([0.1, 0.5, 0.3], np.float32))
    assert best == {
        sprite.noun: pytest.approx(score) for sprite, score in zip(DEV[:3], (0.1, 0.5, 0.3), strict=True)
    }
