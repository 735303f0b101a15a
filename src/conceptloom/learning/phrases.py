"""Prompts for a drawn subset of a picture's concepts: the user's own words with phrases dropped, or the template."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conceptloom.backbone import PLACEHOLDER, refuse_stray_brackets
from conceptloom.concepts import Concept
from conceptloom.errors import PromptError

SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)

# Longest first: the first alternative that matches wins. The words in -ing among the joints always have an object.
_TOKEN = re.compile(
    r"(?P<joint>(?:"
    r"(?:to|on|at)\s+the\s+(?:left|right)(?:\s+side)?\s+of|(?:left|right)\s+of"
    r"|in\s+front\s+of|on\s+top\s+of|next\s+to|close\s+to|out\s+of|together\s+with|as\s+well\s+as"
    r"|and|or|but|then|with|without|near|beside|besides|by|at|on|onto|upon|in|inside|into|within|under|underneath"
    r"|below|beneath|above|over|behind|beyond|before|after|between|among|against|around|across|along|alongside"
    r"|through|past|toward|towards|from|to|off|of|for|while|that|who|which|is|are"
    r"|(?:chas|fac|hold|meet|rid|watch|wear)(?:es|s|ing)|carries|carrying"
    r"|containing|depicting|featuring|including|showing"
    r")(?![^\s,;:])|[;:&+])"
    r"|(?P<article>(?:an?|the|this|these|those|my|your|his|her|its|our|their|some|another|one|two|three)(?![^\s,;:]))"
    r"|(?P<ing>\w+ing(?![^\s,;:]))"
    r"|(?P<comma>,)"
    r"|(?P<word>[^\s,;:]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Phrase:
    """One mention of a concept: how it is joined to what stands before, and the words around the placeholder."""

    concept: str
    connector: str
    before: str
    """Words between connector and placeholder, as an article."""
    after: str
    """Words that say more about the concept, as "asleep"."""


@dataclass(frozen=True)
class LoosePrompt:
    """A user's prompt cut into a head ("a photo of"), one phrase per mention and a tail (", watercolour")."""

    head: str
    phrases: tuple[Phrase, ...]
    tail: str

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names mentioned, each once, in order of first mention."""
        return tuple(dict.fromkeys(phrase.concept for phrase in self.phrases))

    def keep(self, concepts: Sequence[str]) -> str:
        """The prompt without the phrases of concepts that are not in `concepts`.

        The first phrase that stays loses the connector to what stood before it.
        """
        kept = [phrase for phrase in self.phrases if phrase.concept in concepts]
        words = [self.head]
        for index, phrase in enumerate(kept):
            words += [phrase.connector if index else "", phrase.before, f"<{phrase.concept}>", phrase.after]
        text = " ".join(word for word in words if word) + self.tail
        return re.sub(r"\s+([,;:])", r"\1", text)


def split_prompt(prompt: str) -> LoosePrompt:
    """Cut `prompt` at its placeholders `<name>` (read without regard to case).

    Between two placeholders a connector (a preposition, "and", a word in -ing, a comma) begins the second one's
    phrase. A word in -ing may as well say more about a concept ("a sleeping <cat>") and a comma may part two
    adjectives: what can be read both ways stays with neither concept alone. Raises `PromptError` when there is no
    placeholder, or an angle bracket that belongs to none.
    """
    refuse_stray_brackets(prompt, "<name>")
    mentions = list(PLACEHOLDER.finditer(prompt))
    if not mentions:
        raise PromptError(f"the prompt '{prompt}' names no concept: write each one as <name>")
    gaps = [prompt[previous.end() : mention.start()] for previous, mention in itertools.pairwise(mentions)]
    opening = prompt[: mentions[0].start()]
    cut = _head_end(opening)
    leads = [("", opening[cut:])]
    afters = []
    for gap in gaps:
        start, end = _connector(gap)
        afters.append(gap[:start])
        leads.append((gap[start:end], gap[end:]))
    closing = prompt[mentions[-1].end() :]
    comma = closing.find(",")
    afters.append(closing if comma < 0 else closing[:comma])
    phrases = tuple(
        Phrase(_normal(mention.group(1)), _squeeze(connector), _squeeze(before), _squeeze(after))
        for mention, (connector, before), after in zip(mentions, leads, afters, strict=True)
    )
    return LoosePrompt(_squeeze(opening[:cut]), phrases, "" if comma < 0 else closing[comma:].rstrip())


def _head_end(opening: str) -> int:
    """Where the words before the first placeholder stop being about the whole picture: "a photo of| a sleeping "."""
    tokens = list(_TOKEN.finditer(opening))
    sure = [index for index in _joints(tokens, follows=None) if index > 0]
    return tokens[sure[-1]].end() if sure else 0


def _connector(gap: str) -> tuple[int, int]:
    """Start and end of what joins two placeholders with `gap` between them: " asleep |next to| a flying "."""
    tokens = list(_TOKEN.finditer(gap))
    kinds = [token.lastgroup for token in tokens]
    sure = _joints(tokens, follows="placeholder")
    last = sure[-1] if sure else -1
    articles = [index for index in range(last + 1, len(kinds)) if kinds[index] == "article"]
    unsure = [index for index in range(last + 1, len(kinds)) if kinds[index] in ("ing", "comma")]
    if articles and "ing" not in kinds[articles[-1] + 2 :]:
        end = tokens[articles[-1]].start()  # "the red, shiny <car>", "a flying <bird>"
    elif unsure:
        end = tokens[unsure[-1]].end()  # "the small sleeping <dog>" or "the sofa watching <dog>"
    elif sure:
        end = tokens[last].end()
    else:
        end = len(gap)
    first = max(last, 0)
    # "walking by, and": nothing is left hanging
    while first > 0 and kinds[first - 1] in ("joint", "article", "comma"):
        first -= 1
    return (tokens[first].start() if sure else 0), end


def _joints(tokens: Sequence[re.Match[str]], follows: str | None) -> list[int]:
    """Indices of the tokens that surely join two phrases; the tokens follow a placeholder or None, the beginning."""
    kinds = [follows, *(token.lastgroup for token in tokens), None]
    sure = []
    for index, (before, kind, after) in enumerate(zip(kinds, kinds[1:], kinds[2:], strict=False)):
        joins = {
            "joint": before != "article",
            "ing": before == "placeholder" or (before != "article" and after == "article"),
            "comma": before == "placeholder" or after in ("article", None),
        }
        if joins.get(kind or "word"):
            sure.append(index)
    return sure


def template_prompt(concepts: Sequence[Concept]) -> str:
    """ "a photo of <v1> and <v2> with <v4> pattern on <v3>": subjects, then patterns, then backgrounds.

    Within a kind the order given is kept.
    """
    of_kind: Mapping[str, list[str]] = {
        kind: [concept.placeholder_token for concept in concepts if concept.kind == kind]
        for kind in ("subject", "pattern", "background")
    }
    subjects, backgrounds = " and ".join(of_kind["subject"]), " and ".join(of_kind["background"])
    patterns = " and ".join(f"{token} pattern" for token in of_kind["pattern"])
    if subjects and patterns:
        patterns = f"with {patterns}"
    if backgrounds and (subjects or patterns):
        backgrounds = f"on {backgrounds}"
    return " ".join(["a photo of", *(part for part in (subjects, patterns, backgrounds) if part)])


def subset_prompt(own: LoosePrompt | None, concepts: Sequence[Concept]) -> str:
    """Prompt that names exactly `concepts`: the user's own with the other phrases dropped, else the template."""
    if own is None:
        return template_prompt(concepts)
    return own.keep([concept.name for concept in concepts])


def names_a_side(prompt: str | None) -> bool:
    """Whether the prompt says left or right, so that its picture must not be mirrored."""
    return prompt is not None and SIDED.search(prompt) is not None


def _normal(name: str) -> str:
    return unicodedata.normalize("NFKC", name).lower()


def _squeeze(text: str) -> str:
    return " ".join(text.split())
