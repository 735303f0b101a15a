"""Masks, boxes and strokes as hints."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conceptloom.errors import PictureError
from conceptloom.pictures import Hint, box_hint, combined, load_mask_hint, load_strokes, square_frame_mask
from mutations import bytes_like, value_or_refusal


def _half(height: int = 8, width: int = 8) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[:, : width // 2] = True
    return mask


def _save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_a_mask_says_of_every_pixel_whether_it_is_the_concept(tmp_path: Path) -> None:
    path = _save(tmp_path / "mask.png", _half(16, 16).astype(np.uint8) * 255)
    hint = load_mask_hint(path, (16, 16))
    np.testing.assert_array_equal(hint.is_it, _half(16, 16))
    np.testing.assert_array_equal(hint.is_not, ~_half(16, 16))


def test_a_box_says_where_the_concept_is_not_and_nothing_else() -> None:
    hint = box_hint((2, 1, 5, 7), (8, 10))
    assert not hint.is_it.any()
    inside = np.zeros((8, 10), dtype=np.bool_)
    inside[1:7, 2:5] = True
    np.testing.assert_array_equal(hint.is_not, ~inside)


@pytest.mark.parametrize("box", [(5, 1, 5, 7), (2, 1, 11, 7), (-1, 1, 5, 7), (2, 7, 5, 1), (np.nan, 1, 5, 7)])
def test_a_box_outside_its_picture_or_without_area_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(PictureError, match="not within the picture of 10 x 8 px"):
        box_hint(box, (8, 10))


def test_white_strokes_are_the_concept_black_ones_are_not_and_the_rest_says_nothing(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[2, :8], pixels[9, :8] = 255, (0, 0, 0, 255)
    pixels[12, :8] = (255, 0, 0, 255)
    hint = load_strokes(_save(tmp_path / "strokes.png", pixels), (16, 16))
    assert np.argwhere(hint.is_it).tolist() == [[2, column] for column in range(8)]
    assert np.argwhere(hint.is_not).tolist() == [[9, column] for column in range(8)]


def test_strokes_without_white_or_black_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "strokes.png", np.full((16, 16, 3), 128, dtype=np.uint8))
    with pytest.raises(PictureError, match="neither white nor black"):
        load_strokes(path, (16, 16))


def test_strokes_of_another_size_are_refused_naming_both(tmp_path: Path) -> None:
    path = _save(tmp_path / "strokes.png", np.full((16, 20, 3), 255, dtype=np.uint8))
    with pytest.raises(PictureError, match="20 x 16 px, the picture 16 x 16"):
        load_strokes(path, (16, 16))


def _stroke_file(kind: str) -> bytes:
    pixels = np.full((16, 16, 4), 128, dtype=np.uint8)
    pixels[2:5, :8], pixels[9:12, :8], pixels[14] = 255, (0, 0, 0, 255), 0
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("RGB") if kind == "JPEG" else image).save(stream, format=kind)
    return stream.getvalue()


@settings(deadline=None, max_examples=50)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_file_of_strokes_of_any_content_is_a_hint_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    path, content = tmp_path_factory.getbasetemp() / "any-strokes", data.draw(bytes_like(_stroke_file(kind)))
    hint = value_or_refusal(lambda path: load_strokes(path, (16, 16)), path, content)
    assert hint is None or (hint.is_it | hint.is_not).any()


def test_a_box_and_strokes_say_more_together() -> None:
    box = box_hint((0, 0, 4, 8), (8, 8))
    stroke = np.zeros((8, 8), dtype=np.bool_)
    stroke[2, 2] = True
    both = combined(box, Hint(stroke, np.zeros_like(stroke)))
    np.testing.assert_array_equal(both.is_it, stroke)
    np.testing.assert_array_equal(both.is_not, box.is_not)


def test_hints_that_contradict_each_other_are_refused_with_the_number_of_pixels() -> None:
    one, other = Hint(_half(), ~_half()), Hint(~_half(), np.zeros((8, 8), dtype=np.bool_))
    with pytest.raises(PictureError, match="disagree about 32 pixels"):
        combined(one, other)


def test_a_stroke_one_pixel_thin_stays_in_the_models_small_frame() -> None:
    stroke = np.zeros((100, 140), dtype=np.bool_)
    stroke[50, 20:120] = True
    framed = Hint(stroke, np.zeros_like(stroke)).framed(16)
    assert framed.is_it.any(axis=0).all()
    assert framed.is_it.sum() == 16


def test_a_masks_hint_in_the_frame_is_the_mask_in_the_frame() -> None:
    row, column = np.mgrid[:96, :130]
    mask = (row - 40) ** 2 + (column - 60) ** 2 < 25**2
    framed = Hint(mask, ~mask).framed(32)
    np.testing.assert_array_equal(framed.is_it, square_frame_mask(mask, 32))
    np.testing.assert_array_equal(framed.is_not, ~framed.is_it)
