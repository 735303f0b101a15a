"""Killed anywhere, a run goes on to the same bits: SIGKILL at a hundred points of a short run.

Half of the points are just before a change on the disk (a file opened for writing, a folder made, a rename, a
removal), so also in the middle of writing a checkpoint or the set; half are at the run's own events, all stage
switches among them. The killed process is a fork of this one, which has the model loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone
from conceptloom.concepts import ConceptSet
from conceptloom.errors import RunError
from conceptloom.learning import learn
from conceptloom.pictures import Picture

POINTS = 100
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
    backbone: Backbone, out: Path, *, resume: bool, on_progress: Callable[[object], None] | None = None
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


def _count(backbone: Backbone, out: Path) -> tuple[int, int]:
    """How many changes on the disk and events an uninterrupted run has."""
    counted: dict[str, int] = {"changes": 0, "events": 0}
    active = [True]

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if active and _changes_the_disk(name, arguments):
            counted["changes"] += 1

    def count(_: object) -> None:
        counted["events"] += 1

    sys.addaudithook(watch)
    _learn(backbone, out, resume=False, on_progress=count)
    active.clear()
    return counted["changes"], counted["events"]


def _same(one: ConceptSet, other: ConceptSet) -> bool:
    assert one.weights is not None
    assert other.weights is not None
    return (
        all(torch.equal(rows, other.embeddings[name]) for name, rows in one.embeddings.items())
        and all(np.array_equal(mask, other.masks[key]) for key, mask in one.masks.items())
        and all(
            torch.equal(tensor, other.weights.tensors[name]) for name, tensor in one.weights.tensors.items()
        )
    )


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
    changes, events = _count(tiny_backbone, tmp_path / "whole")
    whole = ConceptSet.load(tmp_path / "whole")
    generator = np.random.default_rng(0)
    at_changes = generator.choice(
        np.arange(1, changes + 1), min(POINTS - min(events, POINTS // 2), changes), replace=False
    )
    at_events = np.linspace(1, events, min(events, POINTS // 2)).round().astype(int)
    points = [(int(at), None) for at in at_changes] + [(None, int(at)) for at in at_events]
    killed = 0
    for number, (at_change, at_event) in enumerate(points):
        out = tmp_path / f"set-{number}"

        def die() -> None:
            hook = _die_at(at_change, at_event)  # noqa: B023 (called before the next point)
            _learn(tiny_backbone, out, resume=False, on_progress=hook)  # noqa: B023

        killed += _in_a_child(die) == -signal.SIGKILL
        _go_on(tiny_backbone, out)
        assert _same(ConceptSet.load(out), whole), (at_change, at_event)
        assert not (tmp_path / f"set-{number}.learning").exists()
    assert killed >= 0.95 * len(points)
    assert len(points) == POINTS
