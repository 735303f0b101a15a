"""What a run that goes on makes of the files it finds in its folder."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np

from conceptloom.learning import Progress, Recorder, Resumed, build_request, resolve_config, run_folder
from conceptloom.pictures import Picture, write_png
from conceptloom.runs import read_jsonl

PIXELS = np.full((16, 16, 3), 99, np.uint8)


def go_on(out: Path, step: int) -> None:
    """Let a recorder take over the run of `out` at a step of EM."""
    request = build_request(
        [Picture("garden", None, PIXELS)], {"cat": None}, resolve_config("builtin", {"train": "tokens"})
    )

    def events() -> Generator[Progress, None, None]:
        yield Resumed("em", step, 9)

    assert len(list(Recorder(request, out, resume=True).record(events()))) == 1


def test_rows_that_are_no_records_are_dropped_and_half_characters_replaced(tmp_path: Path) -> None:
    metrics = run_folder(tmp_path / "set") / "metrics.jsonl"
    metrics.parent.mkdir()
    rows = [
        '{"stage": "em", "step": 1, "prompt": "\\ud800"}',
        '{"stage": "em", "step": 7}',
        '{"stage": [], "step": 1}',
        '{"stage": "em"}',
        '{"a": ' + "[" * 100_000,
    ]
    metrics.write_text("\n".join(rows))
    go_on(tmp_path / "set", 3)
    assert read_jsonl(metrics) == [{"stage": "em", "step": 1, "prompt": "?"}]


def test_previews_beyond_the_checkpoint_go_and_pictures_of_others_stay(tmp_path: Path) -> None:
    masks = run_folder(tmp_path / "set") / "previews" / "masks" / "garden"
    names = ("em-000002.png", "em-000007.png", "em-x.png", "mine.png", "em-.png")
    for name in names:
        write_png(masks / name, PIXELS)
    go_on(tmp_path / "set", 3)
    assert sorted(path.name for path in masks.iterdir()) == sorted({*names} - {"em-000007.png"})
