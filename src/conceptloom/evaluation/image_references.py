"""What generated images are compared with: embeddings of a set's concepts in its own pictures.

Axes: R pictures of a concept, C concepts of a benchmark, D embedding.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.judges.detector import GREY, Floats, Pixels, masked_crop
from conceptloom.judges.features import FeatureJudge
from conceptloom.pictures import Picture


@dataclass(frozen=True, eq=False)
class References:
    """Embeddings of a set's concepts as its pictures show them.

    Attributes:
        subjects: (R, D) by subject: crops of its true masks, grey outside.
        places: (R, D) by place: pictures with the subjects' boxes greyed out, or whole ones (see `references`).
        pictures: (R, D) of the whole pictures.
    """

    subjects: Mapping[str, Floats]
    places: Mapping[str, Floats]
    pictures: Floats


@dataclass(frozen=True, eq=False)
class Prototypes:
    """One vector for each different subject of a benchmark.

    Attributes:
        keys: what each is of (`drawing`), C of them.
        vectors: (C, D) unit vectors, the mean direction of all its references.
    """

    keys: tuple[Hashable, ...]
    vectors: Floats


def references(
    one: BenchmarkSet, features: FeatureJudge, *, greyed: bool, without: str | None = None
) -> References:
    """Embed a set's concepts.

    A subject that has no true mask in any picture that counts is represented by whole ones.

    Args:
        one: the set.
        features: embeds.
        greyed: whether subjects are greyed out of places, as they are of an image that a detector looks at.
        without: name of a picture to leave out wherever a concept has another one.
    """
    return References(
        subjects={
            concept.name: features.embed(_crops(one, concept, without))
            for concept in one.concepts
            if concept.split != "place"
        },
        places={
            concept.name: features.embed(
                [
                    _behind(one, picture) if greyed else picture.pixels
                    for picture in _shown_in(one, concept, without)
                ]
            )
            for concept in one.concepts
            if concept.split == "place"
        },
        pictures=features.embed([picture.pixels for picture in _left(one.pictures, without)]),
    )


def prototypes(benchmark: Benchmark, found: Mapping[str, References]) -> Prototypes:
    """The prototypes of a benchmark's subjects, from the references of its sets by name.

    A drawing that several sets learn is one concept: none of them could be told from the others.
    """
    members: dict[Hashable, list[Floats]] = {}
    for one in benchmark.sets:
        for concept in one.subjects:
            members.setdefault(drawing(one, concept), []).append(found[one.name].subjects[concept.name])
    means = np.stack([np.concatenate(group).mean(axis=0) for group in members.values()])
    vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return Prototypes(tuple(members), vectors.astype(np.float32))


def drawing(one: BenchmarkSet, concept: TrueConcept) -> Hashable:
    """What a subject is wherever it comes: noun and drawing style; without a style it is the set's own."""
    if concept.family is not None:
        return concept.noun, concept.family
    return one.name, concept.name


def _crops(one: BenchmarkSet, concept: TrueConcept, without: str | None) -> list[Pixels]:
    shown = _shown_in(one, concept, without)
    masked = [
        masked_crop(picture.pixels, picture.masks[concept.name])
        for picture in shown
        if concept.name in picture.masks and picture.masks[concept.name].any()
    ]
    return masked or [picture.pixels for picture in shown]


def _behind(one: BenchmarkSet, picture: Picture) -> Pixels:
    """A picture with its subjects' boxes grey, as what is detected in an image is greyed (`find_candidates`)."""
    behind = picture.pixels.copy()
    for subject in one.subjects:
        mask = picture.masks.get(subject.name)
        if mask is not None and mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            behind[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = GREY
    return behind


def _shown_in(one: BenchmarkSet, concept: TrueConcept, without: str | None) -> tuple[Picture, ...]:
    return _left(one.pictures_with(concept.name), without)


def _left(pictures: tuple[Picture, ...], without: str | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture.name != without) or pictures
