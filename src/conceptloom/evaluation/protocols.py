"""The paper's two forced-choice protocols: which images are compared, and who is shown which pair on which side.

A pair is two images of one scene, prompt and seed, so of one starting noise, that differ in the method alone. A
protocol first draws its population of pairs from all that there are, on all of which the automatic judge votes; people
see as many of them as they have time for, each pair by several people, with attention checks in between. Every draw is
seeded, and none depends on the order in which pairs come.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from conceptloom.errors import ConfigError
from conceptloom.seeding import numpy_generator

_Item = TypeVar("_Item")

Method = Literal["ours", "baseline"]
METHODS: tuple[Method, ...] = get_args(Method)
Check = Literal["identical", "degraded", "repeat"]
CHECKS: tuple[Check, ...] = get_args(Check)

QUESTION = (
    "Which image is more faithful to the things shown in the references and to the text:"
    " the right things, in the right place, doing what the text says?"
)
"""The paper's question, "faithfulness to the target instance and the prompt condition (representing instances,
contexts, and interactions)", in plain words."""

CHECK_SHARE = 0.10
"""At least this share of what a person is shown are attention checks, as many of each kind."""


@dataclass(frozen=True)
class Protocol:
    """A study's numbers.

    Attributes:
        name: "random" or "coco".
        prompts_per_set: prompts drawn for each concept or, where `concepts` is None, in all.
        images_per_prompt: images drawn for each prompt.
        concepts: concepts drawn; None draws prompts from all concepts together.
        people: who answer.
        pairs_per_person: pairs that one person compares, attention checks not counted.
        people_per_pair: people who compare the same pair, so that their agreement can be told.
        reference: where the numbers come from.
    """

    name: str
    prompts_per_set: int
    images_per_prompt: int
    concepts: int | None
    people: int
    pairs_per_person: int
    people_per_pair: int
    reference: str


RANDOM = Protocol(
    name="random",
    prompts_per_set=10,
    images_per_prompt=6,
    concepts=None,
    people=11,
    pairs_per_person=60,
    people_per_pair=11,
    reference=(
        "Rahman et al., arXiv 2402.11487, section 4 and Table 1, Random: 10 prompts, 6 images each, 11 participants."
        " Everybody compares every pair, which 10 x 6 x 11 votes fit"
    ),
)
COCO = Protocol(
    name="coco",
    prompts_per_set=20,
    images_per_prompt=8,
    concepts=120,
    people=17,
    pairs_per_person=60,
    people_per_pair=3,
    reference=(
        "Rahman et al., arXiv 2402.11487, section 4 and Table 1, MSCOCO: 120 concepts, 20 prompts each, 8 images each,"
        " 17 participants. How many of the 19,200 pairs they saw is not told; here 60 each, every pair by three people"
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in (RANDOM, COCO)}


@dataclass(frozen=True, order=True)
class Pair:
    """What two compared images have in common.

    Attributes:
        scene: where the concepts were learned; votes of one scene are not independent.
        subject: the concept, or the set of concepts, that the protocol counts prompts by.
        prompt: with placeholders.
        seed: of the run and its images.
        index: of the image among those of the prompt: with the seed it decides the starting noise.
    """

    scene: str
    subject: str
    prompt: str
    seed: int
    index: int


@dataclass(frozen=True)
class Stimulus:
    """One image of a showing: a pair's image by one method, as it is or spoiled for a check."""

    method: Method
    degraded: bool = False


@dataclass(frozen=True)
class Showing:
    """Two images put before one person, side by side.

    Attributes:
        pair: what is compared.
        kind: "comparison", or a check: "identical" shows one image twice (neutral is right), "degraded" an image
            beside a spoiled copy (the image is right), "repeat" an earlier comparison with its sides exchanged (the
            same answer is right).
    """

    pair: Pair
    kind: Literal["comparison"] | Check
    left: Stimulus
    right: Stimulus


def matched_pairs(ours: Iterable[Pair], baseline: Iterable[Pair]) -> tuple[Pair, ...]:
    """The pairs of two methods' images, sorted.

    Raises:
        ConfigError: an image has no counterpart by the other method: leaving it out would choose among the results.
    """
    first, second = set(ours), set(baseline)
    if lone := first ^ second:
        some = min(lone)
        has, lacks = ("ours", "the baseline") if some in first else ("the baseline", "ours")
        raise ConfigError(
            f"{len(lone)} images have no counterpart, as '{some.prompt}' (seed {some.seed}, image {some.index}) of"
            f" scene '{some.scene}', which {has} has and {lacks} lacks: generate the same prompts and seeds with both"
        )
    return tuple(sorted(first))


def draw_pairs(pairs: Iterable[Pair], protocol: Protocol, seed: int) -> tuple[Pair, ...]:
    """A protocol's population: its concepts, prompts and images drawn from all there are, or all where fewer are."""
    pool, rng = sorted(set(pairs)), numpy_generator(seed, protocol.name, "population")
    if protocol.concepts is None:
        sets = [pool]
    else:
        by_subject: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        for pair in pool:
            by_subject[pair.scene, pair.subject].append(pair)
        sets = _some(list(by_subject.values()), protocol.concepts, rng)
    drawn: list[Pair] = []
    for members in sets:
        by_prompt: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
        for pair in members:
            by_prompt[pair.scene, pair.subject, pair.prompt].append(pair)
        for images in _some(list(by_prompt.values()), protocol.prompts_per_set, rng):
            drawn += _some(images, protocol.images_per_prompt, rng)
    return tuple(sorted(drawn))


def shown_pairs(pairs: Iterable[Pair], protocol: Protocol, seed: int) -> tuple[Pair, ...]:
    """Those of a population that people see: as many as they have time for, from every subject alike within one."""
    pool, rng = sorted(set(pairs)), numpy_generator(seed, protocol.name, "shown")
    wanted = max(
        protocol.pairs_per_person, protocol.people * protocol.pairs_per_person // protocol.people_per_pair
    )
    ranks = _ranks_within_subject(pool, rng)
    order = sorted(range(len(pool)), key=lambda index: ranks[index])
    return tuple(sorted(pool[index] for index in order[:wanted]))


def check_count(comparisons: int) -> int:
    """Attention checks beside so many comparisons: the same number of each kind, together `CHECK_SHARE` or more."""
    needed = CHECK_SHARE * comparisons / (1 - CHECK_SHARE)
    return len(CHECKS) * math.ceil(round(needed / len(CHECKS), 9))


def plan_showings(pairs: Iterable[Pair], protocol: Protocol, seed: int) -> tuple[tuple[Showing, ...], ...]:
    """What every person is shown, in order.

    Everybody compares the same number of pairs, none twice but for the repeats, which are in the last third and go
    back to the first. Within one, every pair is compared by the same number of people, and ours stands left as often
    as right: in each person's comparisons, in each pair's, and in all.

    Args:
        pairs: a population; `shown_pairs` of it are used.
        protocol: how many people and pairs.
        seed: of every draw.

    Raises:
        ConfigError: for no pairs.
    """
    pool = shown_pairs(pairs, protocol, seed)
    if not pool:
        raise ConfigError("no pairs of images to compare: generate images with both methods first")
    seen = _assign(pool, protocol, numpy_generator(seed, protocol.name, "people"))
    edges = [(person, pair) for person, indices in enumerate(seen) for pair in indices]
    lefts = iter(_balanced_sides(edges, numpy_generator(seed, protocol.name, "sides")))
    comparisons = [[_comparison(pool[index], next(lefts)) for index in indices] for indices in seen]
    return _with_checks(comparisons, pool, numpy_generator(seed, protocol.name, "checks"))


def _comparison(pair: Pair, ours_left: bool) -> Showing:
    ours, baseline = Stimulus("ours"), Stimulus("baseline")
    return Showing(pair, "comparison", *((ours, baseline) if ours_left else (baseline, ours)))


def _some(items: Sequence[_Item], count: int, rng: np.random.Generator) -> list[_Item]:
    """So many items, or all where there are fewer, in random order."""
    return [items[index] for index in rng.permutation(len(items))[:count]]


def _ranks_within_subject(pool: Sequence[Pair], rng: np.random.Generator) -> list[float]:
    """A shuffled place 0, 1, ... within its subject for every pair, plus a fraction that breaks ties at random."""
    counts: Counter[tuple[str, str]] = Counter()
    ranks = [0.0] * len(pool)
    for index in rng.permutation(len(pool)):
        subject = pool[index].scene, pool[index].subject
        ranks[index] = counts[subject] + rng.random()
        counts[subject] += 1
    return ranks


def _assign(pool: Sequence[Pair], protocol: Protocol, rng: np.random.Generator) -> list[list[int]]:
    """Indices into `pool` by person, dealt lap by lap; a lap holds every pair once, its subjects spread evenly."""
    each = min(protocol.pairs_per_person, len(pool))
    sizes = Counter((pair.scene, pair.subject) for pair in pool)
    dealt: list[int] = []
    while len(dealt) < protocol.people * each:
        ranks = _ranks_within_subject(pool, rng)
        spread = [rank / sizes[pair.scene, pair.subject] for rank, pair in zip(ranks, pool, strict=True)]
        lap = sorted(range(len(pool)), key=spread.__getitem__)
        # A person whom the last lap left unfinished goes on with pairs that are new to them.
        started = set(dealt[len(dealt) // each * each :])
        missing = each - len(started) if started else 0
        head = [index for index in lap if index not in started][:missing]
        dealt += head + [index for index in lap if index not in set(head)]
    return [dealt[person * each : (person + 1) * each] for person in range(protocol.people)]


def _balanced_sides(edges: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[bool]:
    """For each (person, pair) a side, so that each person, each pair and the whole have both equally within one.

    People and pairs are the two parts of a graph. Walked along closed trails, as many edges lead out of a vertex as
    into it, so the direction is the side. Vertices of odd degree are joined to one more person or pair beforehand.
    """
    extra = -1
    people, pairs = (Counter(end) for end in zip(*edges, strict=True))
    joined = [(person, extra) for person, degree in people.items() if degree % 2]
    joined += [(extra, pair) for pair, degree in pairs.items() if degree % 2]
    if sum(pair == extra for _, pair in joined) % 2:  # then as many of the others are odd
        joined.append((extra, extra))
    everything = [*edges, *joined]
    at: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index in rng.permutation(len(everything)).tolist():
        person, pair = everything[index]
        at["person", person].append(index)
        at["pair", pair].append(index)
    outward: dict[int, bool] = {}
    for start in list(at):
        vertex = start
        while at[vertex]:
            index = at[vertex].pop()
            if index in outward:
                continue
            outward[index] = vertex[0] == "person"
            person, pair = everything[index]
            vertex = ("pair", pair) if outward[index] else ("person", person)
    return [outward[index] for index in range(len(edges))]


def _with_checks(
    comparisons: Sequence[Sequence[Showing]], pool: Sequence[Pair], rng: np.random.Generator
) -> tuple[tuple[Showing, ...], ...]:
    """Everybody's comparisons in random order, checks at random places among them."""
    counts = [check_count(len(own)) // len(CHECKS) for own in comparisons]
    identical, degraded = (iter(_balanced(METHODS, sum(counts), rng)) for _ in range(2))
    intact_left = iter(_balanced((True, False), sum(counts), rng))
    planned = []
    for own, count in zip(comparisons, counts, strict=True):
        shuffled = _some(own, len(own), rng)
        placed = [((index + 0.5) / len(own), showing) for index, showing in enumerate(shuffled)]
        for _ in range(count):
            image = Stimulus(next(identical))
            placed.append((rng.random(), Showing(_one(pool, rng), "identical", image, image)))
            image = Stimulus(next(degraded))
            spoiled = Stimulus(image.method, degraded=True)
            sides = (image, spoiled) if next(intact_left) else (spoiled, image)
            placed.append((rng.random(), Showing(_one(pool, rng), "degraded", *sides)))
        for first in _some(shuffled[: max(count, len(own) // 3)], count, rng):
            placed.append((rng.uniform(2 / 3, 1), Showing(first.pair, "repeat", first.right, first.left)))
        planned.append(tuple(showing for _, showing in sorted(placed, key=lambda entry: entry[0])))
    return tuple(planned)


def _balanced(options: Sequence[_Item], count: int, rng: np.random.Generator) -> list[_Item]:
    """Each of the options equally often within one, in random order."""
    repeated = [
        option for _ in range(-(-count // len(options))) for option in _some(options, len(options), rng)
    ]
    return _some(repeated[:count], count, rng)


def _one(pool: Sequence[Pair], rng: np.random.Generator) -> Pair:
    return pool[int(rng.integers(len(pool)))]
