"""Messages are one printable line, whatever they quote."""

from __future__ import annotations

import copy

import pytest

from conceptloom.errors import MAX_MESSAGE, ConceptloomError, PromptError


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("plain: do this", "plain: do this"),
        ("a\nb\r\n c\u2028d", "a b c d"),
        ("a\x1b[31mb\x00c\u202ed", "a\ufffd[31mb\ufffdc\ufffdd"),
        ("köter 猫 '<cat>'", "köter 猫 '<cat>'"),
    ],
)
def test_a_message_is_one_printable_line(given: str, told: str) -> None:
    assert str(PromptError(given)) == told


def test_of_a_long_message_the_middle_goes() -> None:
    told = str(ConceptloomError("wrong: '" + "x" * 10_000 + "': do this"))
    assert len(told) == MAX_MESSAGE
    assert told.startswith("wrong: 'xxx")
    assert told.endswith("xxx': do this")


def test_an_error_handed_from_one_process_to_another_says_the_same() -> None:
    error = PromptError("a\nb" * 1000)
    again = copy.copy(error)  # by what processes take it apart into and make it from again
    assert (type(again), str(again)) == (PromptError, str(error))
