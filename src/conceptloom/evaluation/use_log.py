"""Where every use of the built-in benchmark's test sets is written down."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

from conceptloom.errors import RunError
from conceptloom.runs import write_text_atomic

NAME = "test-set-log.md"
DOCS = Path("docs")
PROJECT = "conceptloom"
HEAD = "# Uses of the test split\n\n| when (UTC) | methods | base model | command |\n|---|---|---|---|\n"


def use_log(out: Path) -> Path:
    """The log: beside the other documents where a checkout of Conceptloom is the working directory, else in `out`."""
    return (DOCS if _is_checkout() else out) / NAME


def log_use(path: Path, methods: str, base_model: str, command: str) -> None:
    """Add a line to the log, all or nothing.

    Raises:
        RunError: the log is there and no text.
        OSError: the disk refuses.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    cells = (when, methods, base_model, f"`{command}`")
    line = " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else HEAD
    except UnicodeDecodeError:
        raise RunError(f"{path} is no text, so this use cannot be written down: move it away") from None
    write_text_atomic(path, before.rstrip("\n") + f"\n| {line} |\n")


def _is_checkout() -> bool:
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError):
        return False
    return isinstance(project, dict) and project.get("name") == PROJECT
