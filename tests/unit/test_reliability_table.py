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


def test_every_fault_of_the_list_has_a_row_and_names_a_test_or_says_why_there_is_none() -> None:
    faults = PAGE.partition("## Measured")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", faults, re.MULTILINE)
    assert {*range(1, 19), *range(23, 47)} <= {int(number) for number, _ in rows}
    answers = dict(re.findall(r"^### (\d+\. .+?)\n(.+?)(?=\n##|\Z)", faults, re.MULTILINE | re.DOTALL))
    assert list(answers) == [f"{number}. {fault}" for number, fault in rows]
    assert [row for row, text in answers.items() if "::test_" not in text and "no test" not in text] == []
