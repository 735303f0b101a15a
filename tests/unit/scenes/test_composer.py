"""Scenes: masks are exact, occlusion bounded, and everything follows from the seed."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.scenes.backgrounds import COLOURS, DRAWN, load_photos, photo_crop
from conceptloom.scenes.composer import (
    MAX_OCCLUSION,
    SceneRules,
    compose,
    layout,
    random_scene,
    visible_masks,
)
from conceptloom.scenes.sprites import Sprite, load_sprites, nouns

DEV = load_sprites("dev")
PHOTOS = load_photos("dev")


def scenes(count: int, rules: SceneRules | None = None):
    return [random_scene(DEV, PHOTOS, np.random.default_rng(seed), rules) for seed in range(count)]


def test_the_same_seed_gives_the_same_scene() -> None:
    first, second = (random_scene(DEV, PHOTOS, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.masks, second.masks)
    assert first.caption == second.caption


def test_masks_of_one_scene_never_overlap() -> None:
    for scene in scenes(40):
        assert scene.masks.sum(0).max() <= 1


def test_every_object_keeps_at_least_the_promised_visible_share() -> None:
    a, b = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    a[:, :4], b[:, 3:] = True, True
    masks, occlusion = visible_masks([a, b], order=[0, 1])
    assert masks[0].sum() == 24
    assert masks[1].sum() == 40
    assert occlusion == pytest.approx([0.25, 0.0])
    assert occlusion.max() <= MAX_OCCLUSION


def test_painting_without_jitter_changes_only_masked_and_edge_pixels() -> None:
    """Outside the silhouettes' neighbourhood a plain background stays what it was."""
    background = np.full((64, 64, 3), 120, np.uint8)
    for seed in range(10):
        scene = compose(
            DEV[:2], "gray background", background, np.random.default_rng(seed), SceneRules(side_px=64)
        )
        near = scene.masks.any(0)
        for shift in range(-7, 8):
            near |= np.roll(scene.masks.any(0), shift, 0) | np.roll(scene.masks.any(0), shift, 1)
        for _ in range(7):
            near |= np.roll(near, 1, 0) | np.roll(near, -1, 0) | np.roll(near, 1, 1) | np.roll(near, -1, 1)
        far = scene.pixels[~near]
        assert len(far) == 0 or np.ptp(far.astype(int), axis=0).max() <= 1


def mirrored_share(relation: str | None, count: int, jitter: bool) -> float:
    """How often, over forty seeds, a sprite that is red on the left and blue on the right shows red on the right."""
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[:, :64, 0], rgba[:, 64:, 2], rgba[..., 3] = 255, 255, 255
    sprite = Sprite("flag", "noto", "dev", "object", "known", rgba)
    grey = np.full((64, 64, 3), 120, np.uint8)
    rules = SceneRules(side_px=64, jitter=jitter)
    mirrored = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = compose([sprite] * count, "gray background", grey, rng, rules, relation)
        columns, colours = np.nonzero(scene.masks[0])[1], scene.pixels[scene.masks[0]]
        mirrored.append(columns[colours[:, 0] > colours[:, 2]].mean() > columns.mean())
    return float(np.mean(mirrored))


def test_without_jitter_no_sprite_is_mirrored() -> None:
    assert mirrored_share(None, 1, jitter=False) == 0
    assert mirrored_share("next to", 2, jitter=False) == 0
    assert mirrored_share(None, 1, jitter=True) > 0.25


def test_without_jitter_sprites_still_turn_to_face_each_other() -> None:
    assert mirrored_share("facing", 2, jitter=False) > 0.25


@pytest.mark.parametrize(("count", "least"), [(1, 0.48), (2, 0.42)])
def test_centred_sprites_stand_large_around_the_middle(count: int, least: float) -> None:
    rules = SceneRules(centred=True)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        places, _ = layout(count, "next to" if count == 2 else None, rng, rules)
        assert min(place.size for place in places) >= least
        assert np.mean([place.x for place in places]) == pytest.approx(0.5, abs=0.1)
        assert np.mean([place.y for place in places]) == pytest.approx(0.5, abs=0.1)


def test_boxes_bound_their_masks() -> None:
    for scene in scenes(20):
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            left, top, right, bottom = item.box
            assert mask[top:bottom, left:right].sum() == mask.sum()


@pytest.mark.parametrize("relation", ["left of", "right of", "above"])
def test_a_spatial_relation_holds_in_the_layout(relation: str) -> None:
    for seed in range(50):
        (first, second), _ = layout(2, relation, np.random.default_rng(seed), SceneRules())
        difference = {
            "left of": second.x - first.x,
            "right of": first.x - second.x,
            "above": second.y - first.y,
        }
        assert difference[relation] > 0


@pytest.mark.parametrize(
    ("relation", "front"), [("behind", 1), ("in front of", 0), ("riding", 0), ("holding", 1)]
)
def test_a_depth_relation_decides_who_is_painted_last(relation: str, front: int) -> None:
    for seed in range(20):
        _, order = layout(2, relation, np.random.default_rng(seed), SceneRules())
        assert order[-1] == front


def test_an_unknown_relation_is_refused() -> None:
    background = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="relation must be one of"):
        compose(DEV[:2], "black background", background, np.random.default_rng(0), relation="eating")


def test_a_scene_needs_a_sprite() -> None:
    with pytest.raises(ValueError, match="at least one sprite"):
        compose([], "grass", np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0))


@pytest.mark.parametrize("label", sorted(DRAWN))
@pytest.mark.parametrize("side", [48, 64, 128])
def test_drawn_backgrounds_hold_no_white_noise(label: str, side: int) -> None:
    """Horizontal neighbours correlate (white noise: 0)."""
    grey = DRAWN[label](np.random.default_rng(3), side).astype(float).mean(-1)
    assert grey.shape == (side, side)
    assert np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1] > 0.5


def test_photo_crops_have_the_asked_side() -> None:
    assert photo_crop(PHOTOS[0], np.random.default_rng(0), 96).shape == (96, 96, 3)


def test_plain_colours_are_at_most_a_fifth_of_the_backgrounds() -> None:
    plain = {f"{colour} background" for colour in COLOURS}
    share = np.mean([scene.background in plain for scene in scenes(300)])
    assert share <= 0.2


def test_the_pack_holds_the_published_numbers_of_sprites() -> None:
    counts = {role: len(load_sprites(role)) for role in ("train", "dev", "test")}
    assert counts == {"train": 770, "dev": 70, "test": 120}


def test_every_train_noun_is_known_and_novel_nouns_never_train() -> None:
    train = nouns(load_sprites("train"))
    novel = {sprite.noun for sprite in load_sprites("test") if sprite.noun_split == "novel-noun"}
    assert len(train) == 153
    assert novel.isdisjoint(train)


def test_no_drawing_has_two_roles() -> None:
    keys = [sprite.key for role in ("train", "dev", "test") for sprite in load_sprites(role)]
    assert len(keys) == len(set(keys))
