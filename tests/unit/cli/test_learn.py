"""What `conceptloom learn` says while it learns."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.cli.learn import told
from conceptloom.learning import DriftMeasured, MasksUpdated, Noticed, Progress, Resumed, StepDone

MASKS = np.ones((2, 8, 8), dtype=np.bool_)


def updated(*collapsed: str) -> MasksUpdated:
    return MasksUpdated(
        "em",
        20,
        400,
        "yard",
        ("cat", "ball"),
        MASKS,
        None,
        overlap=(0.0, 0.0),
        rescued=(),
        collapsed=collapsed,
    )


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (updated("cat", "ball"), ["masks collapsed in yard at em step 20: cat, ball"]),
        (updated(), []),
        (Noticed("em", 3, 400, text="out of memory"), ["out of memory"]),
        (Resumed("em", 7, 400, skipped=("one is damaged",)), ["one is damaged", "going on after em step 7"]),
        (
            DriftMeasured("joint", 9, 9, prompts=(), before=0.12345, after=0.2),
            ["denoising loss on other nouns: 0.1235 before, 0.2000 after"],
        ),
        (StepDone("em", 1, 400, losses={"loss": 1.0}), []),
    ],
)
def test_an_event_is_told_in_lines_above_the_bar(event: Progress, lines: list[str]) -> None:
    assert told(event, {}) == lines


def test_masks_that_stay_collapsed_are_told_once() -> None:
    assert told(updated("cat"), {"yard": ("cat",)}) == []
    assert told(updated("cat"), {"yard": ("cat", "ball")}) == ["masks collapsed in yard at em step 20: cat"]
