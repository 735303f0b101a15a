"""Images on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import RunError
from conceptloom.generation import SHEET, GeneratedImage, free_folder, image_names, save_images
from conceptloom.generation.files import captioned_sheet, slug_of

PROMPT = "a <cat> riding a <car> on <beach>"
TOLD = {"prompt": PROMPT, "seed": 0, "software": {"conceptloom": "0.1.0"}, "word": "naïve ☀"}


def image_of(index: int, prompt: str = PROMPT) -> GeneratedImage:
    pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return GeneratedImage(pixels, prompt, 0, index, {**TOLD, "index": index})


def save(out: Path, num: int = 2, **options: bool) -> list[Path]:
    images = [image_of(index) for index in range(num)]
    return [path for path, _ in save_images(images, out, image_names([PROMPT], 0, num), **options)]


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)


def test_a_name_says_prompt_seed_and_index() -> None:
    assert image_names([PROMPT], 7, 2) == [
        "a-cat-riding-a-car-on-beach-s7-000.png",
        "a-cat-riding-a-car-on-beach-s7-001.png",
    ]


def test_a_name_does_not_depend_on_how_many_images_are_asked_for() -> None:
    assert image_names([PROMPT], 0, 1200)[:3] == image_names([PROMPT], 0, 3)


def test_prompts_with_the_same_letters_get_different_names() -> None:
    prompts = ["a <cat>", "A <cat>!", "a <cat>?", "a <cat> 2"]
    assert image_names(prompts, 0, 1) == [f"a-cat{number}-s0-000.png" for number in ("", "-2", "-3", "-2-2")]


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("../../etc/<cat>", "etc-cat"),
        ("C:\\<cat>\0\n\x1b[31m", "c-cat-31m"),
        ("-rf <cat>.", "rf-cat"),
        ("<猫> 🐈", "猫"),
        ("??", "image"),
        ("x" * 9999, "x" * 48),
        ("猫" * 9999, "猫" * 48),
        ("x" * 47 + " y", "x" * 47),
    ],
)
def test_a_prompt_of_any_kind_becomes_a_safe_file_name(prompt: str, slug: str) -> None:
    assert slug_of(prompt) == slug
    assert len(image_names([prompt], 2**62, 1)[0].encode()) < 255


def test_every_image_and_a_contact_sheet_are_written(tmp_path: Path) -> None:
    paths = save(tmp_path / "new" / "out", num=3)
    assert [path.name for path in paths] == image_names([PROMPT], 0, 3)
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(
        [*image_names([PROMPT], 0, 3), SHEET]
    )
    for index, path in enumerate(paths):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), image_of(index).pixels)


def test_png_text_holds_the_prompt_and_all_provenance_as_json(tmp_path: Path) -> None:
    text = text_of(save(tmp_path)[1])
    assert text["Description"] == PROMPT
    assert text["Software"] == "conceptloom 0.1.0"
    assert json.loads(text["conceptloom"]) == {**TOLD, "index": 1}


def test_without_provenance_no_file_holds_any_text(tmp_path: Path) -> None:
    save(tmp_path, with_provenance=False)
    for path in tmp_path.iterdir():
        assert text_of(path) == {}
        assert b"cat" not in path.read_bytes()


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("name", [SHEET, image_names([PROMPT], 0, 2)[1]])
def test_a_folder_that_holds_one_of_the_names_is_refused_before_anything_is_drawn(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"earlier")

    def drawn() -> Iterator[GeneratedImage]:
        raise AssertionError("drawn")
        yield

    with pytest.raises(RunError, match=f"holds '{name}' already"):
        list(save_images(drawn(), tmp_path, image_names([PROMPT], 0, 2)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"earlier"


def test_other_files_in_the_folder_are_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert len(save(tmp_path)) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    names = image_names([PROMPT], 0, 2)
    saved = save_images([image_of(0), image_of(1)], tmp_path, names)
    next(saved)
    (tmp_path / names[1]).write_bytes(b"another run's")
    with pytest.raises(RunError, match="not replaced"):
        next(saved)
    assert (tmp_path / names[1]).read_bytes() == b"another run's"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match="is no folder that can be written to"):
        save(tmp_path / "out")


def test_a_link_to_a_folder_is_written_through_and_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    save(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert len(list((tmp_path / "disk").iterdir())) == 3


def test_a_link_to_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is no folder that can be written to"):
        save(tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", [SHEET, image_names([PROMPT], 0, 2)[1]])
def test_a_planted_link_of_one_of_the_names_is_neither_followed_nor_replaced(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(RunError, match=f"holds '{name}' already"):
        save(tmp_path / "out")
    assert not (tmp_path / "victim").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize("name", ["x" * 300, "a\x00b"])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot be made"):
        save(tmp_path / name)


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file, not a folder"):
        save(tmp_path / "file" / "out")


def test_when_drawing_fails_the_images_before_are_whole_and_there_is_no_sheet(tmp_path: Path) -> None:
    def failing() -> Iterator[GeneratedImage]:
        yield image_of(0)
        raise MemoryError

    names = image_names([PROMPT], 0, 2)
    with pytest.raises(MemoryError):
        list(save_images(failing(), tmp_path, names))
    assert [path.name for path in tmp_path.iterdir()] == names[:1]


def test_the_first_free_folder_is_missing_or_empty(tmp_path: Path) -> None:
    out = tmp_path / "generated"
    assert free_folder(out) == out
    out.mkdir()
    assert free_folder(out) == out
    (out / "a.png").write_bytes(b"")
    (tmp_path / "generated-2").write_bytes(b"")
    assert free_folder(out) == tmp_path / "generated-3"


def test_the_sheet_of_one_prompt_shows_all_its_images_over_one_caption() -> None:
    images = [np.full((32, 32, 3), value, np.uint8) for value in range(10, 90, 10)]
    sheet = captioned_sheet({PROMPT: images})
    assert all((sheet == value).all(axis=2).sum() >= 32 * 32 for value in range(10, 90, 10))
    rows, columns = np.nonzero((sheet == 50).all(axis=2))  # the fifth begins the second row of four
    first_rows, first_columns = np.nonzero((sheet == 10).all(axis=2))
    assert rows.min() > first_rows.max()
    assert columns.min() == first_columns.min()
    below = sheet[rows.max() + 1 :]
    assert (below < 128).any()  # ink


def test_the_sheet_of_many_prompts_captions_each_of_them() -> None:
    def ink(prompts: list[str], num: int) -> int:
        white = [np.full((64, 64, 3), 255, np.uint8)] * num
        return int((captioned_sheet({prompt: white for prompt in prompts}) < 128).sum())

    assert ink(["a <cat>", "a <car>"], 1) > ink(["a <cat>"], 1) > 0
    assert ink(["a <cat>", "a <car>"], 3) > ink(["a <cat>"], 3) > 0


def test_the_sheet_sets_blocks_of_two_images_side_by_side() -> None:
    two = [np.full((64, 64, 3), 255, np.uint8)] * 2
    height, width, _ = captioned_sheet({"a <cat>": two, "a <car>": two}).shape
    assert width > 4 * 64 > 2 * height


def test_a_long_run_keeps_the_sheet_to_64_images_a_prompt(tmp_path: Path) -> None:
    save(tmp_path / "long", num=70)
    save(tmp_path / "cut", num=64)
    assert (tmp_path / "long" / SHEET).read_bytes() == (tmp_path / "cut" / SHEET).read_bytes()
