"""Killed anywhere, a run goes on to the same bits: at a hundred points of a short run, drawn by a fixed seed.

Fifty are at the run's own events, both sides of every change of stage among them, and forty just before a change on the
disk (a file opened for writing, a folder made, a rename, a removal), so also in the middle of writing a checkpoint or
the set: SIGKILL. Ten are inside one file's write: the system ends the process (SIGXFSZ) with the first so many bytes
written. The killed process is a fork of this one, which has the model loaded.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone
from conceptloom.errors import RunError
from conceptloom.learning import Progress, learn
from conceptloom.learning.progress import Stage
from conceptloom.pictures import Picture
from tiny_sets import content

POINTS = 100
AT_EVENTS, IN_WRITES = 50, 10
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}
CONFIG: dict[str, Any] = {
    "em_steps": 4,
    "joint_steps": 3,
    "batch_size": 2,
    "token_lr": 0.01,
    "joint_lr": 1e-3,
    "mask_update_every": 2,
    "initial_timesteps": 3,
    "e_step_timesteps": 2,
    "initializer": "inversion",
    "inversion_steps": 2,
    "prior_images": 2,
    "sample_steps": 1,
    "preview_every": 2,
    "checkpoint_every": 2,
    "train": "kv",
    "crf": {"iterations": 1},
}


def _learn(
    backbone: Backbone, out: Path, *, resume: bool, on_progress: Callable[[Progress], None] | None = None
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    learn(
        [Picture("yard", None, pixels)],
        {"cat": "cat", "beach": "beach"},
        out,
        kinds={"beach": "background"},
        base_model=backbone,
        config=CONFIG,
        resume=resume,
        on_progress=on_progress,
    )


def _changes_the_disk(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event of `sys.addaudithook` is about to change what is on the disk."""
    opened = name == "open" and isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wax+"))
    return name in CHANGES or opened


def _die_at(changes: int | None, events: int | None) -> Callable[[object], None]:
    """Kill this process at so many changes on the disk, or events of the run; returns the hook for its events."""
    seen = {"changes": 0, "events": 0}

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if not _changes_the_disk(name, arguments):
            return
        seen["changes"] += 1
        if seen["changes"] == changes:
            os.kill(os.getpid(), signal.SIGKILL)

    def count(_: object) -> None:
        seen["events"] += 1
        if seen["events"] == events:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def _die_writing(size: int) -> None:
    """Let the system end this process inside the write that takes a file beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _in_a_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does the work, negative when a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _count(backbone: Backbone, out: Path) -> tuple[int, list[Stage]]:
    """How many changes on the disk an uninterrupted run has, and the stage of each of its events."""
    changes = [0]
    active = [True]
    stages: list[Stage] = []

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if active and _changes_the_disk(name, arguments):
            changes[0] += 1

    sys.addaudithook(watch)
    _learn(backbone, out, resume=False, on_progress=lambda event: stages.append(event.stage))
    active.clear()
    return changes[0], stages


@dataclass(frozen=True)
class Point:
    """Where to die: at so many changes on the disk, at so many events, or once a file has so many bytes."""

    change: int | None = None
    event: int | None = None
    size: int | None = None


def _points(changes: int, stages: list[Stage], largest: int) -> list[Point]:
    """`POINTS` in all; files have up to `largest` bytes."""
    generator = np.random.default_rng(0)
    ends = {number for number, pair in enumerate(pairwise(stages), 1) if pair[0] != pair[1]}
    switches = ends | {number + 1 for number in ends}
    others = sorted(set(range(1, len(stages) + 1)) - switches)
    wanted = min(len(stages), AT_EVENTS)
    at_events = [*switches, *generator.choice(others, wanted - len(switches), replace=False)]
    sizes = generator.choice(np.arange(1, largest), IN_WRITES, replace=False)
    at_changes = generator.choice(np.arange(1, changes + 1), POINTS - wanted - IN_WRITES, replace=False)
    return [
        *(Point(change=int(at)) for at in at_changes),
        *(Point(event=int(at)) for at in at_events),
        *(Point(size=int(at)) for at in sizes),
    ]


def _go_on(backbone: Backbone, out: Path) -> None:
    """Resume what was killed; begin again where that was before its step 0, leave it where its set is complete."""
    try:
        _learn(backbone, out, resume=True)
    except RunError as error:
        if "nothing to resume" in str(error) and not out.exists():
            _learn(backbone, out, resume=False)
        elif not out.exists():
            raise


@pytest.mark.slow
def test_a_run_killed_at_any_of_a_hundred_points_ends_with_the_same_bits(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)  # a fork keeps no threads
    _learn(
        tiny_backbone, tmp_path / "first", resume=False
    )  # the model's own images are in the cache from now on
    counted = _count(tiny_backbone, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    points = _points(*counted, largest)
    killed = 0
    for number, point in enumerate(points):
        out = tmp_path / f"set-{number}"

        def die() -> None:
            if point.size is not None:  # noqa: B023 (called before the next point)
                _die_writing(point.size)  # noqa: B023
            hook = _die_at(point.change, point.event)  # noqa: B023
            _learn(tiny_backbone, out, resume=False, on_progress=hook)  # noqa: B023

        killed += _in_a_child(die) in (-signal.SIGKILL, -signal.SIGXFSZ)
        _go_on(tiny_backbone, out)
        assert content(out) == whole, point
        assert not [*tmp_path.glob(f"set-{number}.learning"), *tmp_path.glob(f".set-{number}.*.tmp")]
    assert killed >= 0.95 * len(points)
    assert len(points) == POINTS
