"""Benchmarks on disk: exact there and back, readable as plain COCO, and hostile folders refused in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptloom.errors import ConceptloomError, ConfigError, DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.coco_format import ANNOTATIONS, IMAGES, load_benchmark, write_benchmark
from conceptloom.evaluation.rle import quietly
from conceptloom.pictures import Picture, write_png
from conceptloom.seeding import numpy_generator


def example() -> Benchmark:
    """Pictures of two sizes, one concept without a mask, an empty and a full mask, a caption, names of all kinds."""
    rng = numpy_generator(0, "example benchmark")
    wide = rng.integers(0, 256, (20, 33, 3), dtype=np.uint8)
    tall = rng.integers(0, 256, (40, 17, 3), dtype=np.uint8)
    wide_masks = {"köter": rng.random((20, 33)) > 0.5, "cat": np.zeros((20, 33), np.bool_)}
    pictures = (Picture("bild.1", None, wide, wide_masks), Picture("a b", None, tall, {}))
    concepts = (
        TrueConcept("cat", None, "subject", "cat", "noto", "instance", "animal"),
        TrueConcept("köter", "hound", "subject", "dog", None, "novel noun", "animal"),
        TrueConcept("shore", "beach", "background", "beach", None, "place", "place"),
    )
    prompts = (
        TestPrompt("a <cat> riding a horse", "known", ("cat",), None, ("cat", "riding", "horse"), ("horse",)),
        TestPrompt("a <köter> on <shore> in ink style", "style", ("köter", "shore"), "shore", style="ink"),
    )
    mine = BenchmarkSet(
        "mine",
        pictures,
        concepts,
        {"bild.1": ("köter", "cat"), "a b": ("shore", "cat")},
        prompts,
        "photo",
        {"a b": "<cat> by <shore>"},
    )
    full = Picture("bild.1", None, tall, {"shore": np.ones((40, 17), np.bool_)})
    other = BenchmarkSet("other", (full,), concepts[2:], {"bild.1": ("shore",)}, (), "drawn")
    return Benchmark("example", "dev", (mine, other))


def same(one: Benchmark, other: Benchmark) -> None:
    """Assert that two benchmarks are equal to the last bit, but for where their pictures came from."""
    assert (one.name, one.split) == (other.name, other.split)
    for a, b in zip(one.sets, other.sets, strict=True):
        assert (a.name, a.place_type, a.concepts, a.prompts) == (b.name, b.place_type, b.concepts, b.prompts)
        assert a.captions == b.captions
        assert a.shown == b.shown
        assert list(a.contains.items()) == list(b.contains.items())
        for mine, read in zip(a.pictures, b.pictures, strict=True):
            assert mine.name == read.name
            assert np.array_equal(mine.pixels, read.pixels)
            assert mine.masks.keys() == read.masks.keys()
            for name, mask in mine.masks.items():
                assert read.masks[name].dtype == np.bool_
                assert np.array_equal(mask, read.masks[name])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A written benchmark."""
    write_benchmark(example(), tmp_path / "benchmark")
    return tmp_path / "benchmark"


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ANNOTATIONS).read_text(encoding="utf-8"))


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = told(folder)
    edit(value)
    (folder / ANNOTATIONS).write_text(json.dumps(value), encoding="utf-8")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ConceptloomError, match=match) as caught:
        load_benchmark(folder)
    assert len(str(caught.value).splitlines()) == 1


# There and back


def test_a_benchmark_comes_back_exactly(folder: Path) -> None:
    same(example(), load_benchmark(folder))


def test_the_built_in_benchmark_comes_back_exactly(tmp_path: Path) -> None:
    benchmark = builtin_benchmark("dev", 6, side_px=48)
    write_benchmark(benchmark, tmp_path / "builtin")
    same(benchmark, load_benchmark(tmp_path / "builtin"))


def test_what_was_read_is_written_as_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_benchmark(load_benchmark(folder), tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 4
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (folder / path).read_bytes()


def test_any_coco_tool_finds_images_masks_and_nouns(folder: Path) -> None:
    from pycocotools.coco import COCO

    with quietly():
        coco = COCO(str(folder / ANNOTATIONS))
    picture = example().sets[0].pictures[0]
    (image,) = [entry for entry in coco.dataset["images"] if entry["file_name"].endswith("bild.1.png")][:1]
    dogs = coco.getAnnIds(imgIds=[image["id"]], catIds=coco.getCatIds(catNms=["dog"]), iscrowd=False)
    (annotation,) = coco.loadAnns(dogs)
    rows, columns = np.nonzero(picture.masks["köter"])
    with quietly():
        assert np.array_equal(coco.annToMask(annotation), picture.masks["köter"])
    assert annotation["area"] == picture.masks["köter"].sum()
    assert annotation["bbox"] == [
        columns.min(),
        rows.min(),
        np.ptp(columns) + 1,
        np.ptp(rows) + 1,
    ]
    assert (image["width"], image["height"]) == (33, 20)
    assert coco.getCatIds(supNms=["animal"]) == coco.getCatIds(catNms=["cat", "dog"])


def test_a_new_benchmark_replaces_the_old_one_and_spares_what_else_is_there(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    one = replace(example(), sets=example().sets[1:])
    write_benchmark(one, folder)
    same(one, load_benchmark(folder))
    assert len(list((folder / IMAGES).iterdir())) == 1
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_crash_while_writing_leaves_the_old_benchmark(folder: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("conceptloom.evaluation.coco_format.write_json_atomic", fail)
    with pytest.raises(OSError, match="disk full"):
        write_benchmark(replace(example(), name="new"), folder)
    same(example(), load_benchmark(folder))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="no benchmark: choose a new or empty folder"):
        write_benchmark(example(), tmp_path)
    with pytest.raises(DataError, match="is a file"):
        write_benchmark(example(), tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Without pycocotools, and without its chatter


def test_without_pycocotools_the_message_names_the_extra(folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ConfigError, match="install conceptloom with its extra 'evaluate'"):
        load_benchmark(folder)
    with pytest.raises(ConfigError, match="install conceptloom with its extra 'evaluate'"):
        write_benchmark(example(), folder.with_name("other"))


def test_reading_prints_nothing(folder: Path, capsys) -> None:
    load_benchmark(folder)
    assert capsys.readouterr() == ("", "")


# Hostile folders


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "annotations.json cannot be read")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '{"images": 3}', "\x00", '{"images": []}']
)
def test_what_is_no_coco_file_is_refused(folder: Path, text: str) -> None:
    (folder / ANNOTATIONS).write_text(text)
    refused(folder, "is no COCO annotation file")


def test_plain_coco_is_refused_as_no_benchmark(folder: Path) -> None:
    change(folder, lambda value: value.pop("concept_sets"))
    refused(folder, "holds no concept sets")


def test_another_format_is_refused_by_its_number(folder: Path) -> None:
    change(folder, lambda value: value["concept_sets"].update(format_version=2, future=True))
    refused(folder, "of format 2, not 1")


def test_a_missing_image_is_refused(folder: Path) -> None:
    next((folder / IMAGES).iterdir()).unlink()
    refused(folder, "is missing: restore it")


def test_an_image_of_another_size_is_refused(folder: Path) -> None:
    name = told(folder)["images"][0]["file_name"]
    write_png(folder / IMAGES / name, np.zeros((21, 33, 3), np.uint8))
    refused(folder, "is 33 x 21 px, annotations.json says 33 x 20")


def test_a_damaged_image_is_refused(folder: Path) -> None:
    (folder / IMAGES / told(folder)["images"][0]["file_name"]).write_bytes(b"no picture")
    refused(folder, "is not a picture")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..", "a/b.png", "", "C:x.png", "a\x00b"])
def test_an_image_outside_of_the_folder_is_refused(folder: Path, name: str) -> None:
    shutil.copy(next((folder / IMAGES).iterdir()), folder / "secret.png")
    change(folder, lambda value: value["images"][0].update(file_name=name))
    refused(folder, "is no plain file name")


def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path) -> None:
    path = folder / IMAGES / told(folder)["images"][0]["file_name"]
    path.rename(folder.parent / "secret.png")
    path.symlink_to(folder.parent / "secret.png")
    refused(folder, "leads out of its folder")


def test_a_link_that_leads_to_itself_is_refused(folder: Path) -> None:
    path = folder / IMAGES / told(folder)["images"][0]["file_name"]
    path.unlink()
    path.symlink_to(path.name)
    refused(folder, "leads out of its folder")


def first_picture(value: dict[str, Any]) -> dict[str, Any]:
    return value["concept_sets"]["sets"][0]["pictures"][0]


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "annotation of an unknown image": (
        lambda value: value["annotations"][0].update(image_id=99),
        "annotation 1 in .* image or category that is not in the file",
    ),
    "annotation of an unknown category": (
        lambda value: value["annotations"][0].update(category_id="dog"),
        "image or category that is not in the file",
    ),
    "annotation without a category": (
        lambda value: value["annotations"][0].pop("category_id"),
        "is no COCO annotation file",
    ),
    "two annotations of one id": (
        lambda value: value["annotations"][0].update(id=2),
        "two annotations in .* have the same id",
    ),
    "two images of one id": (
        lambda value: value["images"][0].update(id=2),
        "two images in .* have the same id",
    ),
    "two categories of one id": (
        lambda value: value["categories"].append(dict(value["categories"][0])),
        "two categories in .* have the same id",
    ),
    "unhashable id": (lambda value: value["images"][0].update(id=[]), "is no COCO annotation file"),
    "picture of an unknown image": (
        lambda value: first_picture(value).update(image_id=99),
        "'bild.1' is image 99, which is not in",
    ),
    "mask of an unknown annotation": (
        lambda value: first_picture(value)["contains"].update(cat=99),
        "mask of 'cat' in 'bild.1' is annotation 99",
    ),
    "mask of another image": (
        lambda value: first_picture(value)["contains"].update(cat=3),
        "annotation 3, which is not of its image",
    ),
    "unknown key of a set": (
        lambda value: value["concept_sets"]["sets"][0].update(code="x"),
        "at 'sets.0.code': Extra inputs",
    ),
    "unknown key of a concept": (
        lambda value: value["concept_sets"]["sets"][0]["concepts"][0].update(code="x"),
        "at 'sets.0.concepts.0.code': Unexpected keyword",
    ),
    "unknown kind of prompt": (
        lambda value: value["concept_sets"]["sets"][0]["prompts"][0].update(kind="poem"),
        "at 'sets.0.prompts.0.kind': Input should be 'context'",
    ),
    "unknown kind of concept": (
        lambda value: value["concept_sets"]["sets"][0]["concepts"][0].update(kind="poem"),
        "at 'sets.0.concepts.0.kind'",
    ),
    "unknown type of place": (
        lambda value: value["concept_sets"]["sets"][0].update(place_type="poem"),
        "at 'sets.0.place_type'",
    ),
    "name that is a path": (
        lambda value: value["concept_sets"]["sets"][0].update(name="../../x"),
        "set name '../../x' .* cannot be a file name",
    ),
    "concept's name with a path": (
        lambda value: value["concept_sets"]["sets"][0]["concepts"][0].update(name="../x"),
        "concept name '../x' cannot be used",
    ),
    "prompt of an unknown concept": (
        lambda value: value["concept_sets"]["sets"][0]["prompts"][0].update(
            text="a <dog>", asked=["dog"], relation=None, known=[]
        ),
        "names 'dog', which it does not learn",
    ),
    "no set": (lambda value: value["concept_sets"].update(sets=[]), "holds no set"),
    "image without a size": (lambda value: value["images"][0].pop("width"), "image 1 .* at 'width'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, case: str) -> None:
    edit, match = HOSTILE[case]
    change(folder, edit)
    refused(folder, match)


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "zzzzzzzz",
        "7000000000",
        "é",
        "\xff\xff",
        lambda whole: whole[:-1],
        lambda whole: whole + "1",
        lambda whole: whole[: len(whole) // 2],
    ],
)
def test_a_broken_run_length_code_is_refused(folder: Path, counts: Any) -> None:
    """pycocotools itself gives memory as it was for codes that end too early."""

    def edit(value: dict[str, Any]) -> None:
        code = value["annotations"][0]["segmentation"]
        code["counts"] = counts(code["counts"]) if callable(counts) else counts

    change(folder, edit)
    refused(folder, "annotation 1 is a broken run-length code")


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        ({"size": [20, 34], "counts": "x"}, r"is of \(20, 34\) px"),
        ({"size": [-1, 33], "counts": "x"}, "px"),
        ({"size": [10**9, 10**9], "counts": "x"}, "px"),
        ({"size": [20], "counts": "x"}, "at 'size"),
        ({"size": [20, 33], "counts": [1, 2]}, "at 'counts'"),
        ([[0, 0, 5, 0, 5, 5]], "segmentation of annotation 1"),
        (None, "segmentation of annotation 1"),
    ],
)
def test_a_segmentation_of_another_form_is_refused(folder: Path, segmentation: Any, match: str) -> None:
    change(folder, lambda value: value["annotations"][0].update(segmentation=segmentation))
    refused(folder, match)
