"""The score of an image of which nothing is known, for tests to fill in by `dataclasses.replace`."""

from __future__ import annotations

from conceptloom.evaluation.image_scores import ImageScore

BARE = ImageScore(
    set="a",
    method="paper",
    variant="",
    seed=0,
    prompt=0,
    kind="context",
    index=0,
    is_single=False,
    concepts=(),
    known={},
    relation=None,
    place=None,
    place_right=None,
    place_likeness=None,
    mixing=None,
    mixing_released=None,
    composition=None,
    text=None,
    distance=None,
    memorisation=0.2,
    overall=None,
)
