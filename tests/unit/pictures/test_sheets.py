from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from conceptloom.pictures import contact_sheet, overlay
from conceptloom.pictures.sheets import COLOURS, _wrap


def grey(height: int, width: int, level: int = 100) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def test_an_overlay_of_no_masks_is_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(overlay(pixels, np.zeros((0, 12, 16), np.bool_)), pixels)


def test_an_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest() -> None:
    masks = np.zeros((1, 40, 40), dtype=np.bool_)
    masks[0, 10:30, 10:30] = True
    shown = overlay(grey(40, 40), masks, [(200, 0, 100)])
    np.testing.assert_allclose(shown[20, 20], 0.58 * 100 + 0.42 * np.array([200, 0, 100]), atol=1)
    assert shown[10, 20].tolist() == [200, 0, 100]
    assert shown[2, 2].tolist() == [100, 100, 100]


def test_each_mask_has_a_colour_of_its_own() -> None:
    masks = np.zeros((3, 30, 90), dtype=np.bool_)
    for index in range(3):
        masks[index, 8:22, 30 * index + 8 : 30 * index + 22] = True
    shown = overlay(grey(30, 90), masks)
    assert [tuple(shown[8, 30 * index + 15]) for index in range(3)] == list(COLOURS[:3])


def test_an_overlay_does_not_change_its_input() -> None:
    pixels = grey(16, 16)
    overlay(pixels, np.ones((1, 16, 16), np.bool_))
    assert (pixels == 100).all()


def test_a_mask_of_another_size_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="on a picture"):
        overlay(grey(16, 16), np.ones((1, 8, 8), np.bool_))


def test_a_sheet_holds_every_image_unchanged_in_reading_order() -> None:
    images = [grey(20, 30, level) for level in (10, 20, 30)]
    sheet = contact_sheet(images, columns=2, pad_px=4)
    assert sheet.shape == (2 * 24 + 4, 2 * 34 + 4, 3)
    np.testing.assert_array_equal(sheet[4:24, 4:34], images[0])
    np.testing.assert_array_equal(sheet[4:24, 38:68], images[1])
    np.testing.assert_array_equal(sheet[28:48, 4:34], images[2])
    assert (sheet[28:48, 38:68] == 255).all()


def test_a_smaller_image_is_centred_in_its_cell() -> None:
    sheet = contact_sheet([grey(20, 20, 10), grey(10, 10, 20)], columns=2, pad_px=0)
    np.testing.assert_array_equal(sheet[5:15, 25:35], grey(10, 10, 20))
    assert (sheet[:5, 20:] == 255).all()


def test_labels_are_drawn_below_their_images() -> None:
    images = [grey(64, 128), grey(64, 128)]
    bare, labelled = contact_sheet(images, 2), contact_sheet(images, 2, ["a <cat>", ""])
    assert labelled.shape[0] > bare.shape[0]
    below = labelled[10 + 64 :]
    assert below[:, :140].min() < 60
    assert (below[:, 148:] == 255).all()


@pytest.mark.parametrize("label", ["a photo of <cat> riding a <car> on <beach> at night " * 3, "x" * 200, ""])
def test_a_label_never_leaves_its_cell(label: str) -> None:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    lines = _wrap(label, font, 128)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= 128 for line in lines)


def test_a_cut_label_says_so_and_a_short_one_is_whole() -> None:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert _wrap("word " * 60, font, 128)[-1].endswith("…")
    assert " ".join(_wrap("a <cat> and a <dog> on <beach>", font, 128)) == "a <cat> and a <dog> on <beach>"
