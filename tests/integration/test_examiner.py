"""The examiner that ships, on drawings that the built-in model has never seen."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from conceptloom.judges.detector import Judge, judge_folder, load_judge, masked_crop
from conceptloom.judges.networks import DESCRIPTION
from conceptloom.scenes.backgrounds import load_photos, photo_crop
from conceptloom.scenes.composer import Scene, SceneRules, compose
from conceptloom.scenes.sprites import load_sprites
from conceptloom.seeding import numpy_generator

MOST_BYTES = 4_000_000
"""Half of what both judges may take."""


@cache
def examiner() -> Judge:
    return load_judge("examiner")


@cache
def scenes() -> tuple[Scene, ...]:
    """Every third dev drawing alone on a dev photograph."""
    photos = load_photos("dev")
    made = []
    for index, sprite in enumerate(load_sprites("dev")[::3]):
        rng = numpy_generator(0, "examiner", index)
        photo = photos[index % len(photos)]
        rules = SceneRules(centred=True)
        made.append(compose([sprite], photo.label, photo_crop(photo, rng, rules.side_px), rng, rules))
    return tuple(made)


def drawing_of(scene: Scene) -> str:
    return f"{scene.objects[0].noun}/{scene.objects[0].family}"


def test_it_names_nine_of_ten_drawings_it_is_shown() -> None:
    right = [examiner().detect(scene.pixels).names()[:1] == (drawing_of(scene),) for scene in scenes()]
    assert np.mean(right) >= 0.9


@pytest.mark.parametrize(("measured", "least"), [("clean", 0.97), ("recall", 0.95)])
def test_it_ships_with_the_record_of_what_it_had_to_reach_among_all_drawings(
    measured: str, least: float
) -> None:
    description = json.loads((judge_folder("examiner") / DESCRIPTION).read_text(encoding="utf-8"))
    report = description["report"]
    assert report[measured]["mean"] >= least
    assert report["renders"] == len(description["vocabulary"]["sprites"])


def test_it_knows_the_background_behind_nine_of_ten() -> None:
    seen = [examiner().background(scene.pixels) for scene in scenes()]
    right = [
        max(words, key=words.__getitem__) == scene.background
        for words, scene in zip(seen, scenes(), strict=True)
    ]
    assert np.mean(right) >= 0.9


def test_two_views_of_a_drawing_are_more_alike_than_two_drawings() -> None:
    judge, one = examiner(), scenes()
    mirrored = np.stack([judge.describe(masked_crop(s.pixels, s.masks[0])[:, ::-1]) for s in one])
    plain = np.stack([judge.describe(s.pixels, s.masks[0]) for s in one])
    likeness = plain @ mirrored.T
    assert (likeness.argmax(axis=1) == np.arange(len(one))).mean() >= 0.9


def test_it_takes_no_more_than_its_share_of_the_package() -> None:
    assert sum(path.stat().st_size for path in judge_folder("examiner").iterdir()) <= MOST_BYTES
