"""What a prompt may say, checked without the base model."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from conceptloom.backbone import PLACEHOLDER, refuse_stray_brackets
from conceptloom.errors import PromptError


def placeholders_in(prompt: str) -> tuple[str, ...]:
    """Placeholder tokens that `prompt` names, as "<cat>", in order and with repetitions.

    Case does not count, nor do spaces inside the brackets; a placeholder may stand inside a word.
    """
    return tuple(f"<{unicodedata.normalize('NFKC', name).lower()}>" for name in PLACEHOLDER.findall(prompt))


def check_prompt(prompt: str, known: Collection[str]) -> None:
    """Raise `PromptError` unless `prompt` names concepts of the set, and only those.

    A prompt without any would draw the base model's own idea of it, which is never what a concept set is for. An
    angle bracket that belongs to no placeholder is a mistyped one and is refused too.

    Args:
        prompt: free text with placeholders.
        known: placeholder tokens of the set.
    """
    listed = ", ".join(known)
    named = placeholders_in(prompt)
    for token in named:
        if token not in known:
            raise PromptError(f"the prompt names {token}, which is not in the concept set: it knows {listed}")
    refuse_stray_brackets(prompt, listed)
    if not named:
        raise PromptError(
            f"the prompt '{_shortened(prompt)}' names no learned concept: write at least one of {listed} in it,"
            " angle brackets included"
        )


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
