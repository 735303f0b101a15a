"""The log of uses of the test sets: where it is, and what is added to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptloom.errors import RunError
from conceptloom.evaluation.use_log import log_use, use_log


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[project]\nname = "conceptloom"\n', "docs"),
        ('[project]\nname = "holiday"\n', "out"),
        ('name = "conceptloom"\n', "out"),
        ("[project", "out"),
        ("project = 3", "out"),
        (None, "out"),
    ],
)
def test_the_log_is_among_the_documents_of_a_checkout_alone(
    text: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert use_log(Path("out")) == Path(place) / "test-set-log.md"


def test_a_use_is_one_row_under_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    log_use(path, "paper", "builtin 0123", "first")
    before = path.read_text(encoding="utf-8")
    log_use(path, "fixed, paper", "builtin 0123", "evaluate --out 'a|b\nc'")
    after = path.read_text(encoding="utf-8")
    assert after.startswith(before)
    (row,) = after[len(before) :].splitlines()
    assert row.endswith(r"| fixed, paper | builtin 0123 | `evaluate --out 'a\|b c'` |")


def test_a_log_whose_last_line_was_left_open_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    path.write_text("| yesterday |", encoding="utf-8")
    log_use(path, "paper", "builtin 0123", "first")
    assert path.read_text(encoding="utf-8").splitlines()[0] == "| yesterday |"


def test_a_log_that_is_no_text_is_told_and_left(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="move it away"):
        log_use(path, "paper", "builtin 0123", "first")
    assert path.read_bytes() == b"\xff\xfe"
