"""Finished units on disk: what comes back, and what is said where a file was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import DataError
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult, load_unit, save_unit

KEY = UnitKey("one", "paper", 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def unit() -> UnitResult:
    """Masks of two concepts in one picture, and one image."""
    masks = np.stack([np.tri(16, dtype=np.bool_), ~np.tri(16, dtype=np.bool_)])
    maps = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    record = MaskRecord(2, "first", ("pet", "place"), masks, maps, ("pet",), ())
    seconds = {"learn": 2.0, "draw": 1.0}
    return UnitResult(KEY, (record,), {(1, 0): PIXELS}, seconds, (0.5, 0.75), {"seed": 3}, {"version": None})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_unit(unit(), tmp_path)
    return tmp_path


def refused(root: Path, match: str = "delete the folder") -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_unit(KEY, root)
    assert len(str(caught.value).splitlines()) == 1


def test_a_unit_comes_back_as_it_was_saved(root: Path) -> None:
    found, saved = load_unit(KEY, root), unit()
    assert (found.key, found.seconds, found.drift) == (saved.key, saved.seconds, saved.drift)
    assert (found.config, found.base) == (saved.config, saved.base)
    (record,), (own,) = found.masks, saved.masks
    assert (record.step, record.picture, record.concepts) == (own.step, own.picture, own.concepts)
    assert (record.rescued, record.collapsed) == (own.rescued, own.collapsed)
    np.testing.assert_array_equal(record.masks, own.masks)
    np.testing.assert_array_equal(record.maps, own.maps)
    np.testing.assert_array_equal(found.images[1, 0], PIXELS)


def test_a_record_from_before_divergence_was_noted_is_of_a_run_that_did_not(root: Path) -> None:
    path = root / KEY.folder_name / "unit.json"
    told = json.loads(path.read_text())
    del told["diverged"]
    path.write_text(json.dumps(told))
    assert load_unit(KEY, root).diverged is None


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["unit"].update(set=None),
        lambda told: told["unit"].update(method=7),
        lambda told: told["unit"].update(method="magic"),
        lambda told: told["unit"].update(extra=1),
        lambda told: told.update(seconds=None),
        lambda told: told["seconds"].update(learn=float("nan")),
        lambda told: told["seconds"].update(draw=10**400),
        lambda told: told.update(drift=[0.5]),
        lambda told: told.update(images=[[0, 99]]),
        lambda told: told.update(images=[["../x", 0]]),
        lambda told: told["masks"][0].update(concepts=["pet"]),
        lambda told: told["masks"][0].update(rle=[]),
        lambda told: told["masks"][0]["rle"][0].update(size=[60_000, 60_000]),
        lambda told: told["masks"][0]["rle"][0].update(counts="P"),
        lambda told: told["masks"][0]["maps"].update(shape=[10**9, 2, 2]),
        lambda told: told["masks"][0]["maps"].update(bytes="!"),
        lambda told: told.pop("masks"),
    ],
)
def test_a_record_that_was_changed_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], object], root: Path
) -> None:
    path = root / KEY.folder_name / "unit.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    refused(root)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\xff"])
def test_a_record_that_is_none_is_refused_in_one_line(text: str, root: Path) -> None:
    (root / KEY.folder_name / "unit.json").write_text(text, encoding="latin-1")
    refused(root)


def test_a_record_of_another_unit_is_named(root: Path) -> None:
    other = UnitKey("two", "fixed", 0)
    (root / KEY.folder_name).rename(root / other.folder_name)
    with pytest.raises(DataError, match="holds another unit, one-paper-s3"):
        load_unit(other, root)


def test_an_image_that_claims_gigabytes_is_refused_in_one_line(root: Path) -> None:
    Image.new("1", (16_384, 16_384)).save(root / KEY.folder_name / "p01-i00.png")
    refused(root, "too many pixels")


def test_an_image_that_is_damaged_is_refused_in_one_line(root: Path) -> None:
    path = root / KEY.folder_name / "p01-i00.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(root)
