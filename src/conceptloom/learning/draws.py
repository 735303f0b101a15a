"""What each batch element draws: a picture, a subset of its concepts, a flip, a timestep, noise.

Every draw is a pure function of (seed, stream, stage, step, index), so a resumed run draws what an uninterrupted
one draws, and no draw depends on whether another one is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptloom.seeding import numpy_generator


@dataclass(frozen=True)
class Draw:
    """One batch element: which picture, which of its concepts in which order, mirrored or not, at which noise."""

    picture: int
    """Index into the run's examples."""
    concepts: tuple[int, ...]
    """Indices into the example's concepts, in the order the template names them."""
    flip: bool
    timestep: int
    key: tuple[str, int, int]
    """(stage, step, index), from which the element's noise is derived."""


@dataclass(frozen=True)
class Source:
    """What a draw must know of one picture."""

    num_concepts: int
    may_flip: bool


def draw_batch(
    seed: int,
    stage: str,
    step: int,
    batch_size: int,
    sources: Sequence[Source],
    num_timesteps: int,
    *,
    all_concepts: bool = False,
) -> tuple[Draw, ...]:
    """The `batch_size` draws of one step.

    Pictures come in shuffled epochs over the stage; the subset's size is uniform in 1..N_j and its concepts are
    drawn without replacement in random order; timesteps are uniform over the schedule.

    Args:
        seed: the run's seed.
        stage: stream of its own, as "em".
        step: 0-based step within the stage.
        batch_size: number of draws.
        sources: one per picture.
        num_timesteps: length of the base model's training schedule.
        all_concepts: name every concept of the picture, in its own order.
    """
    draws = []
    for index in range(batch_size):
        position = step * batch_size + index
        epoch, place = divmod(position, len(sources))
        picture = int(numpy_generator(seed, stage, "pictures", epoch).permutation(len(sources))[place])
        source = sources[picture]
        key = (stage, step, index)
        if all_concepts:
            concepts = tuple(range(source.num_concepts))
        else:
            concepts = draw_subset(numpy_generator(seed, "subset", *key), source.num_concepts)
        flip = bool(numpy_generator(seed, "flip", *key).integers(2)) and source.may_flip
        timestep = int(numpy_generator(seed, "timestep", *key).integers(num_timesteps))
        draws.append(Draw(picture, concepts, flip, timestep, key))
    return tuple(draws)


def draw_subset(generator: np.random.Generator, num_concepts: int) -> tuple[int, ...]:
    """A subset of uniform size in 1..num_concepts, without replacement, in random order."""
    size = int(generator.integers(1, num_concepts + 1))
    return tuple(int(concept) for concept in generator.permutation(num_concepts)[:size])


def draw_timesteps(
    generator: np.random.Generator, count: int, num_timesteps: int, part: tuple[float, float] = (0.0, 1.0)
) -> tuple[int, ...]:
    """`count` timesteps uniform over a part of the schedule, given as shares of its length."""
    first = round(part[0] * num_timesteps)
    last = max(round(part[1] * num_timesteps), first + 1)
    return tuple(int(timestep) for timestep in generator.integers(first, last, size=count))
