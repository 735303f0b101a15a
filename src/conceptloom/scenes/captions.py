"""Loose captions, as on the web: half of what is in a picture, in any order, in varying words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RELATIONS = (
    "next to",
    "left of",
    "right of",
    "above",
    "behind",
    "in front of",
    "holding",
    "riding",
    "facing",
)

OVERLAPPING = ("behind", "in front of", "holding", "riding")
"""Relations in which one of the two may hide part of the other."""

STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent": "fluent",
    "noto_v1": "blob",
    "fxemoji": "firefox",
    "emojione": "emojione",
    "streamline": "outline",
}

SYNONYMS = {
    "rabbit": "bunny",
    "man": "guy",
    "woman": "lady",
    "car": "automobile",
    "bicycle": "bike",
    "airplane": "plane",
    "house": "home",
    "church": "chapel",
    "ship": "boat",
    "sailboat": "boat",
    "television": "tv",
    "baby": "infant",
    "dog": "puppy",
    "cat": "kitty",
    "pig": "piglet",
    "gift": "present",
    "ghost": "spirit",
    "fries": "chips",
    "sneaker": "shoe",
    "policeman": "cop",
    "football": "soccer ball",
    "sheep": "lamb",
    "corn": "maize",
    "eggplant": "aubergine",
    "ufo": "flying saucer",
}

_OPENINGS = ("a photo of", "a picture of", "an image of", "a drawing of", "a scene with", "")


@dataclass(frozen=True)
class Mention:
    """What a caption may say of one sprite; with `style_is_told` it always says the style of a sprite it names."""

    noun: str
    class_word: str
    family: str
    style_is_told: bool = False


def article(word: str, rng: np.random.Generator) -> str:
    """``a``/``an``, ``the`` or nothing before ``word``."""
    draw = rng.random()
    if draw < 0.12:
        return word
    if draw < 0.22:
        return f"the {word}"
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def phrase(mention: Mention, rng: np.random.Generator, *, with_class_words: bool = True) -> str:
    """One sprite's noun phrase: noun, synonym (8 %) or class word (10 %); its style in 60 %, or always.

    A style that must be told stands before its noun: the text encoder reads forwards, and a noun whose style follows
    would mean what it means alone.
    """
    word = _word(mention, rng, with_class_words=with_class_words)
    if rng.random() < 0.6 or mention.style_is_told:
        style = STYLES[mention.family]
        if rng.random() < 0.6 or mention.style_is_told:
            word = f"{style} {word}"
        else:
            return f"{article(word, rng)} in {style} style"
    return article(word, rng)


def caption(
    mentions: Sequence[Mention],
    relation: str | None,
    background: str,
    rng: np.random.Generator,
    *,
    loose: bool = True,
    clear: bool = False,
) -> str:
    """A caption for a scene, lower case, possibly empty (10 %).

    ``mentions`` come in the order of the relation (``a riding b``); the relation is said in 70 % where there are
    two, else the order is random and says nothing of positions. With two or more mentions one is left out in
    20 %; the background in 30 %. Without ``loose`` captions name every sprite by its noun or a synonym, and the
    background always. ``clear`` captions mean what a prompt means: a relation in which one may hide the other is always
    said where both are named, so that "and" is said of two apart; a background goes without article in 30 %; where one
    sprite is named its style stands at the end of the caption in 20 %.
    """
    if rng.random() < 0.10:
        return ""
    kept = list(mentions)
    if loose and len(kept) > 1 and rng.random() < 0.20:
        kept.pop(int(rng.integers(len(kept))))
        relation = None
    style = ""
    if clear and len(kept) == 1 and rng.random() < 0.20:
        (mention,) = kept
        style = f"in {STYLES[mention.family]} style"
        phrases = [article(_word(mention, rng, with_class_words=loose), rng)]
    else:
        phrases = [phrase(mention, rng, with_class_words=loose) for mention in kept]
    must_relate = clear and relation in OVERLAPPING
    if relation is not None and len(kept) == 2 and (must_relate or rng.random() < 0.7):
        subject = f"{phrases[0]} {relation} {phrases[1]}"
    else:
        order = rng.permutation(len(phrases))
        shuffled = [phrases[index] for index in order]
        joiner = str(rng.choice([" and ", ", ", " with "]))
        subject = joiner.join([", ".join(shuffled[:-1]), shuffled[-1]]) if len(shuffled) > 1 else shuffled[0]
    words = [str(rng.choice(_OPENINGS)), subject]
    if not loose or rng.random() >= 0.30:
        words.append(_place(background, rng, without_article=0.3 if clear else 0.0))
    words.append(style)
    return " ".join(" ".join(words).split())


def _word(mention: Mention, rng: np.random.Generator, *, with_class_words: bool) -> str:
    """Noun, synonym (8 %) or class word (10 %)."""
    draw = rng.random()
    if with_class_words and draw < 0.10:
        return mention.class_word
    return SYNONYMS.get(mention.noun, mention.noun) if 0.10 <= draw < 0.18 else mention.noun


def _place(background: str, rng: np.random.Generator, without_article: float) -> str:
    preposition = str(rng.choice(["on", "on", "on", "in", "at", "in front of", "with"]))
    if preposition == "with" and not background.endswith("background"):
        background = f"{background} background"
    plural = background.endswith("s") or background in ("grass", "sand", "water", "snow", "wood")
    bare = 0.7 if plural else without_article
    determiner = "" if bare and rng.random() < bare else str(rng.choice(["a ", "the "]))
    return f"{preposition} {determiner}{background}"


def vocabulary(
    nouns: Sequence[str], class_words: Sequence[str], backgrounds: Sequence[str]
) -> tuple[str, ...]:
    """Every word a caption can hold, sorted: what the built-in tokenizer must know whole."""
    spoken = [
        *nouns,
        *class_words,
        *backgrounds,
        *SYNONYMS.values(),
        *STYLES.values(),
        *RELATIONS,
        *_OPENINGS,
    ]
    spoken += ["style background", "on in at front of with", "a an the and"]
    return tuple(sorted({word for text in spoken for word in text.split()}))
