from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from conceptloom.pictures import load_mask, load_picture, write_png, write_webp


def noise(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_come_back_unchanged(tmp_path: Path) -> None:
    write_png(tmp_path / "sub" / "picture.png", noise())
    np.testing.assert_array_equal(load_picture(tmp_path / "sub" / "picture.png").pixels, noise())


def test_a_mask_is_white_where_true_and_comes_back_unchanged(tmp_path: Path) -> None:
    mask = noise()[..., 0] > 128
    write_png(tmp_path / "mask.png", mask)
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask * np.uint8(255))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", mask.shape), mask)


def test_text_chunks_hold_any_text(tmp_path: Path) -> None:
    text = {"prompt": "a <cat> on the beach\nby Zoë – 猫", "seed": "17"}
    write_png(tmp_path / "picture.png", noise(), text)
    with Image.open(tmp_path / "picture.png") as image:
        assert {key: str(value) for key, value in image.text.items()} == text


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, noise(), {"seed": "1"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_view_of_an_array_is_written_as_it_looks(tmp_path: Path) -> None:
    write_png(tmp_path / "flipped.png", noise()[:, ::-1])
    np.testing.assert_array_equal(load_picture(tmp_path / "flipped.png").pixels, noise()[:, ::-1])


def test_a_sheet_written_as_webp_comes_back_nearly_the_same(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (60, 60, 3))
    write_webp(tmp_path / "sheet.webp", ramp)
    with Image.open(tmp_path / "sheet.webp") as image:
        back = np.asarray(image.convert("RGB"))
    assert np.abs(back.astype(int) - ramp.astype(int)).mean() < 3
