"""Generated images judged against their prompts and the pictures their concepts were learned from: one score each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conceptloom.evaluation.benchmark import BenchmarkSet, PromptKind, TestPrompt, TrueConcept
from conceptloom.evaluation.image_metrics import copy_similarity, distances_to_others
from conceptloom.evaluation.image_references import References
from conceptloom.evaluation.image_view import ConceptScore, ImageJudge, ImageView, RelationScore
from conceptloom.evaluation.units import UnitResult
from conceptloom.judges.detector import Floats, Pixels


@dataclass(frozen=True)
class ImageScore:
    """One generated image; None is what was not asked for, or no judge can tell.

    Attributes:
        set: the set's name.
        method: what drew it.
        variant: of the method.
        seed: of learning and drawing.
        prompt: number of the prompt.
        kind: of the prompt.
        index: number of the image among the prompt's.
        is_single: whether the prompt asks for one subject, no thing beside it and no style.
        concepts: the subjects that the prompt asks for.
        known: probability that each known thing that the prompt asks for is there.
        relation: the relation asked for.
        place: the learned place asked for.
        place_right: whether the likeliest background is the place asked for, learned or known.
        place_likeness: mean cosine of what is behind the things with the learned place.
        mixing: `detect_and_compare`.
        mixing_released: `detect_and_compare_released`.
        composition: mean cosine of the whole image with the set's pictures, where all its subjects are asked for.
        text: cosine with the prompt in class words.
        distance: mean cosine distance to the other images of the prompt.
        memorisation: `copy_similarity` with the set's pictures, of one of these with the others.
        overall: the one score, 0 to 1, by which the automatic judge chooses: the plain mean over what the prompt asks
            for (`ImageView.checklist`).
    """

    set: str
    method: str
    variant: str
    seed: int
    prompt: int
    kind: PromptKind
    index: int
    is_single: bool
    concepts: tuple[ConceptScore, ...]
    known: Mapping[str, float]
    relation: RelationScore | None
    place: TrueConcept | None
    place_right: bool | None
    place_likeness: float | None
    mixing: float | None
    mixing_released: float | None
    composition: float | None
    text: float | None
    distance: float | None
    memorisation: float | None
    overall: float | None

    @property
    def asked(self) -> tuple[TrueConcept, ...]:
        """The learned concepts that the prompt asks for, its place last."""
        subjects = tuple(one.concept for one in self.concepts)
        return subjects if self.place is None else (*subjects, self.place)

    @property
    def identity(self) -> dict[str, float]:
        """Identity by asked subject."""
        return {score.concept.name: score.identity for score in self.concepts}

    @property
    def present(self) -> dict[str, bool]:
        """Presence by asked subject."""
        return {score.concept.name: score.present for score in self.concepts}


def score_images(
    one: BenchmarkSet,
    result: UnitResult,
    prompts: Sequence[TestPrompt],
    found: References,
    judge: ImageJudge,
    num_images: int | None = None,
) -> list[ImageScore]:
    """Scores of a unit's images, in their order.

    Args:
        one: the set that was learned.
        result: the unit.
        prompts: what was asked for, by number; images of further numbers are not measured.
        found: the set's references.
        judge: judges.
        num_images: of a prompt; further ones are not measured.
    """
    measured = {
        (prompt, index): pixels
        for (prompt, index), pixels in result.images.items()
        if prompt < len(prompts) and (num_images is None or index < num_images)
    }
    key = result.key
    return score_pictures(one, measured, prompts, found, judge, key.method, key.variant, key.seed)


def score_pictures(
    one: BenchmarkSet,
    pictures: Mapping[tuple[int, int], Pixels],
    prompts: Sequence[TestPrompt],
    found: References,
    judge: ImageJudge,
    method: str,
    variant: str = "",
    seed: int = 0,
) -> list[ImageScore]:
    """As `score_images`, of pictures (H, W, 3) by (number of the prompt, number of the image), wherever from."""
    scores = []
    wholes: dict[int, list[Floats]] = defaultdict(list)
    for (number, index), pixels in pictures.items():
        view = ImageView(one, prompts[number], found, judge, pixels)
        wholes[number].append(view.candidates.whole)
        scores.append(_score(view, method, variant, seed, number, index))
    distances = {number: iter(distances_to_others(np.stack(group))) for number, group in wholes.items()}
    return [replace(score, distance=next(distances[score.prompt])) for score in scores]


def _score(view: ImageView, method: str, variant: str, seed: int, number: int, index: int) -> ImageScore:
    asked_place, place = view.prompt.asked_place, view.place_word()
    mixing, checklist = view.mixing(), view.checklist()
    return ImageScore(
        set=view.one.name,
        method=method,
        variant=variant,
        seed=seed,
        prompt=number,
        kind=view.prompt.kind,
        index=index,
        is_single=len(view.subjects) == 1 and not view.prompt.known and view.prompt.style is None,
        concepts=view.concepts(),
        known=view.known,
        relation=view.relation(),
        place=None if asked_place is None else view.one.concept(asked_place),
        place_right=None if place is None else place[0],
        place_likeness=view.place_likeness(),
        mixing=None if mixing is None else mixing[0],
        mixing_released=None if mixing is None else mixing[1],
        composition=view.composition(),
        text=view.text(),
        distance=None,
        memorisation=copy_similarity(view.pixels, [picture.pixels for picture in view.one.pictures]),
        overall=sum(checklist) / len(checklist) if checklist else None,
    )
