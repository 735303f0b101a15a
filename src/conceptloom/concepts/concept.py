"""A concept and its name."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from conceptloom.errors import PromptError
from conceptloom.runs import is_device_name

ConceptKind = Literal["subject", "background", "pattern"]
KINDS: tuple[ConceptKind, ...] = get_args(ConceptKind)

MAX_NAME = 32
MAX_VECTORS = 32


@dataclass(frozen=True)
class Concept:
    """Something a user names and wants learned.

    Attributes:
        name: "cat"; see `validate_concept_name`.
        kind: subject, background or pattern.
        initializer: rough class of the concept ("animal"), or None.
        num_vectors: rows of its placeholder token, 1 to 32.

    Raises:
        PromptError: the name, kind or number of vectors cannot be used.
    """

    name: str
    kind: ConceptKind = "subject"
    initializer: str | None = None
    num_vectors: int = 1

    def __post_init__(self) -> None:
        if validate_concept_name(self.name) != self.name:
            raise PromptError(
                f"the concept name '{self.name}' is not in Unicode's NFKC form: normalise it first"
            )
        if self.kind not in KINDS:
            raise PromptError(
                f"the kind of concept '{self.name}' is '{self.kind}': choose one of {', '.join(KINDS)}"
            )
        count = self.num_vectors
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_VECTORS:
            raise PromptError(f"concept '{self.name}' has {count!r} vectors: choose 1 to {MAX_VECTORS}")

    @property
    def placeholder_token(self) -> str:
        """The word for it in prompts: "<cat>"."""
        return f"<{self.name}>"


def validate_concept_name(name: str) -> str:
    """The name in NFKC form: 1 to 32 lower-case letters, digits, "-" and "_", beginning with a letter or digit.

    Letters of any script will do, and look-alikes of two scripts are two names. The name is a word in prompts and a
    file name in the set, so names of Windows' devices ("con") are refused too.

    Raises:
        PromptError: anything else.
    """
    normal = unicodedata.normalize("NFKC", name)
    lower = normal.lower()
    # L letters, M the marks that some scripts write vowels with, N digits
    usual = all(character in "-_" or unicodedata.category(character)[0] in "LMN" for character in lower)
    if (
        not usual
        or not 1 <= len(lower) <= MAX_NAME
        or lower[0] in "-_"
        or unicodedata.category(lower[0])[0] == "M"
    ):
        raise PromptError(
            f"the concept name {name[:MAX_NAME]!r} cannot be used: take 1 to {MAX_NAME} lower-case letters, digits,"
            " '-' or '_', beginning with a letter or digit"
        )
    if normal != lower:
        raise PromptError(f"the concept name '{name}' has capital letters: use '{lower}'")
    if is_device_name(normal):
        raise PromptError(
            f"the concept name '{name}' is a device's on Windows, no file's: choose another one"
        )
    return normal
