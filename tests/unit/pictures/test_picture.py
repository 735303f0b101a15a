from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from conceptloom.errors import PictureError
from conceptloom.pictures import Picture, load_break_a_scene, load_mask, load_picture, load_strokes
from mutations import bytes_like, value_or_refusal


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def test_a_picture_is_named_by_its_stem(tmp_path: Path) -> None:
    picture = load_picture(save(tmp_path / "my garden.2.png", np.zeros((10, 20, 3), np.uint8)))
    assert picture.name == "my garden.2"
    assert picture.size == (10, 20)
    assert picture.masks == {}


@pytest.mark.parametrize("name", ["a:b.png", "a=b.png", ".png.png", "tab\t.png", "end .png"])
def test_a_stem_that_can_be_no_key_or_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(PictureError, match="rename it"):
        load_picture(path)


def test_two_ways_to_write_an_accent_give_one_name(tmp_path: Path) -> None:
    path = save(tmp_path / "cafe\u0301.png", np.zeros((10, 20, 3), np.uint8))
    assert load_picture(path).name == "caf\u00e9"


def test_a_mask_of_another_size_than_its_picture_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="mask of cat"):
        Picture("x", None, np.zeros((8, 8, 3), np.uint8), {"cat": np.zeros((4, 4), np.bool_)})


def test_white_and_light_grey_mark_the_concept(tmp_path: Path) -> None:
    levels = np.array([0, 127, 128, 255], np.uint8).repeat(4)[None].repeat(16, axis=0)
    mask = load_mask(save(tmp_path / "mask.png", levels), (16, 16))
    assert mask[0, ::4].tolist() == [False, False, True, True]


def test_a_transparent_part_of_a_mask_is_not_the_concept(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:, :8, 3] = 0
    mask = load_mask(save(tmp_path / "mask.png", pixels), (16, 16))
    np.testing.assert_array_equal(mask, box(16, 16, slice(None), slice(8, None)))


def test_a_smaller_mask_of_the_same_aspect_grows_by_whole_pixels(tmp_path: Path) -> None:
    small = box(10, 15, slice(2, 5), slice(3, 9))
    mask = load_mask(save(tmp_path / "mask.png", small), (40, 60))
    np.testing.assert_array_equal(mask, small.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(("size", "fits"), [((301, 451), True), ((100, 150), True), ((300, 460), False)])
def test_an_aspect_ratio_may_be_off_by_rounding_only(
    tmp_path: Path, size: tuple[int, int], fits: bool
) -> None:
    path = save(tmp_path / "mask.png", box(*size, slice(0, 50), slice(0, 50)))
    if fits:
        assert load_mask(path, (200, 300)).shape == (200, 300)
    else:
        with pytest.raises(PictureError, match="is 460 x 300 px, its picture 300 x 200"):
            load_mask(path, (200, 300))


@pytest.mark.parametrize(
    ("value", "reason"), [(0, "marks nothing"), (1, "marks nothing"), (255, "marks the whole")]
)
def test_an_empty_or_full_mask_is_refused(tmp_path: Path, value: int, reason: str) -> None:
    path = save(tmp_path / "mask.png", np.full((16, 16), value, np.uint8))
    with pytest.raises(PictureError, match=reason):
        load_mask(path, (16, 16))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / "creature"
    folder.mkdir()
    save(folder / "img.jpg", np.full((32, 48, 3), 90, np.uint8))
    save(folder / "mask0.png", box(32, 48, slice(0, 16), slice(0, 16)))
    save(folder / "mask1.png", box(32, 48, slice(16, 32), slice(20, 40)))
    return folder


def test_a_break_a_scene_folder_gives_its_masks_in_the_concepts_order(scene: Path) -> None:
    picture = load_break_a_scene(scene, ["bowl", "cat"])
    assert picture.name == "creature"
    assert picture.path == scene / "img.jpg"
    assert picture.pixels[0, 0].tolist() == [90, 90, 90]
    np.testing.assert_array_equal(picture.masks["bowl"], box(32, 48, slice(0, 16), slice(0, 16)))
    np.testing.assert_array_equal(picture.masks["cat"], box(32, 48, slice(16, 32), slice(20, 40)))


@pytest.mark.parametrize("concepts", [["bowl"], ["bowl", "cat", "dog"]])
def test_a_break_a_scene_folder_needs_one_mask_a_concept(scene: Path, concepts: list[str]) -> None:
    with pytest.raises(PictureError, match=r"holds mask0\.png, mask1\.png, expected"):
        load_break_a_scene(scene, concepts)


def test_a_folder_without_the_picture_is_refused(scene: Path) -> None:
    (scene / "img.jpg").unlink()
    with pytest.raises(PictureError, match=r"img\.jpg: No such file"):
        load_break_a_scene(scene, ["bowl", "cat"])


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a file of this EXIF orientation stores of an upright array (H, W) or (H, W, 3)."""
    swapped = upright.swapaxes(0, 1)
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: swapped,
        6: swapped[::-1],
        7: swapped[::-1, ::-1],
        8: swapped[:, ::-1],
    }[orientation]


def save_turned(path: Path, upright: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(as_stored(upright, orientation))).save(path, exif=exif)
    return path


@pytest.mark.parametrize("of_picture", range(1, 9))
@pytest.mark.parametrize("of_mask", [1, 3, 6])
def test_a_mask_lies_on_its_concept_however_either_was_turned(
    tmp_path: Path, of_picture: int, of_mask: int
) -> None:
    concept = box(32, 48, slice(2, 12), slice(30, 44))
    shown = np.where(concept[..., None], np.uint8([250, 10, 10]), np.uint8([10, 10, 250]))
    picture = load_picture(save_turned(tmp_path / "a.png", shown, of_picture))
    mask = load_mask(
        save_turned(tmp_path / "mask.png", concept.astype(np.uint8) * 255, of_mask), picture.size
    )
    np.testing.assert_array_equal(picture.pixels[mask], np.full((140, 3), [250, 10, 10]))
    np.testing.assert_array_equal(mask, concept)


@pytest.mark.parametrize("of_picture", range(1, 9))
@pytest.mark.parametrize("of_strokes", [1, 3, 6])
def test_strokes_lie_on_their_concept_however_either_was_turned(
    tmp_path: Path, of_picture: int, of_strokes: int
) -> None:
    concept = box(32, 48, slice(2, 12), slice(30, 44))
    shown = np.where(concept[..., None], np.uint8([250, 10, 10]), np.uint8([10, 10, 250]))
    painted = np.full((32, 48, 3), 128, np.uint8)
    painted[4, 31:40], painted[20:30, 3] = 255, 0
    picture = load_picture(save_turned(tmp_path / "a.png", shown, of_picture))
    strokes = load_strokes(save_turned(tmp_path / "strokes.png", painted, of_strokes), picture.size)
    np.testing.assert_array_equal(picture.pixels[strokes.is_it], np.full((9, 3), [250, 10, 10]))
    np.testing.assert_array_equal(picture.pixels[strokes.is_not], np.full((10, 3), [10, 10, 250]))


def test_a_mask_painted_on_a_picture_that_lay_on_its_side_is_refused_with_what_to_do(tmp_path: Path) -> None:
    picture = load_picture(save_turned(tmp_path / "a.png", np.zeros((32, 48, 3), np.uint8), 6))
    on_its_side = save(tmp_path / "mask.png", box(48, 32, slice(0, 9), slice(0, 9)))
    with pytest.raises(PictureError, match="save it at the picture's size, upright as the picture is shown"):
        load_mask(on_its_side, picture.size)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_a_mask_of_any_mode_is_cut_at_half_its_brightness(tmp_path: Path, mode: str) -> None:
    levels = np.array([0, 100, 150, 255], np.uint8).repeat(4)[None].repeat(16, axis=0)
    if mode == "1":
        levels = np.where(levels >= 128, np.uint8(255), np.uint8(0))
    image = Image.fromarray(levels)
    image = Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", (16, 16))[0, ::4].tolist() == [False, False, True, True]


def test_a_masks_colours_are_taken_as_stored_whatever_its_profile_says(tmp_path: Path) -> None:
    levels = np.array([0, 127, 128, 255], np.uint8).repeat(4)[None].repeat(16, axis=0)
    for name, profile in (("broken.png", b"no profile"), ("lab.png", _lab_profile())):
        Image.fromarray(levels).save(tmp_path / name, icc_profile=profile)
        assert load_mask(tmp_path / name, (16, 16))[0, ::4].tolist() == [False, False, True, True]


def _lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x89PNG\r\n\x1a\n"])
def test_a_mask_file_that_holds_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"mask\.png is (empty|not a picture|damaged)"):
        load_mask(tmp_path / "mask.png", (16, 16))


def mask_file(kind: str) -> bytes:
    """A mask with all that decoders look at: an orientation, and a profile that counts for nothing."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    levels = box(16, 16, slice(2, 9), slice(3, 14)).astype(np.uint8) * 255
    Image.fromarray(levels).save(stream, format=kind, exif=exif, icc_profile=_lab_profile())
    return stream.getvalue()


@settings(deadline=None, max_examples=50)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_mask_file_of_any_content_is_a_mask_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    path, content = tmp_path_factory.getbasetemp() / "any-mask", data.draw(bytes_like(mask_file(kind)))
    mask = value_or_refusal(lambda path: load_mask(path, (16, 16)), path, content)
    if mask is not None:
        assert (mask.shape, mask.dtype, mask.any(), mask.all()) == ((16, 16), np.bool_, True, False)


def test_the_notes_of_a_folders_picture_are_kept(scene: Path) -> None:
    save(scene / "img.png", np.full((32, 48, 3), 90, np.uint8)).rename(scene / "img.jpg")
    assert load_break_a_scene(scene, ["bowl", "cat"]).notes == (
        "is a PNG file, though its name ends in .jpg",
    )
