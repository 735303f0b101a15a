"""Break-A-Scene's selection from a COCO folder, on folders of a few images made here."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import ConfigError, DataError, PictureError
from conceptloom.evaluation.benchmark import PROMPT_KINDS
from conceptloom.evaluation.coco_format import load_benchmark, open_coco, write_benchmark
from conceptloom.evaluation.coco_selection import (
    CLASSES,
    KNOWN,
    Scene,
    Segment,
    balanced,
    coco_benchmark,
    qualifying_scenes,
)
from conceptloom.pictures import write_png
from conceptloom.seeding import numpy_generator
from tiny_coco import EXCLUDED, HEIGHT, LEFT, NAMES, RIGHT, WIDTH, Box, CocoFolder


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "coco")


# The rule


def test_two_large_segments_of_distinct_classes_qualify(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT))
    assert folder.scenes() == [("dog", "couch")]


def test_what_a_chosen_image_is_not_is_noted(folder: CocoFolder) -> None:
    number = folder.add(("dog", LEFT), ("couch", RIGHT))
    path = folder.path / "val2017" / f"{number:012d}.png"
    with Image.open(path) as image:
        image.save(path, "WEBP", lossless=True)
    (one,) = coco_benchmark(folder.write(), concepts=2).sets
    assert one.pictures[0].notes == ("is a WEBP file, though its name ends in .png",)


def test_two_segments_of_one_class_do_not(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("dog", RIGHT))
    assert folder.scenes() == []


def test_a_segment_must_cover_fifteen_percent_of_the_square(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", (50, 0, 80, 18)))  # 30 x 18 of 60 x 60: exactly 15 %
    folder.add(("dog", LEFT), ("couch", (50, 0, 80, 17)))
    assert folder.scenes() == [("dog", "couch")]


def test_a_segment_that_reaches_out_of_the_square_counts_by_what_is_inside(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", (70, 0, 100, 60)))  # 1800 px, 600 of them in the square
    assert folder.scenes() == [("dog", "couch")]


def test_a_wide_segment_that_is_mostly_outside_of_the_square_does_not_count(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", (72, 0, 100, 60)))  # 1680 px, 480 of them in the square
    assert folder.scenes() == []


@pytest.mark.parametrize("noun", [*EXCLUDED, "pizza"])
def test_classes_that_are_excluded_or_not_ours_give_no_concepts(folder: CocoFolder, noun: str) -> None:
    folder.add(("dog", LEFT), (noun, RIGHT))
    assert folder.scenes() == []


def test_none_of_our_eleven_classes_is_excluded_or_a_person() -> None:
    assert len(CLASSES) == 11
    assert CLASSES.keys().isdisjoint(EXCLUDED)
    assert "person" not in CLASSES


def test_an_image_with_a_person_anywhere_is_left_out(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT), ("person", (0, 0, 3, 3)))
    assert folder.scenes() == []


def test_a_crowd_is_no_segment(folder: CocoFolder) -> None:
    image = folder.add(("dog", LEFT))
    counts = [0, WIDTH * HEIGHT]  # uncompressed run lengths, as COCO writes crowds: all of the image
    folder.annotate(
        image,
        "couch",
        RIGHT,
        iscrowd=1,
        area=WIDTH * HEIGHT,
        segmentation={"size": [HEIGHT, WIDTH], "counts": counts},
    )
    assert folder.scenes() == []


def crowd(box: Box) -> dict[str, Any]:
    """A box as COCO writes crowds: uncompressed run lengths, column by column."""
    left, top, right, bottom = box
    inside = bottom - top
    counts = [left * HEIGHT + top]
    for column in range(left, right):
        rest = (WIDTH - right) * HEIGHT + HEIGHT - bottom if column == right - 1 else HEIGHT - inside
        counts += [inside, rest]
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def test_a_small_crowd_beside_an_object_of_its_class_spoils_nothing_and_a_large_one_does(
    folder: CocoFolder,
) -> None:
    for box in ((20, 42, 32, 52), (20, 42, 31, 53)):  # 120 and 121 of 1200 px
        image = folder.add(("dog", LEFT), ("couch", RIGHT))
        folder.annotate(image, "dog", box, iscrowd=1, segmentation=crowd(box))
    assert folder.scenes() == [("dog", "couch")]


def test_a_crowd_of_people_is_people(folder: CocoFolder) -> None:
    image = folder.add(("dog", LEFT), ("couch", RIGHT))
    folder.annotate(image, "person", (0, 0, 3, 3), iscrowd=1, segmentation=crowd((0, 0, 3, 3)))
    assert folder.scenes() == []


def test_annotations_that_do_not_say_whether_they_are_crowds_are_objects(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT))
    for annotation in folder.annotations:
        del annotation["iscrowd"]
    assert folder.scenes() == [("dog", "couch")]


def polygon(box: Box) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def test_the_parts_of_an_object_count_together(folder: CocoFolder) -> None:
    for lower in ((20, 30, 50, 39), (20, 30, 50, 38)):  # 270 + 270 px are 15 % of the square
        parts = [polygon((20, 0, 50, 9)), polygon(lower)]
        image = folder.add(("couch", RIGHT))
        folder.annotate(image, "dog", LEFT, segmentation=parts)
    assert folder.scenes() == [("dog", "couch")]


def test_an_image_without_annotations_is_passed_over(folder: CocoFolder) -> None:
    folder.add()
    folder.add(("dog", LEFT), ("couch", RIGHT))
    folder.add()
    assert folder.scenes() == [("dog", "couch")]


def test_a_class_with_a_second_instance_is_no_concept_unless_that_is_small(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT), ("dog", (20, 42, 32, 52)))  # 120 of 1200 px
    folder.add(("dog", LEFT), ("couch", RIGHT), ("dog", (20, 42, 31, 53)))  # 121 of 1200 px
    assert folder.scenes() == [("dog", "couch")]


def test_an_image_with_three_segments_gives_each_pair(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT), ("bed", (20, 40, 80, 60)))
    assert set(folder.scenes()) == {("dog", "couch"), ("dog", "bed"), ("couch", "bed")}


# Balance


def scene(image: int, first: str, second: str) -> Scene:
    return Scene(image, (Segment(2 * image, first), Segment(2 * image + 1, second)))


def test_rare_classes_are_taken_before_frequent_ones_come_again() -> None:
    common = [scene(image, "dog", "couch") for image in range(50)]
    rare = [scene(50, "cat", "bed"), scene(51, "horse", "truck")]
    for seed in range(5):
        chosen = balanced([*common, *rare], 4, seed)
        came = Counter(segment.noun for one in chosen for segment in one.segments)
        assert came == {"dog": 2, "couch": 2, "cat": 1, "bed": 1, "horse": 1, "truck": 1}


def test_where_all_pairs_are_there_no_class_comes_twice_more_than_another() -> None:
    nouns = list(CLASSES)
    pairs = [(a, b) for a in range(11) for b in range(a + 1, 11)]
    scenes = [scene(image, nouns[a], nouns[b]) for image, (a, b) in enumerate(pairs * 2)]
    came = Counter(segment.noun for one in balanced(scenes, 60, 0) for segment in one.segments)
    assert sum(came.values()) == 120
    assert max(came.values()) - min(came.values()) <= 1


def test_an_image_is_chosen_once() -> None:
    scenes = [scene(0, "dog", "couch"), scene(0, "cat", "bed"), scene(1, "dog", "couch")]
    assert sorted(one.image for one in balanced(scenes, 5, 0)) == [0, 1]


def test_the_seed_decides_among_equals_and_fewer_are_the_first_of_more() -> None:
    scenes = [scene(image, "dog", "couch") for image in range(30)]
    assert balanced(scenes, 5, 0) == balanced(scenes, 9, 0)[:5]
    assert balanced(scenes, 5, 0) != balanced(scenes, 5, 1)


# The benchmark


def small_folder(
    folder: CocoFolder, pairs: Sequence[tuple[str, str]] = (("dog", "couch"), ("cat", "bed"))
) -> Path:
    for first, second in pairs:
        folder.add((first, LEFT), (second, RIGHT))
    return folder.write()


def test_a_set_shows_the_square_with_its_masks_and_learns_the_rest(folder: CocoFolder) -> None:
    (one,) = coco_benchmark(small_folder(folder, [("dog", "couch")])).sets
    (picture,) = one.pictures
    whole = numpy_generator(1, "coco").integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert np.array_equal(picture.pixels, whole[:, 20:80])
    dog = np.zeros((60, 60), np.bool_)
    dog[:40, :30] = True
    assert np.array_equal(picture.masks["dog"], dog)
    assert np.array_equal(picture.masks["couch"], dog[:, ::-1])
    assert np.array_equal(picture.masks["place"], ~(dog | dog[:, ::-1]))
    assert one.contains == {picture.name: ("dog", "couch", "place")}
    assert one.place_type == "photo"


def test_concepts_are_instances_that_start_from_their_class(folder: CocoFolder) -> None:
    (one,) = coco_benchmark(small_folder(folder, [("teddy bear", "suitcase")])).sets
    bear = one.concept("teddy-bear")
    assert (bear.word, bear.noun, bear.split, bear.class_word) == (
        "teddy bear",
        "teddy bear",
        "instance",
        "toy animal",
    )


def test_a_set_has_twenty_prompts_of_all_kinds_with_break_a_scenes_contexts(folder: CocoFolder) -> None:
    (one,) = coco_benchmark(small_folder(folder, [("dog", "couch")])).sets
    assert len({prompt.text for prompt in one.prompts}) == 20
    assert {prompt.kind for prompt in one.prompts[:5]} == set(PROMPT_KINDS)
    contexts = [prompt for prompt in one.prompts if prompt.kind == "context"]
    assert {prompt.place for prompt in contexts} <= set(KNOWN.places)


def test_known_things_are_none_of_the_classes() -> None:
    assert set(KNOWN.things).isdisjoint(CLASSES)


def test_a_benchmark_has_as_many_concepts_as_asked_for_beside_the_backgrounds(folder: CocoFolder) -> None:
    path = small_folder(folder, [("dog", "couch"), ("cat", "bed"), ("car", "truck")])
    benchmark = coco_benchmark(path, concepts=4)
    assert sum(len(one.subjects) for one in benchmark.sets) == 4
    assert benchmark.split == "val2017"


def test_a_folder_with_too_few_scenes_gives_what_it_has(folder: CocoFolder) -> None:
    assert len(coco_benchmark(small_folder(folder)).sets) == 2


def test_only_chosen_images_are_opened(folder: CocoFolder) -> None:
    path = small_folder(folder, [("dog", "couch")] * 4)
    (chosen,) = coco_benchmark(path, concepts=2).sets
    for image in (path / "val2017").iterdir():
        if image != chosen.pictures[0].path:
            image.unlink()
    (again,) = coco_benchmark(path, concepts=2).sets
    assert again.name == chosen.name


def test_the_benchmark_can_be_written_and_read_back(folder: CocoFolder, tmp_path: Path) -> None:
    benchmark = coco_benchmark(small_folder(folder))
    write_benchmark(benchmark, tmp_path / "chosen")
    read = load_benchmark(tmp_path / "chosen")
    for one, other in zip(benchmark.sets, read.sets, strict=True):
        assert one.concepts == other.concepts
        assert np.array_equal(one.pictures[0].masks["place"], other.pictures[0].masks["place"])


@pytest.mark.parametrize("place", ["images/val2017", "images"])
def test_images_are_also_found_below_images(folder: CocoFolder, place: str) -> None:
    path = small_folder(folder)
    (path / "images").mkdir()
    (path / "val2017").rename(path / "images" / "val2017")
    if place == "images":
        (path / "images" / "val2017").rename(path / "all")
        (path / "images").rmdir()
        (path / "all").rename(path / "images")
    assert len(coco_benchmark(path).sets) == 2


def test_of_two_annotation_files_the_smaller_is_read_unless_another_is_named(folder: CocoFolder) -> None:
    path = small_folder(folder)
    (path / "val2017").rename(path / "images")
    folder.add(("horse", LEFT), ("truck", RIGHT))
    for image in (path / "val2017").iterdir():
        image.rename(path / "images" / image.name)
    (path / "val2017").rmdir()
    folder.write("train2017")
    assert coco_benchmark(path).split == "val2017"
    assert len(coco_benchmark(path, subset="train2017").sets) == 3


def test_annotations_whose_images_are_there_are_preferred(folder: CocoFolder) -> None:
    """COCO's annotations come in one archive, its images by subset."""
    path = small_folder(folder)
    folder.add(("horse", LEFT), ("truck", RIGHT))
    folder.write("train2017")
    (path / "val2017").rename(path / "train2017")
    benchmark = coco_benchmark(path)
    assert (benchmark.split, len(benchmark.sets)) == ("train2017", 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_photographs_become_rgb(folder: CocoFolder, mode: str) -> None:
    path = small_folder(folder, [("dog", "couch")])
    (image,) = (path / "val2017").iterdir()
    grey = np.full((HEIGHT, WIDTH), 90, np.uint8)
    Image.fromarray(grey).convert(mode).save(image.with_suffix(".jpg"))
    folder.images[0]["file_name"] = image.with_suffix(".jpg").name
    (one,) = coco_benchmark(folder.write()).sets
    pixels = one.pictures[0].pixels
    assert pixels.shape == (60, 60, 3)
    assert abs(pixels.astype(int) - 90).max() <= 2


# What is refused


def refused(path: Path, match: str, **rest: Any) -> None:
    with pytest.raises((ConfigError, DataError, PictureError), match=match) as caught:
        coco_benchmark(path, **rest)
    assert len(str(caught.value).splitlines()) == 1


def test_an_odd_number_of_concepts_is_refused(folder: CocoFolder) -> None:
    refused(small_folder(folder), "ask for an even number", concepts=3)


def test_a_folder_without_annotations_or_images_is_refused(folder: CocoFolder, tmp_path: Path) -> None:
    refused(tmp_path, "has no annotations/instances_")
    path = small_folder(folder)
    refused(path, "has no annotations/instances_test2017.json", subset="test2017")
    (path / "val2017").rename(path / "elsewhere")
    refused(path, "has no images")


def test_a_folder_in_which_nothing_qualifies_is_refused(folder: CocoFolder) -> None:
    folder.add(("dog", LEFT))
    refused(folder.write(), "no image in .* has two large segments")


def test_a_chosen_image_that_is_missing_or_damaged_is_refused(folder: CocoFolder) -> None:
    path = small_folder(folder, [("dog", "couch")])
    (image,) = (path / "val2017").iterdir()
    image.write_bytes(b"no picture")
    refused(path, "is not a picture")
    image.unlink()
    refused(path, "is missing")


def test_an_image_of_another_size_is_refused(folder: CocoFolder) -> None:
    path = small_folder(folder, [("dog", "couch")])
    (image,) = (path / "val2017").iterdir()
    write_png(image, np.zeros((50, 100, 3), np.uint8))
    refused(path, "is not of the size its annotations say")


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [["a", "b"]],
        [[20, 0, 50, 40]],
        [[20, 0, 50, 0, 50, float("nan")]],
        {"size": [1, 1], "counts": "zz"},
        {"size": [HEIGHT, WIDTH], "counts": [10, 20]},
        {"size": [30, 30], "counts": [0, 900]},
        3,
    ],
)
def test_a_broken_segmentation_is_refused(folder: CocoFolder, segmentation: Any) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.annotations[0]["segmentation"] = segmentation
    refused(folder.write(), "segmentation of annotation 1 is broken")


def test_a_second_mask_of_another_size_than_its_image_is_refused(folder: CocoFolder) -> None:
    image = folder.add(("dog", LEFT), ("couch", RIGHT))
    folder.annotate(image, "dog", (0, 0, 30, 30), segmentation={"size": [30, 30], "counts": [0, 900]})
    refused(folder.write(), "segmentation of annotation 3 is broken")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"width": None}, "image 1 has no size"),
        ({"height": 0}, "image 1 has no size"),
        ({"height": -60, "width": -100}, "image 1 has no size"),
        ({"height": "60"}, "image 1 has no size"),
        ({"height": 10**6, "width": 10**6}, "image 1 has 1000000 x 1000000 px, too many"),
    ],
)
def test_an_image_without_a_size_that_can_be_is_refused(
    folder: CocoFolder, changes: dict[str, Any], match: str
) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.images[0].update(changes)
    refused(folder.write(), match)


@pytest.mark.parametrize("area", [None, "large"])
def test_an_annotation_without_an_area_is_refused(folder: CocoFolder, area: Any) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.annotations[1]["area"] = area
    refused(folder.write(), "annotation 2 has no area")


def test_two_annotations_of_one_id_are_refused(folder: CocoFolder) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.annotations[1]["id"] = 1
    refused(folder.write(), "two annotations in .* have the same id")


def test_an_image_name_that_leads_out_of_the_folder_is_refused(folder: CocoFolder) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.images[0]["file_name"] = "../../secret.png"
    refused(folder.write(), "is no plain file name")


def test_an_image_name_with_half_a_character_is_refused(folder: CocoFolder) -> None:
    small_folder(folder, [("dog", "couch")])
    folder.images[0]["file_name"] = "\ud800.png"
    refused(folder.write(), "is no plain file name")


def test_an_area_larger_than_numbers_go_is_refused(folder: CocoFolder) -> None:
    image = folder.add(("dog", LEFT))
    folder.annotate(image, "couch", RIGHT, area=10**400)
    with pytest.raises(DataError, match="annotation 2 has no area"):
        folder.scenes()


@pytest.mark.parametrize("name", [["dog"], {"dog": 1}, 7])
def test_a_category_whose_name_is_no_text_is_of_no_class(folder: CocoFolder, name: object) -> None:
    folder.add(("dog", LEFT), ("couch", RIGHT), ("pizza", (20, 40, 30, 50)))
    path = folder.write() / "annotations" / "instances_val2017.json"
    told = json.loads(path.read_text())
    told["categories"][NAMES.index("pizza")]["name"] = name
    path.write_text(json.dumps(told))
    assert len(qualifying_scenes(open_coco(path))) == 1


def test_any_number_of_annotations_takes_the_memory_of_a_few(tmp_path: Path) -> None:
    side = 1000
    path = tmp_path / "instances.json"
    whole = {"size": [side, side], "counts": [0, side * side]}
    thing = {"image_id": 1, "category_id": 1, "segmentation": whole, "area": side * side, "iscrowd": 0}
    told = {
        "images": [{"id": 1, "file_name": "1.png", "width": side, "height": side}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": number, **thing} for number in range(40)],
    }
    path.write_text(json.dumps(told))
    coco = open_coco(path)
    tracemalloc.start()
    qualifying_scenes(coco)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * side * side  # of 40 masks of side * side bytes
