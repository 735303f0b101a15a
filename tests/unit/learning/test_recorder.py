"""What a run that goes on makes of the files it finds in its folder."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptloom.concepts import BaseModelRecord, ConceptSet
from conceptloom.learning import (
    Finished,
    MasksUpdated,
    Noticed,
    Progress,
    Recorder,
    Resumed,
    build_request,
    resolve_config,
    run_folder,
)
from conceptloom.pictures import Picture, write_png
from conceptloom.runs import read_jsonl

PIXELS = np.full((16, 16, 3), 99, np.uint8)
REQUEST = build_request(
    [Picture("garden", None, PIXELS)], {"cat": None}, resolve_config("builtin", {"train": "tokens"})
)
LEARNED = ConceptSet(
    REQUEST.concepts,
    {"cat": torch.ones(1, 4)},
    BaseModelRecord("tiny", "0" * 64, None),
    masks={("garden", "cat"): np.eye(16, dtype=bool)},
    provenance={"rescues": {}, "drift": {}},
)


def end() -> Generator[Progress, None, None]:
    """The last event of a run."""
    yield Finished("em", 9, 9, concept_set=LEARNED)


def go_on(out: Path, step: int) -> None:
    """Let a recorder take over the run of `out` at a step of EM."""

    def events() -> Generator[Progress, None, None]:
        yield Resumed("em", step, 9)

    assert len(list(Recorder(REQUEST, out, resume=True).record(events()))) == 1


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


@pytest.mark.parametrize("name", ["samples/em-000002.png", "masks/garden/masks-000001.png"])
def test_a_damaged_preview_is_left_out_of_the_page_and_the_set_is_written(tmp_path: Path, name: str) -> None:
    out = tmp_path / "set"
    previews = run_folder(out) / "previews"
    for sound in ("samples/em-000004.png", "masks/garden/em-000002.png"):
        write_png(previews / sound, PIXELS)
    write_png(previews / name, PIXELS)
    (previews / name).write_bytes((previews / name).read_bytes()[:60])
    *_, noticed, finished = Recorder(REQUEST, out, resume=True).record(end())
    assert isinstance(noticed, Noticed)
    assert noticed.text == f"previews/{name} is damaged and not on the page"
    assert isinstance(finished, Finished)
    assert ConceptSet.load(out).concepts == LEARNED.concepts
    assert noticed.text in (out / "index.html").read_text()


def test_rows_that_cannot_be_drawn_are_left_out_of_the_page(tmp_path: Path) -> None:
    out = tmp_path / "set"
    run_folder(out).mkdir()
    rows = [
        '{"stage": "em", "step": 1, "mask": 0.5, "seconds": 60}',
        '{"stage": "em", "step": 2, "mask": "x", "prior": NaN, "attention": 1e999, "seconds": "x"}',
        '{"stage": "em", "step": 3, "mask": 0.25, "seconds": 60}',
        '{"stage": "em", "step": "x", "mask": 0.25}',
    ]
    (run_folder(out) / "metrics.jsonl").write_text("\n".join(rows))
    assert isinstance(list(Recorder(REQUEST, out, resume=True).record(end()))[-1], Finished)
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "2.0 minutes" in page


def test_previews_beyond_the_checkpoint_go_and_pictures_of_others_stay(tmp_path: Path) -> None:
    masks = run_folder(tmp_path / "set") / "previews" / "masks" / "garden"
    names = ("em-000002.png", "em-000007.png", "em-x.png", "mine.png", "em-.png")
    for name in names:
        write_png(masks / name, PIXELS)
    go_on(tmp_path / "set", 3)
    assert sorted(path.name for path in masks.iterdir()) == sorted({*names} - {"em-000007.png"})


def updated(rescued: tuple[str, ...], collapsed: tuple[str, ...]) -> MasksUpdated:
    masks = np.eye(16, dtype=np.bool_)[None]
    return MasksUpdated("em", 9, 9, "garden", ("cat",), masks, None, (0.5,), rescued, collapsed)


@pytest.mark.parametrize(("rescued", "collapsed"), [((), ()), (("cat",), ()), ((), ("cat",))])
def test_the_metrics_name_every_refused_and_every_collapsed_mask(
    rescued: tuple[str, ...], collapsed: tuple[str, ...], tmp_path: Path
) -> None:
    def events() -> Generator[Progress, None, None]:
        yield updated(rescued, collapsed)
        yield from end()

    list(Recorder(REQUEST, tmp_path / "set", resume=False).record(events()))
    (row,) = read_jsonl(tmp_path / "set" / "metrics.jsonl")
    assert (row["rescued"], row["collapsed"]) == (list(rescued), list(collapsed))


@pytest.mark.parametrize(("count", "told"), [(0, ""), (3, "; 3 of its updates refused")])
def test_the_page_says_how_many_of_a_concepts_updates_were_refused(
    count: int, told: str, tmp_path: Path
) -> None:
    learned = replace(LEARNED, provenance={"rescues": {"garden": {"cat": count}}, "drift": {}})

    def events() -> Generator[Progress, None, None]:
        yield updated((), ())
        yield Finished("em", 9, 9, concept_set=learned)

    list(Recorder(REQUEST, tmp_path / "set", resume=False).record(events()))
    assert f"covers 6% of garden{told}</span>" in (tmp_path / "set" / "index.html").read_text()
