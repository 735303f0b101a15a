"""One image seen with its prompt: which of its parts stands for which thing that was asked for.

Asked subjects and known things are matched with the candidates one-to-one, all of them together, so that nothing
stands for two. What is missing counts as wrong: its identity is 0, its style neither kept nor right, and a relation to
it false. What nothing was asked of, or no judge can tell, is None.

Axes: K asked subjects, N candidates, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from conceptloom.evaluation.benchmark import BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.candidates import Looker, find_candidates
from conceptloom.evaluation.image_metrics import (
    UNMATCHED,
    Scores,
    detect_and_compare,
    detect_and_compare_released,
    leakage,
    match,
    matched_values,
    mean_cosine,
    prototype_rank,
    similarities,
    true_similarity,
    true_similarity_released,
)
from conceptloom.evaluation.image_references import Prototypes, References, drawing
from conceptloom.evaluation.relations import Box, relation_holds
from conceptloom.judges.detector import Pixels
from conceptloom.judges.features import FeatureJudge, TextJudge
from conceptloom.scenes.captions import RELATIONS, STYLES

FAMILY_OF = {word: family for family, word in STYLES.items()}
"""Drawing style by the word that asks for it."""


@dataclass(frozen=True, eq=False)
class ImageJudge:
    """Who judges images.

    Attributes:
        looker: detects drawings; None where no detector knows what pictures show. Then candidates are windows, and
            known things, relations, place words and styles are not judged.
        features: says how alike two pictures are.
        prototypes: of all subjects of the sets that draw, in these features.
        present_from: identity from which a concept is said to be there (`image_sanity.presence_threshold`).
        usual_identity: the median identity of real pictures: how alike two pictures of one thing usually are.
    """

    looker: Looker | None
    features: FeatureJudge
    prototypes: Prototypes
    present_from: float
    usual_identity: float


@dataclass(frozen=True)
class ConceptScore:
    """One asked subject in one image.

    Attributes:
        concept: the subject.
        identity: mean cosine of its matched region with its references; 0 where there is none.
        present: whether its identity reaches the judge's threshold.
        rank: how many other subjects of the sets that draw are nearer to that region; None where there is none.
        leakage: cosine of that region with the set's other subjects, by name; empty where there is none.
        style_kept: where no style is asked for, whether it is drawn in the concept's own.
        style_right: where one is asked for, whether it is drawn in that.
    """

    concept: TrueConcept
    identity: float
    present: bool
    rank: int | None
    leakage: Mapping[str, float]
    style_kept: bool | None
    style_right: bool | None


@dataclass(frozen=True)
class RelationScore:
    """An asked relation: whether both things are there and stand in it, and their boxes, where both are there."""

    relation: str
    holds: bool
    boxes: tuple[Box, Box] | None


class ImageView:
    """An image (H, W, 3) of one set's prompt, as a judge sees it.

    Attributes:
        candidates: where things may be in it (N).
        subjects: the asked subjects (K), in the set's order.
        known: probability of each known thing that is asked for and that the looker has a word for.
    """

    def __init__(
        self, one: BenchmarkSet, prompt: TestPrompt, found: References, judge: ImageJudge, pixels: Pixels
    ) -> None:
        self.one, self.prompt, self.found, self.judge, self.pixels = one, prompt, found, judge, pixels
        self.candidates = find_candidates(pixels, judge.looker, judge.features)
        self.subjects = [concept for concept in one.subjects if concept.name in prompt.asked]
        self._likeness = similarities(
            [found.subjects[subject.name] for subject in one.subjects], self.candidates.embeddings
        )  # (all subjects of the set, N)
        self._own = self._likeness[[one.subjects.index(subject) for subject in self.subjects]]  # (K, N)
        detections = self.candidates.detections
        nouns = {} if detections is None else detections.by_noun()
        self._things = [noun for noun in prompt.known if noun in nouns]
        sureness = np.zeros((len(self._things), len(self.candidates.boxes)))
        for row, noun in enumerate(self._things):
            sureness[row] = nouns[noun]
        matched = match(np.concatenate([self._own, sureness]))
        self._matched, self._thing_matched = np.split(matched, [len(self.subjects)])
        self._identities = matched_values(self._own, self._matched)
        self.known = dict(zip(self._things, matched_values(sureness, self._thing_matched), strict=True))

    def concepts(self) -> tuple[ConceptScore, ...]:
        """Scores of the asked subjects."""
        return tuple(self._concept(row) for row in range(len(self.subjects)))

    def relation(self) -> RelationScore | None:
        """The asked relation; None where boxes cannot show it.

        A concept is there if it is present, a known thing if the looker calls what it is matched with by its name.
        """
        detections = self.candidates.detections
        if self.prompt.relation is None or detections is None:
            return None
        subject, relation, thing = self.prompt.relation
        names = [*(concept.name for concept in self.subjects), *self._things]
        if relation not in RELATIONS or not {subject, thing} <= set(names):
            return None
        said = [None if name is None else name.split("/")[0] for name in detections.names()]
        there = [identity >= self.judge.present_from for identity in self._identities]
        there += [
            index != UNMATCHED and said[index] == noun
            for noun, index in zip(self._things, self._thing_matched, strict=True)
        ]
        places = {
            name: int(index)
            for name, index, is_there in zip(
                names, [*self._matched, *self._thing_matched], there, strict=True
            )
            if is_there and index != UNMATCHED
        }
        if subject not in places or thing not in places:
            return RelationScore(relation, False, None)
        boxes = self.candidates.box(places[subject]), self.candidates.box(places[thing])
        return RelationScore(relation, relation_holds(relation, *boxes), boxes)

    def mixing(self) -> tuple[float, float] | None:
        """`detect_and_compare` and `detect_and_compare_released` of two asked subjects or more.

        What is matched with known things is left out. Windows are not counted: those that are matched stand for the
        detections.
        """
        if len(self.subjects) < 2 or len(self._things) < len(self.prompt.known):
            return None
        rows = self._matched[self._matched != UNMATCHED]
        if self.candidates.detections is not None:
            rows = np.setdiff1d(np.arange(len(self.candidates.boxes)), self._thing_matched)
        detected = self._own[:, rows].T
        own = [self.found.subjects[subject.name] for subject in self.subjects]
        return (
            detect_and_compare(detected, true_similarity(own, self.judge.usual_identity)),
            detect_and_compare_released(detected, true_similarity_released(own)),
        )

    def place_likeness(self) -> float | None:
        """Mean cosine of what is behind the things with the learned place that is asked for."""
        if self.prompt.asked_place is None:
            return None
        return mean_cosine(self.candidates.behind[None], self.found.places[self.prompt.asked_place])

    def place_word(self) -> tuple[bool, float] | None:
        """Whether the likeliest background is the place asked for, learned or known, and the probability of it.

        None where no place is asked for, or the looker has no word for it.
        """
        asked = self.prompt.asked_place
        word = self.prompt.place if asked is None else self.one.concept(asked).noun
        words = self._backgrounds
        if word is None or word not in words:
            return None
        return max(words, key=words.__getitem__) == word, words[word]

    def composition(self) -> float | None:
        """Mean cosine of the whole image with the set's pictures, where all its subjects are asked for."""
        if len(self.subjects) < len(self.one.subjects):
            return None
        return mean_cosine(self.candidates.whole[None], self.found.pictures)

    def text(self) -> float | None:
        """Cosine of the whole image with its prompt in class words, where the features know texts."""
        if not isinstance(self.judge.features, TextJudge):
            return None
        spoken = self.judge.features.embed_text([self.prompt.class_words_text(self.one.class_words)])
        return float(spoken[0] @ self.candidates.whole)

    def checklist(self) -> list[float]:
        """What the prompt asks for, each from 0 (missing) to 1 (as asked).

        The identity of each asked subject (negative ones as 0), the probability of each known thing, that of the
        place, the relation (0 or 1), and the probability of the asked style (the mean over the subjects). Without a
        looker a learned place counts by its likeness, and the rest is not on the list.
        """
        items = [max(0.0, identity) for identity in self._identities] + list(self.known.values())
        place, relation, likeness = self.place_word(), self.relation(), self.place_likeness()
        if place is not None:
            items.append(place[1])
        elif self.judge.looker is None and likeness is not None:
            items.append(max(0.0, likeness))
        if relation is not None:
            items.append(float(relation.holds))
        family = self._asked_family
        if family in self._families and self.subjects:
            row = np.broadcast_to(self._families[family], self._own.shape)
            items.append(float(np.mean(matched_values(row, self._matched))))
        return items

    def _concept(self, row: int) -> ConceptScore:
        subject, index, identity = self.subjects[row], self._matched[row], self._identities[row]
        names = [other.name for other in self.one.subjects]
        family, rank, leaks = None, None, {}
        if index != UNMATCHED:
            prototypes = self.judge.prototypes
            own = prototypes.keys.index(drawing(self.one, subject))
            rank = prototype_rank(self.candidates.embeddings[index], prototypes.vectors, own)
            leaked = leakage(self._likeness, np.asarray([index]))[0].tolist()
            leaks = {name: value for name, value in zip(names, leaked, strict=True) if name != subject.name}
            family = max(self._families, key=lambda name: self._families[name][index], default=None)
        is_judged = self.candidates.detections is not None
        keeps = is_judged and self.prompt.style is None and subject.family is not None
        return ConceptScore(
            concept=subject,
            identity=identity,
            present=bool(index != UNMATCHED and identity >= self.judge.present_from),
            rank=rank,
            leakage=leaks,
            style_kept=family == subject.family if keeps else None,
            style_right=family == self._asked_family if is_judged and self._asked_family else None,
        )

    @cached_property
    def _backgrounds(self) -> dict[str, float]:
        return {} if self.judge.looker is None else self.judge.looker.background(self.pixels)

    @cached_property
    def _families(self) -> dict[str, Scores]:
        detections = self.candidates.detections
        found = {} if detections is None else detections.by_family()
        return {name: row.astype(np.float64) for name, row in found.items()}

    @property
    def _asked_family(self) -> str | None:
        return None if self.prompt.style is None else FAMILY_OF.get(self.prompt.style)
