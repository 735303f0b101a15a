"""Damaged drawings: different enough to be refused, and of the kind they are called."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.basemodel.damage import KINDS, LEAST_CHANGE, TRAINED_KINDS, damage
from conceptloom.scenes.sprites import Sprite, load_sprites

DEV = load_sprites("dev")


def drawing(rgba: np.ndarray, noun: str = "thing") -> Sprite:
    return Sprite(noun, "noto", "dev", "thing", "train", rgba)


def plain_square(colour: tuple[int, int, int]) -> Sprite:
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[24:104, 24:104] = (*colour, 255)
    return drawing(rgba)


def premultiplied(sprite: Sprite) -> np.ndarray:
    rgba = sprite.rgba / 255
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_shows(kind: str) -> None:
    changes = []
    for index, sprite in enumerate(DEV[::7]):
        broken = damage(sprite, DEV, kind, np.random.default_rng(index))
        if broken is None:
            continue
        before, after = premultiplied(sprite), premultiplied(broken)
        drawn = np.maximum(before[..., 3], after[..., 3]) > 0.1
        changes.append(np.abs(after - before)[drawn].mean())
    assert len(changes) >= 7
    assert min(changes) >= 0.95 * LEAST_CHANGE  # rounding to 8 bits


def test_damage_keeps_noun_and_style() -> None:
    broken = damage(DEV[0], DEV, "fused", np.random.default_rng(0))
    assert broken is not None
    assert broken.key == DEV[0].key


def test_a_grey_drawing_has_no_colours_to_scramble_but_by_inverting() -> None:
    half = plain_square((127, 127, 127))
    assert damage(half, [half], "scrambled", np.random.default_rng(0)) is None


def test_a_drawing_is_not_fused_with_itself() -> None:
    assert damage(DEV[0], DEV[:1], "fused", np.random.default_rng(0)) is None


def test_a_fused_drawing_holds_some_of_both() -> None:
    red, blue = plain_square((255, 0, 0)), plain_square((0, 0, 255))
    broken = damage(red, [blue], "fused", np.random.default_rng(0))
    assert broken is not None
    inside = broken.rgba[broken.rgba[..., 3] > 0]
    reds, blues = (inside[:, channel] == 255 for channel in (0, 2))
    assert (reds ^ blues).all()
    assert 0.3 < reds.mean() < 0.7


def test_holes_only_take_away() -> None:
    square = plain_square((200, 60, 30))
    broken = damage(square, [square], "holed", np.random.default_rng(0))
    assert broken is not None
    kept = broken.rgba[..., 3] > 0
    assert (broken.rgba[kept] == square.rgba[kept]).all()
    assert 0.4 < kept.sum() / 80**2 < 0.8


def test_shuffling_moves_every_tile_and_loses_none() -> None:
    rgba = plain_square((0, 0, 0)).rgba
    ramp = np.arange(80 * 80).reshape(80, 80) % 251
    rgba[24:104, 24:104, :3] = ramp[..., None]
    square = drawing(rgba)
    for seed in range(20):  # some in 2x2, some in 3x3 tiles
        broken = damage(square, [square], "shuffled", np.random.default_rng(seed))
        assert broken is not None
        moved = broken.rgba[24:104, 24:104, 0]
        if (moved[:40, :40] == ramp[40:, 40:]).all() or (moved[:40, :40] == ramp[:40, 40:]).all():
            assert np.array_equal(np.sort(moved, axis=None), np.sort(ramp, axis=None))
            return
    pytest.fail("no 2x2 shuffle in twenty")


def test_two_kinds_are_kept_from_training() -> None:
    assert set(KINDS) - set(TRAINED_KINDS) == {"swirled", "crossfaded"}
