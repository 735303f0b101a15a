"""What ships beside the judges of images: a table of data by judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from conceptloom.errors import DataError

Value = TypeVar("Value")


def shipped_entry(name: str, key: str, read: Callable[[Path], Mapping[str, Value]]) -> Value | None:
    """The entry of a shipped table, None where there is none.

    Args:
        name: file name of the table.
        key: whose entry.
        read: reads the file; raises `OSError` or `ValueError` for a damaged one.

    Raises:
        DataError: the shipped file is damaged.
    """
    path = Path(str(files("conceptloom") / "data" / "judges" / name))
    if not path.is_file():
        return None
    try:
        return read(path).get(key)
    except (OSError, ValueError):
        raise DataError(f"the shipped {name} is damaged: reinstall conceptloom") from None
