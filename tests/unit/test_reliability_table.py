"""docs/reliability.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_test_that_the_table_names_exists() -> None:
    files = dict(re.findall(r"^- `(\w+)`: (tests/\S+\.py)$", PAGE, re.MULTILINE))
    named = re.findall(r"`(\w+)::(test_\w+)`", PAGE)
    assert len(named) > 100
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"^def {test}\(", (ROOT / files[file]).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    faults = PAGE.partition("## Measured")[0].splitlines()
    rows = [line for line in faults if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) >= 42
    assert [row for row in rows if "::test_" not in row and "no test" not in row] == []
