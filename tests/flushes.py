"""What is flushed to the disk, and what is renamed, in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """From now on ("fsync", name) of every file or folder flushed and ("rename", new name) of every rename."""
    told: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def flush(descriptor: int) -> None:
        told.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def move(path: Path, target: Path) -> Path:
        told.append(("rename", Path(target).name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "rename", move)
    return told
