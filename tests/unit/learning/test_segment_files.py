"""Segments as COCO data and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from conceptloom.errors import RunError
from conceptloom.evaluation.rle import quietly
from conceptloom.learning.segment import Segment
from conceptloom.learning.segment_files import (
    SHOWN_AT_MOST_PX,
    bounding_box,
    require_new,
    run_lengths,
    save_segments,
    shown,
)
from conceptloom.pictures import Picture


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def _segments() -> list[Segment]:
    cat, ball = np.zeros((2, 20, 30), dtype=np.bool_)
    cat[3:9, 4:12], ball[10:15, 20:22] = True, True
    return [Segment("yard", "cat", cat, 0.75), Segment("yard", "ball", ball, 0.5)]


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_run_lengths_are_what_pycocotools_decodes(mask: np.ndarray) -> None:
    from pycocotools import mask as coder

    height, width = mask.shape
    with quietly():
        code = coder.frPyObjects({"size": [height, width], "counts": run_lengths(mask)}, height, width)
        decoded = coder.decode(code)
    np.testing.assert_array_equal(decoded.astype(np.bool_), mask)


def test_a_bounding_box_is_left_top_width_height() -> None:
    assert bounding_box(_segments()[0].mask) == [4, 3, 8, 6]
    assert bounding_box(np.zeros((4, 4), dtype=np.bool_)) == [0, 0, 0, 0]


def test_pycocotools_reads_the_masks_back_with_their_confidences(tmp_path: Path) -> None:
    save_segments(_segments(), {"yard": Picture("yard", Path("yard.jpg"), _pixels())}, tmp_path / "out")
    with quietly():
        loaded = COCO(str(tmp_path / "out" / "masks.json"))
        annotations = loaded.loadAnns(loaded.getAnnIds())
        masks = [loaded.annToMask(annotation).astype(np.bool_) for annotation in annotations]
    for one, annotation, mask in zip(_segments(), annotations, masks, strict=True):
        np.testing.assert_array_equal(mask, one.mask)
        assert loaded.cats[annotation["category_id"]]["name"] == one.concept
        assert annotation["score"] == one.confidence


def test_each_mask_is_a_picture_white_where_the_concept_is(tmp_path: Path) -> None:
    save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, tmp_path / "out")
    for one in _segments():
        with Image.open(tmp_path / "out" / "masks" / "yard" / f"{one.concept}.png") as image:
            np.testing.assert_array_equal(np.asarray(image.convert("L")) == 255, one.mask)
    assert (tmp_path / "out" / "overlays" / "yard.png").is_file()


def test_a_folder_that_holds_something_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_masks_do_not_replace_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="the folder you are in"):
        require_new(Path())


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "out").symlink_to(Path("far", "away"))
    save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["away"]
    assert (tmp_path / "far" / "away" / "masks.json").is_file()


def test_masks_go_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, Path("~/out"))
    assert (tmp_path / "out" / "masks.json").is_file()


def test_nothing_stays_behind_when_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("conceptloom.learning.segment_files.coco", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_concept_called_overlay_keeps_its_mask(tmp_path: Path) -> None:
    mask = _segments()[0].mask
    picture = Picture("masks.json", None, _pixels())
    save_segments([Segment("masks.json", "overlay", mask, 0.5)], {"masks.json": picture}, tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "masks.json" / "overlay.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")) == 255, mask)


def test_a_folder_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is a file, not a folder"):
        save_segments(_segments(), {"yard": Picture("yard", None, _pixels())}, tmp_path / "file" / "out")


def test_the_overlay_of_a_large_picture_is_shrunk_and_its_mask_is_not(tmp_path: Path) -> None:
    mask = np.zeros((1700, 3100), dtype=np.bool_)
    mask[600:1200, 900:2100] = True
    picture = Picture("yard", None, np.full((1700, 3100, 3), 90, np.uint8))
    one = Segment("yard", "cat", mask, 0.5)
    height, width, _ = shown(picture.pixels, [one]).shape  # two panels side by side
    assert height < SHOWN_AT_MOST_PX
    assert width < 2.1 * SHOWN_AT_MOST_PX
    save_segments([one], {"yard": picture}, tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "yard" / "cat.png") as image:
        np.testing.assert_array_equal(np.asarray(image) == 255, mask)


def test_the_tint_of_a_large_picture_lies_where_its_mask_is() -> None:
    mask = np.zeros((1700, 3100), dtype=np.bool_)
    mask[600:1200, 900:2100] = True
    grey = np.full((1700, 3100, 3), 90, np.uint8)
    sheet = shown(grey, [Segment("yard", "cat", mask, 0.5)]).astype(int)
    panel = sheet[10 : 10 + 567, 10 : 10 + 1034]
    rows, columns = np.nonzero(panel[..., 0] - panel[..., 1] > 40)
    assert (rows.min(), rows.max() + 1) == (200, 400)
    assert (columns.min(), columns.max() + 1) == (300, 700)
