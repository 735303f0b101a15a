"""From files to pictures with masks and hints, and what the user is told of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conceptloom.errors import PictureError
from conceptloom.learning import reading
from conceptloom.learning.reading import load_pictures, read_pictures
from conceptloom.pictures import Picture, write_png

CAT = {"cat": "cat"}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures and a mask in the working folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("yard", "park")):
        write_png(f"{name}.png", np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    write_png("mask.png", middle())
    write_png("inverted.png", ~middle())


def middle() -> np.ndarray:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[5:12, 8:20] = True
    return mask


def plain(name: str, side: int = 100) -> Picture:
    return Picture(name, None, np.zeros((side, side, 3), np.uint8))


def test_one_picture_is_enough() -> None:
    (picture,) = read_pictures(["yard.png"], CAT)
    assert (picture.name, picture.size, picture.notes) == ("yard", (20, 30), ())


def test_pictures_of_differing_sizes_keep_them() -> None:
    write_png("wide.png", np.zeros((16, 90, 3), np.uint8))
    assert [picture.size for picture in read_pictures(["yard.png", "wide.png"], CAT)] == [(20, 30), (16, 90)]


def test_a_picture_given_twice_under_two_names_is_noted() -> None:
    Path("copy.png").write_bytes(Path("yard.png").read_bytes())
    yard, park, copy = read_pictures(["yard.png", "park.png", "copy.png"], CAT)
    assert (yard.notes, park.notes) == ((), ())
    assert copy.notes == ("has the same pixels as 'yard', which so counts twice",)


def test_pictures_of_the_same_bytes_in_another_shape_are_no_twins() -> None:
    tall, wide = (
        Picture(str(shape), None, np.zeros((*shape, 3), np.uint8)) for shape in ((20, 30), (30, 20))
    )
    assert [picture.notes for picture in read_pictures([tall, wide], CAT)] == [(), ()]


@pytest.mark.parametrize("masks_are_hints", [False, True], ids=["gt", "hint"])
def test_a_mask_that_looks_inverted_is_noted_and_used_as_it_is(masks_are_hints: bool) -> None:
    (picture,) = read_pictures(
        ["yard.png"], CAT, masks={("yard", "cat"): "inverted.png"}, masks_are_hints=masks_are_hints
    )
    note = "has a mask of 'cat' that is white along all four edges: right for a background, inverted for anything else"
    assert picture.notes == (note,)
    used = picture.hints["cat"].is_it if masks_are_hints else picture.masks["cat"]
    np.testing.assert_array_equal(used, ~middle())


def test_a_mask_within_its_picture_needs_no_note() -> None:
    (picture,) = read_pictures(["yard.png"], CAT, masks={("yard", "cat"): "mask.png"})
    assert picture.notes == ()


def test_what_was_noted_when_a_picture_was_read_stays() -> None:
    Path("yard.png").rename("yard.webp")
    (picture,) = read_pictures(["yard.webp"], CAT)
    assert picture.notes == ("is a PNG file, though its name ends in .webp",)


def test_a_thousand_pictures_are_read() -> None:
    one = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    given = [Picture(str(index), None, pixels) for index, pixels in enumerate(one)]
    assert [picture.name for picture in read_pictures(given, CAT)] == [str(index) for index in range(1000)]


def test_more_pixels_than_memory_is_meant_to_hold_are_refused_before_the_rest_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_TOTAL_PIXELS", 3 * 2**20)
    read: list[str] = []

    def load(path: Path) -> Picture:
        read.append(path.name)
        return plain(path.name, side=1024)

    names = [f"{index}.png" for index in range(1000)]
    with pytest.raises(
        PictureError, match=r"4 pictures, up to '3\.png', have 4 megapixels together: at most 3"
    ):
        load_pictures(names, load)
    assert read == names[:4]
    assert len(load_pictures(names[:3], load)) == 3


def test_a_missing_file_among_many_is_named() -> None:
    with pytest.raises(PictureError, match=r"none\.png: No such file or directory"):
        read_pictures(["yard.png", "none.png", "park.png"], CAT)
