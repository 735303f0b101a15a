"""Random draws of batch elements."""

from collections import Counter

import numpy as np

from conceptloom.learning.draws import Draw, Source, draw_batch, draw_timesteps

SOURCES = [Source(3, may_flip=True), Source(2, may_flip=True), Source(1, may_flip=False)]


def draws(steps: int, batch_size: int = 4, seed: int = 0, **options: bool) -> list[Draw]:
    return [
        draw
        for step in range(steps)
        for draw in draw_batch(seed, "em", step, batch_size, SOURCES, 1000, **options)
    ]


def test_every_epoch_shows_every_picture_once() -> None:
    pictures = [draw.picture for draw in draws(30, batch_size=2)]
    assert all(sorted(pictures[start : start + 3]) == [0, 1, 2] for start in range(0, 60, 3))
    assert len({tuple(pictures[start : start + 3]) for start in range(0, 60, 3)}) > 1


def test_subset_sizes_are_uniform() -> None:
    sizes = Counter(len(draw.concepts) for draw in draws(600) if draw.picture == 0)
    assert all(abs(sizes[size] / 800 - 1 / 3) < 0.06 for size in (1, 2, 3))


def test_concepts_are_drawn_without_replacement_in_random_order() -> None:
    drawn = [draw.concepts for draw in draws(100) if draw.picture == 0]
    assert all(len(set(concepts)) == len(concepts) for concepts in drawn)
    assert len({concepts for concepts in drawn if len(concepts) == 3}) == 6


def test_pictures_that_may_not_flip_never_do_and_others_flip_half_the_time() -> None:
    flips = {picture: [draw.flip for draw in draws(300) if draw.picture == picture] for picture in (0, 2)}
    assert not any(flips[2])
    assert 0.4 < sum(flips[0]) / len(flips[0]) < 0.6


def test_timesteps_cover_the_schedule_uniformly() -> None:
    timesteps = [draw.timestep for draw in draws(500)]
    assert min(timesteps) >= 0
    assert max(timesteps) < 1000
    assert abs(sum(timesteps) / len(timesteps) - 499.5) < 25


def test_a_step_draws_the_same_whether_or_not_earlier_steps_were_drawn() -> None:
    assert draw_batch(7, "em", 41, 4, SOURCES, 1000) == tuple(draws(42, seed=7)[-4:])


def test_stages_draw_differently() -> None:
    assert draw_batch(7, "em", 0, 4, SOURCES, 1000) != draw_batch(7, "joint", 0, 4, SOURCES, 1000)


def test_all_concepts_are_named_in_their_own_order_on_request() -> None:
    assert {draw.concepts for draw in draws(6, all_concepts=True)} == {(0, 1, 2), (0, 1), (0,)}


def test_timesteps_of_a_part_of_the_schedule_cover_it_uniformly() -> None:
    drawn = draw_timesteps(np.random.default_rng(0), 4000, 1000, (0.3, 0.7))
    assert (min(drawn), max(drawn)) == (300, 699)
    assert abs(np.mean(drawn) - 499.5) < 6


def test_the_narrowest_part_of_a_schedule_still_has_a_timestep() -> None:
    assert set(draw_timesteps(np.random.default_rng(0), 5, 1000, (0.5, 0.5001))) == {500}
