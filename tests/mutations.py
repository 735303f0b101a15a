"""Damage for tests of what reads files: any bytes, a valid file with parts exchanged, JSON with another value in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from conceptloom.errors import ConceptloomError

T = TypeVar("T")

TEXT = st.text(st.characters(), max_size=8)
"""Half characters among it."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
"""Whatever JSON holds, and the NaN and infinity that Python's writes beside it."""


def bytes_like(valid: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, or the valid ones with one to three slices exchanged for any bytes or for another slice."""
    return st.binary(max_size=300) | _mutated(valid)


def json_like(valid: Any) -> st.SearchStrategy[bytes]:
    """A JSON file of the valid value with one or two values in it removed or exchanged, or as `bytes_like`."""
    changed = _changed(valid).map(lambda value: json.dumps(value).encode())
    return st.integers(0, 3).flatmap(lambda n: changed if n else bytes_like(json.dumps(valid).encode()))


def value_or_refusal(read: Callable[[Path], T], path: Path, content: bytes) -> T | None:
    """What is read from the content; None where it is refused in one line, the only other thing that may happen."""
    path.write_bytes(content)
    try:
        return read(path)
    except ConceptloomError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


@st.composite
def _mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    content = valid
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        other, end = sorted(draw(st.tuples(*[st.integers(0, len(valid))] * 2)))
        content = content[:first] + draw(st.binary(max_size=8) | st.just(valid[other:end])) + content[last:]
    return content


@st.composite
def _changed(draw: st.DrawFn, valid: Any) -> Any:
    whole: Any = {"": json.loads(json.dumps(valid))}
    for _ in range(draw(st.integers(1, 2))):
        holder, key = whole, ""
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 3)):
            holder = holder[key]
            key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        if holder is not whole and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(VALUES)
    return whole[""]
