"""The user's own sets: what a set.json may say, and one line for everything else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.errors import ConceptloomError
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.coco_format import load_benchmark, write_benchmark
from conceptloom.evaluation.folder_sets import folder_benchmark
from conceptloom.learning import build_request, resolve_config
from conceptloom.pictures import write_png
from mutations import json_like, value_or_refusal

HEIGHT, WIDTH = 20, 30
GARDEN: dict[str, Any] = {
    "concepts": {
        "cat": {"word": "cat", "class_word": "animal"},
        "bench": {},
        "lawn": {"word": "grass", "kind": "background"},
    },
    "contains": {"first": ["cat", "lawn"], "second": ["bench"]},
    "captions": {"first": "a photo of <cat> asleep on <lawn>"},
    "prompts": [
        {"text": "a <cat> on a <bench>", "kind": "interaction", "relation": ["cat", "on", "bench"]},
        {"text": "a <cat> on the <lawn> in oil style", "kind": "style", "place": "lawn", "style": "oil"},
        {"text": "a <cat> at the beach", "place": "beach"},
    ],
}


def half(left: bool) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[:, :10] = True
    return mask if left else mask[:, ::-1]


def paint(folder: Path) -> None:
    for name, grey in (("first", 40), ("second", 90)):
        write_png(folder / "garden" / f"{name}.png", np.full((HEIGHT, WIDTH, 3), grey, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one set of two pictures."""
    paint(tmp_path)
    describe(tmp_path)
    return tmp_path


def describe(folder: Path, **changes: Any) -> None:
    (folder / "garden" / "set.json").write_text(json.dumps({**GARDEN, **changes}), encoding="utf-8")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ConceptloomError, match=match) as caught:
        folder_benchmark(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_the_example_of_the_documents_is_read_with_the_masks_it_shows(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    own = text.partition("### Your own pictures")[2].partition("###")[0]
    told = own[own.index("    {\n") : own.index("\n    }\n") + 7]
    garden = tmp_path / "garden"
    for name in re.findall(r"^    (\S+\.(?:jpg|png))", own, re.MULTILINE):
        shown = half("cat" in name) * 255 if name.startswith("masks") else np.full((HEIGHT, WIDTH), 90)
        write_png((garden / name).with_suffix(".png"), np.repeat(shown[..., None], 3, 2).astype(np.uint8))
    (garden / "set.json").write_text(told, encoding="utf-8")
    (one,) = folder_benchmark(tmp_path).sets
    assert {picture.name: sorted(picture.masks) for picture in one.pictures} == {
        "park": [],
        "porch": ["cat", "lawn"],
    }


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_set_whose_description_has_any_content_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-sets"
    paint(root)
    content = data.draw(json_like(GARDEN))
    benchmark = value_or_refusal(lambda _: folder_benchmark(root), root / "garden" / "set.json", content)
    assert benchmark is None or [one.name for one in benchmark.sets] == ["garden"]


# In COCO format


def test_a_folder_in_coco_format_is_the_users_own_whatever_it_calls_itself(
    folder: Path, tmp_path: Path
) -> None:
    sets = folder_benchmark(folder).sets
    write_benchmark(Benchmark("builtin", "dev", sets), tmp_path / "coco")
    found = folder_benchmark(tmp_path / "coco")
    assert (found.name, found.split) == ("folder", "own")
    assert [one.digests for one in found.sets] == [one.digests for one in sets]


def test_a_set_in_coco_format_without_prompts_is_refused(folder: Path, tmp_path: Path) -> None:
    (one,) = folder_benchmark(folder).sets
    write_benchmark(Benchmark("mine", "own", (replace(one, prompts=()),)), tmp_path / "coco")
    refused(tmp_path / "coco", "set 'garden' in .*annotations.json has no prompts")


# What is read


def test_a_set_holds_what_its_description_says(folder: Path) -> None:
    benchmark = folder_benchmark(folder)
    (garden,) = benchmark.sets
    assert (benchmark.name, benchmark.split, garden.name) == ("folder", "own", "garden")
    assert [picture.name for picture in garden.pictures] == ["first", "second"]
    assert garden.words == {"cat": "cat", "bench": None, "lawn": "grass"}
    assert garden.kinds == {"cat": "subject", "bench": "subject", "lawn": "background"}
    assert garden.contains == {"first": ("cat", "lawn"), "second": ("bench",)}
    assert garden.captions == GARDEN["captions"]
    assert garden.class_words == {"cat": "cat", "bench": "bench", "lawn": "grass"}


def test_subjects_are_instances_and_backgrounds_places(folder: Path) -> None:
    (garden,) = folder_benchmark(folder).sets
    assert [concept.split for concept in garden.concepts] == ["instance", "instance", "place"]
    assert garden.place_type == "photo"


def test_a_prompt_asks_for_what_its_text_names(folder: Path) -> None:
    (garden,) = folder_benchmark(folder).sets
    assert [prompt.asked for prompt in garden.prompts] == [("cat", "bench"), ("cat", "lawn"), ("cat",)]
    assert [prompt.kind for prompt in garden.prompts] == ["interaction", "style", "context"]
    assert [prompt.asked_place for prompt in garden.prompts] == [None, "lawn", None]


def test_of_two_pictures_with_nothing_in_common_the_backgrounds_subject_is_looked_at_there(
    folder: Path,
) -> None:
    (garden,) = folder_benchmark(folder).sets
    assert [prompt.text for prompt in garden.shown] == ["a photo of a <cat> on the <lawn>"]


@pytest.mark.parametrize(
    "changes",
    [
        {"contains": {"first": ["cat", "bench", "lawn"], "second": ["bench"]}, "captions": {}},
        {"contains": {"first": ["lawn"], "second": ["cat", "bench"]}, "captions": {}},
        {"concepts": {name: {} for name in ("cat", "bench", "lawn")}},
    ],
    ids=["a concept in both", "nobody in the background", "no background"],
)
def test_of_other_sets_nothing_is_drawn_to_be_looked_at(folder: Path, changes: dict[str, Any]) -> None:
    describe(folder, **changes)
    (garden,) = folder_benchmark(folder).sets
    assert garden.shown == ()


def test_a_picture_of_which_nothing_is_said_contains_its_captions_concepts_or_all(folder: Path) -> None:
    describe(folder, contains={})
    (garden,) = folder_benchmark(folder).sets
    assert garden.contains == {"first": ("cat", "lawn"), "second": ("cat", "bench", "lawn")}


def test_masks_are_optional(folder: Path) -> None:
    (garden,) = folder_benchmark(folder).sets
    assert all(not picture.masks for picture in garden.pictures)


def test_masks_are_read_by_picture_and_concept(folder: Path) -> None:
    write_png(folder / "garden" / "masks" / "second" / "bench.png", half(left=False))
    (garden,) = folder_benchmark(folder).sets
    assert np.array_equal(garden.pictures[1].masks["bench"], half(left=False))
    assert not garden.pictures[0].masks


def test_a_background_without_a_mask_is_what_the_others_leave(folder: Path) -> None:
    write_png(folder / "garden" / "masks" / "first" / "cat.png", half(left=True))
    (garden,) = folder_benchmark(folder).sets
    assert np.array_equal(garden.pictures[0].masks["lawn"], ~half(left=True))


def test_a_background_keeps_a_mask_of_its_own(folder: Path) -> None:
    write_png(folder / "garden" / "masks" / "first" / "cat.png", half(left=True))
    write_png(folder / "garden" / "masks" / "first" / "lawn.png", half(left=False))
    (garden,) = folder_benchmark(folder).sets
    assert np.array_equal(garden.pictures[0].masks["lawn"], half(left=False))


def test_a_background_has_no_mask_where_a_subject_has_none(folder: Path) -> None:
    describe(folder, contains={"first": ["cat", "bench", "lawn"], "second": ["bench"]}, captions={})
    write_png(folder / "garden" / "masks" / "first" / "cat.png", half(left=True))
    (garden,) = folder_benchmark(folder).sets
    assert list(garden.pictures[0].masks) == ["cat"]


def test_break_a_scenes_layout_gives_masks_in_the_order_of_the_concepts(tmp_path: Path) -> None:
    place = tmp_path / "garden"
    write_png(place / "img.jpg", np.full((HEIGHT, WIDTH, 3), 40, np.uint8))  # known by content
    write_png(place / "mask0.png", half(left=True))
    write_png(place / "mask1.png", half(left=False))
    describe(tmp_path, contains={}, captions={})
    (garden,) = folder_benchmark(tmp_path).sets
    (picture,) = garden.pictures
    assert picture.name == "garden"
    assert np.array_equal(picture.masks["cat"], half(left=True))
    assert np.array_equal(picture.masks["bench"], half(left=False))
    assert np.array_equal(picture.masks["lawn"], ~(half(left=True) | half(left=False)))


def test_sets_come_in_the_order_of_their_names_and_other_folders_are_passed_over(folder: Path) -> None:
    for name in ("yard", "attic"):
        write_png(folder / name / "only.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        told = {"concepts": {"box": {}}, "prompts": [{"text": "a <box>"}]}
        (folder / name / "set.json").write_text(json.dumps(told))
    (folder / "notes").mkdir()
    (folder / "readme.txt").write_text("mine")
    assert [one.name for one in folder_benchmark(folder).sets] == ["attic", "garden", "yard"]
    assert folder_benchmark(folder).sets[0].place_type == "none"


def test_a_set_makes_a_learning_request(folder: Path) -> None:
    (garden,) = folder_benchmark(folder).sets
    request = build_request(
        garden.pictures,
        garden.words,
        resolve_config("builtin", {"method": "paper"}),
        contains=garden.contains,
        kinds=garden.kinds,
        prompts=garden.captions,
    )
    assert [entry.concepts for entry in request.pictures] == [("cat", "lawn"), ("bench",)]


def test_a_folder_benchmark_can_be_written_as_coco_and_read_back(folder: Path, tmp_path: Path) -> None:
    write_png(folder / "garden" / "masks" / "first" / "cat.png", half(left=True))
    benchmark = folder_benchmark(folder)
    write_benchmark(benchmark, tmp_path / "stored")
    (read,) = load_benchmark(tmp_path / "stored").sets
    (garden,) = benchmark.sets
    assert (read.concepts, read.prompts) == (garden.concepts, garden.prompts)
    assert (read.captions, read.contains) == (garden.captions, garden.contains)


# What is refused


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "holds no set: put each in a folder of its own with a set.json")
    refused(tmp_path / "nowhere", "cannot be listed")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_a_description_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "garden" / "set.json").write_text(text)
    refused(folder, "is no valid JSON")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"concepts": {}}, "at 'concepts': Dictionary should have at least 1 item"),
        ({"concepts": {"cat": {"kind": "poem"}}}, "at 'concepts.cat.kind': Input should be 'subject'"),
        ({"concepts": {"cat": {"colour": "red"}}}, "at 'concepts.cat.colour': Extra inputs"),
        ({"concepts": {"Cat": {}}, "contains": {}}, "has capital letters"),
        ({"prompts": []}, "at 'prompts': Tuple should have at least 1 item"),
        ({"prompts": [{"text": "a <dog>"}]}, "names 'dog', which it does not learn"),
        ({"prompts": [{"text": "a <cat", "kind": "context"}]}, "belongs to no concept"),
        ({"prompts": [{"text": "a <cat>", "kind": "poem"}]}, "at 'prompts.0.kind'"),
        ({"prompts": [{"text": "a <cat>", "style": "oil"}]}, "does not say 'oil'"),
        ({"contains": {"third": ["cat"]}}, "names the picture 'third', but there are first, second"),
        ({"contains": {"first": ["dog"]}}, "'first' contains 'dog', but its concepts are cat, bench, lawn"),
        ({"captions": {"second": "a <dog>"}}, "'second' contains 'dog'"),
        ({"contains": {"first": []}}, "at 'contains.first': Tuple should have at least 1 item"),
        ({"captions": {"first": "a photo"}}, "names no concept"),
        ({"captions": {"first": "a photo of <my cat>"}}, "belongs to no concept"),
        ({"captions": {"third": "a <cat>"}}, "names the picture 'third'"),
        ({"captions": {"first": "a <cat>"}}, "disagree about <lawn>"),
        ({"place_type": "poem"}, "at 'place_type'"),
        ({"author": "me"}, "at 'author': Extra inputs"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    folder: Path, changes: dict[str, Any], match: str
) -> None:
    describe(folder, **changes)
    refused(folder, match)


def test_a_set_without_pictures_is_refused(folder: Path) -> None:
    for picture in (folder / "garden").glob("*.png"):
        picture.unlink()
    refused(folder, "holds no picture")


def test_a_damaged_picture_is_refused(folder: Path) -> None:
    (folder / "garden" / "first.png").write_bytes(b"no picture")
    refused(folder, "is not a picture")


def test_a_mask_of_no_concept_in_its_picture_is_refused(folder: Path) -> None:
    write_png(folder / "garden" / "masks" / "second" / "cat.png", half(left=True))
    refused(folder, "is no mask of a concept in 'second', which contains bench")


def test_a_mask_of_another_shape_is_refused(folder: Path) -> None:
    write_png(folder / "garden" / "masks" / "second" / "bench.png", half(left=True).T)
    refused(folder, "save it at the picture's size")


def test_break_a_scenes_layout_with_too_few_masks_is_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "garden" / "img.jpg", np.full((HEIGHT, WIDTH, 3), 40, np.uint8))
    write_png(tmp_path / "garden" / "mask0.png", half(left=True))
    describe(tmp_path, contains={}, captions={})
    refused(tmp_path, "expected mask0.png, mask1.png")
