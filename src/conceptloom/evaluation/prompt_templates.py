"""Twenty test prompts for a set of concepts, from the words a base model knows.

Five kinds in turn, so that any ten in a row hold them all: a new context, an interaction between learned concepts, one
with a known thing, a transfer to the learned place, a style. A set of one subject has known things where others have
interactions; a set without a learned place has contexts where others have transfers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conceptloom.evaluation.benchmark import PROMPT_KINDS, PromptKind, Relation, TestPrompt, TrueConcept
from conceptloom.evaluation.deck import Deck
from conceptloom.scenes.captions import RELATIONS

ROUNDS = 4
PROMPTS_PER_SET = ROUNDS * len(PROMPT_KINDS)

ACTORS = frozenset({"animal", "bird", "bug", "creature", "person", "toy animal"})
"""Class words of what can hold, ride or face something."""
_ACTS = frozenset({"holding", "riding", "facing"})
_OBJECTS_OF: Mapping[str, frozenset[str]] = {
    "holding": frozenset({"clothes", "food", "fruit", "object", "toy"}),
    "riding": frozenset({"animal", "bird", "creature", "vehicle"}),
}
_PLURALS = frozenset({"fries", "glasses", "grapes", "jeans", "scissors"})


@dataclass(frozen=True)
class KnownWords:
    """Words a base model knows.

    Attributes:
        places: phrase with "{}" in the place's stead by its word, as "beach": "on the {}"; at least 8.
        things: class word by noun; at least 8 beside a set's own.
        styles: words for "in ... style"; at least 4 beside a set's own.
    """

    places: Mapping[str, str]
    things: Mapping[str, str]
    styles: tuple[str, ...]


def prompts_for(
    concepts: Sequence[TrueConcept],
    known: KnownWords,
    rng: np.random.Generator,
    *,
    strangers: Sequence[str] = (),
    homes: Sequence[str] = (),
    own_styles: Sequence[str] = (),
) -> tuple[TestPrompt, ...]:
    """Twenty different prompts for the concepts of one set, kinds in turn.

    Relations make sense (`makes_sense`). Half of the interactions, half of the prompts with known things and a
    quarter of those for a style say where, some of them in the learned place.

    Args:
        concepts: the set's subjects, and at most one place.
        known: words the base model knows; the set's own nouns among them are not used.
        rng: draws places, things, relations and styles.
        strangers: names of the subjects that no picture shows in the learned place: they go there.
        homes: words for the places in the pictures, learned or not: no new contexts.
        own_styles: words for the styles of the pictures: not asked for.
    """
    writer = _Writer(concepts, known, rng, strangers, homes, own_styles)
    return tuple(writer.prompt(kind) for _ in range(ROUNDS) for kind in PROMPT_KINDS)


def makes_sense(relation: str, subject: str, thing: str) -> bool:
    """Whether something of class `subject` can have the relation to something of class `thing`.

    Only what can act holds, rides or faces; only what can be held or ridden is.
    """
    return (relation not in _ACTS or subject in ACTORS) and thing in _OBJECTS_OF.get(relation, {thing})


def at_place(subject: TrueConcept, place: TrueConcept, phrases: Mapping[str, str]) -> TestPrompt:
    """A subject alone in a learned place; `phrases` as `KnownWords.places`."""
    where = phrases.get(place.noun, "on the {}").format(f"<{place.name}>")
    return TestPrompt(f"a photo of {_a(subject)} {where}", "transfer", (subject.name, place.name), place.name)


class _Writer:
    """Writes a set's prompts; what was drawn for one is not drawn again before all else was."""

    def __init__(
        self,
        concepts: Sequence[TrueConcept],
        known: KnownWords,
        rng: np.random.Generator,
        strangers: Sequence[str],
        homes: Sequence[str],
        own_styles: Sequence[str],
    ) -> None:
        own = {word for concept in concepts for word in (concept.noun, concept.word, concept.class_word)}
        self._subjects = [concept for concept in concepts if concept.split != "place"]
        self._place = next((concept for concept in concepts if concept.split == "place"), None)
        self._strangers = [subject for subject in self._subjects if subject.name in strangers]
        self._natives = [subject for subject in self._subjects if subject not in self._strangers]
        self._phrases = known.places
        self._classes = {noun: class_word for noun, class_word in known.things.items() if noun not in own}
        self._places = Deck([word for word in known.places if word not in {*homes, *own}], rng)
        self._things = Deck(list(self._classes), rng)
        self._styles = Deck([style for style in known.styles if style not in own_styles], rng)
        self._relations = {kind: Deck(RELATIONS, rng) for kind in PROMPT_KINDS}
        self._turns = dict.fromkeys(PROMPT_KINDS, 0)

    def prompt(self, kind: PromptKind) -> TestPrompt:
        if kind == "interaction" and len(self._subjects) < 2:
            kind = "known"
        if kind == "transfer" and self._place is None:
            kind = "context"
        turn = self._turns[kind]
        self._turns[kind] += 1
        if kind == "context":
            return self._context(turn)
        if kind == "interaction":
            return self._interaction(turn)
        if kind == "known":
            return self._with_known(turn)
        return self._transfer(turn) if kind == "transfer" else self._style(turn)

    def _context(self, turn: int) -> TestPrompt:
        alone = [self._subject(turn // 2)]
        shown = (alone, self._subjects, alone, self._subjects[-2:])[turn % ROUNDS]
        place, where = self._known_place()
        spoken = " and ".join(_a(subject) for subject in shown)
        return TestPrompt(f"a photo of {spoken} {where}", "context", _names(*shown), place)

    def _interaction(self, turn: int) -> TestPrompt:
        count = len(self._subjects)
        pairs = [(a, (a + step) % count) for step in range(1, count) for a in range(count)]
        first, second = (self._subjects[index] for index in pairs[turn % len(pairs)])
        relation = self._relation("interaction", first.class_word, second.class_word)
        asked, text = _names(first, second), f"{_a(first)} {relation} {_a(second)}"
        place, asked, text = self._sometimes_at(turn, asked, text)
        return TestPrompt(text, "interaction", asked, place, (first.name, relation, second.name))

    def _with_known(self, turn: int) -> TestPrompt:
        subject = self._subject(turn)
        noun, relation = self._thing_for("known", subject)
        asked, text = _names(subject), f"{_a(subject)} {relation} {_article(noun)}{noun}"
        place, asked, text = self._sometimes_at(turn, asked, text)
        return TestPrompt(text, "known", asked, place, (subject.name, relation, noun), (noun,))

    def _transfer(self, turn: int) -> TestPrompt:
        """A stranger goes alone, to a native, and with a known thing; where there is none, known things go."""
        stranger = self._strangers[0] if self._strangers else None
        if turn == 0 and stranger:
            return self._transferred(_a(stranger), stranger)
        if turn == 1 and stranger and self._natives:
            native = self._natives[0]
            verb = self._relation("transfer", stranger.class_word, native.class_word)
            text = f"{_a(stranger)} {verb} {_a(native)}"
            return self._transferred(text, stranger, native, relation=(stranger.name, verb, native.name))
        if turn == 1:
            subject, noun = self._subjects[0], self._things.draw()
            return self._transferred(f"{_a(subject)} and {_article(noun)}{noun}", subject, known=noun)
        if turn == 3:
            subject = stranger or self._subjects[-1]
            noun, verb = self._thing_for("transfer", subject)
            text = f"{_a(subject)} {verb} {_article(noun)}{noun}"
            return self._transferred(text, subject, known=noun, relation=(subject.name, verb, noun))
        noun = self._things.draw()
        return self._transferred(f"{_article(noun)}{noun}", known=noun)

    def _transferred(
        self, text: str, *shown: TrueConcept, known: str | None = None, relation: Relation | None = None
    ) -> TestPrompt:
        place, asked, text = self._at_learned(_names(*shown), f"a photo of {text}")
        return TestPrompt(text, "transfer", asked, place, relation, () if known is None else (known,))

    def _style(self, turn: int) -> TestPrompt:
        shown = self._subjects if turn == 1 else [self._subject((turn + 1) // 2)]
        place, asked, text = None, _names(*shown), " and ".join(_a(subject) for subject in shown)
        if turn == 3:
            place, where = self._known_place()
            text = f"{text} {where}"
        style = self._styles.draw()
        return TestPrompt(f"{text} in {style} style", "style", asked, place, style=style)

    def _sometimes_at(
        self, turn: int, asked: tuple[str, ...], text: str
    ) -> tuple[str | None, tuple[str, ...], str]:
        """Nowhere, in the learned place if there is one, nowhere, in a known place, and so on."""
        if turn % 2 == 0:
            return None, asked, text
        if turn % ROUNDS == 1 and self._place is not None:
            return self._at_learned(asked, text)
        place, where = self._known_place()
        return place, asked, f"{text} {where}"

    def _at_learned(self, asked: tuple[str, ...], text: str) -> tuple[str, tuple[str, ...], str]:
        assert self._place is not None
        phrase = self._phrases.get(self._place.noun, "on the {}")
        return (
            self._place.name,
            (*asked, self._place.name),
            f"{text} {phrase.format(f'<{self._place.name}>')}",
        )

    def _known_place(self) -> tuple[str, str]:
        word = self._places.draw()
        return word, self._phrases[word].format(word)

    def _subject(self, turn: int) -> TrueConcept:
        return self._subjects[turn % len(self._subjects)]

    def _relation(self, kind: PromptKind, subject: str, thing: str) -> str:
        return self._relations[kind].draw(lambda relation: makes_sense(relation, subject, thing))

    def _thing_for(self, kind: PromptKind, subject: TrueConcept) -> tuple[str, str]:
        """A known noun, and a relation that the subject can have to it."""

        def possible(relation: str) -> list[str]:
            return [
                noun
                for noun, thing in self._classes.items()
                if makes_sense(relation, subject.class_word, thing)
            ]

        relation = self._relations[kind].draw(lambda relation: bool(possible(relation)))
        return self._things.draw(lambda noun: noun in possible(relation)), relation


def _names(*concepts: TrueConcept) -> tuple[str, ...]:
    return tuple(concept.name for concept in concepts)


def _a(concept: TrueConcept) -> str:
    return f"{_article(concept.word or concept.class_word)}<{concept.name}>"


def _article(word: str) -> str:
    if word in _PLURALS:
        return ""
    return "an " if word[0] in "aeiou" else "a "
