"""The concept set on disk and in memory."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from conceptloom.backbone import Backbone, encode_prompts, tokenize
from conceptloom.concepts import BaseModelRecord, Concept, ConceptSet, WeightsDelta, concept_set
from conceptloom.concepts.storage import MAX_IMAGE_PIXELS, previous_of
from conceptloom.errors import ConceptSetError
from conceptloom.seeding import noise, numpy_generator
from flushes import disk_events
from hostile import MALFORMED
from mutations import json_like, value_or_refusal

DESCRIPTION, EMBEDDINGS, WEIGHTS = "concept_set.json", "learned_embeds.safetensors", "weights.safetensors"


def example_set() -> ConceptSet:
    """Two concepts with every kind of content."""
    lora = {"unet.a.lora_A.weight": noise((2, 6), 1), "unet.a.lora_B.weight": noise((6, 2), 2)}
    return ConceptSet(
        concepts=(Concept("cat", "subject", "animal", 2), Concept("köter", "background")),
        embeddings={"cat": noise((2, 8), 3), "köter": noise((1, 8), 4)},
        base=BaseModelRecord("tiny", "ab" * 32, "builtin-1"),
        weights=WeightsDelta("lora", lora, rank=2, alpha=4.0),
        config={"method": "paper", "seed": 3, "rates": [0.1, 1e-3], "word": None},
        provenance={"conceptloom": "0.1.0", "drift": {"before": 0.1, "after": 0.25}},
        masks={
            ("my picture", "cat"): numpy_generator(0, "mask").random((13, 17)) > 0.5,
            ("my picture", "köter"): np.ones((13, 17), dtype=np.bool_),
            ("Bild.2", "cat"): np.zeros((5, 4), dtype=np.bool_),
        },
        thumbnails={"cat": numpy_generator(0, "thumb").integers(0, 256, (9, 8, 3), dtype=np.uint8)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved set."""
    example_set().save(tmp_path / "set")
    return tmp_path / "set"


def refused(folder: Path, match: str = ".") -> None:
    with pytest.raises(ConceptSetError, match=match) as caught:
        ConceptSet.load(folder)
    assert len(str(caught.value).splitlines()) == 1


def change(folder: Path, **changes: Any) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# In memory


def test_rows_and_placeholders_are_in_the_order_of_the_concepts() -> None:
    learned = example_set()
    assert learned.placeholders == {"<cat>": 2, "<köter>": 1}
    assert torch.equal(learned.rows(), torch.cat([learned.embeddings["cat"], learned.embeddings["köter"]]))


def test_a_sets_rows_and_placeholders_fit_the_backbone(tiny_backbone: Backbone) -> None:
    width = tiny_backbone.embedding_dim
    learned = ConceptSet(
        (Concept("cat", num_vectors=2), Concept("dog")),
        {"dog": tiny_backbone.vocabulary_embeddings[7:8].clone(), "cat": noise((2, width), 0)},
        BaseModelRecord.of(tiny_backbone),
    )
    learned.check_base(tiny_backbone)
    prompt = tokenize(tiny_backbone, "<dog>", learned.placeholders)
    plain = replace(prompt, ids=torch.where(prompt.ids >= 590, 7, prompt.ids))
    assert torch.equal(
        encode_prompts(tiny_backbone, [prompt], learned.rows()), encode_prompts(tiny_backbone, [plain], None)
    )


@pytest.mark.parametrize("field", ["fingerprint", "version"])
def test_another_base_model_is_refused(tiny_backbone: Backbone, field: str) -> None:
    base = BaseModelRecord.of(tiny_backbone)
    learned = ConceptSet((Concept("cat"),), {"cat": torch.zeros(1, 8)}, replace(base, **{field: "other"}))
    with pytest.raises(ConceptSetError, match="learned on"):
        learned.check_base(tiny_backbone)


def test_the_same_base_model_under_another_name_is_accepted(tiny_backbone: Backbone) -> None:
    base = replace(BaseModelRecord.of(tiny_backbone), name="moved")
    rows = {"cat": torch.zeros(1, tiny_backbone.embedding_dim)}
    ConceptSet((Concept("cat"),), rows, base).check_base(tiny_backbone)


def test_rows_of_another_width_than_the_base_models_are_refused(tiny_backbone: Backbone) -> None:
    """The recorded fingerprint agrees, which anybody can write into a file."""
    learned = ConceptSet((Concept("cat"),), {"cat": torch.zeros(1, 8)}, BaseModelRecord.of(tiny_backbone))
    with pytest.raises(ConceptSetError, match="8 numbers each, its base model's 32"):
        learned.check_base(tiny_backbone)


def test_adding_a_concept_leaves_the_other_rows_bitwise_alone(tmp_path: Path) -> None:
    learned = example_set()
    mask = np.ones((3, 3), dtype=np.bool_)
    extended = learned.with_concepts(
        [Concept("beach")], {"beach": noise((1, 8), 9)}, {("new", "beach"): mask}
    )
    extended.save(tmp_path / "set")
    loaded = ConceptSet.load(tmp_path / "set")
    assert [concept.name for concept in loaded.concepts] == ["cat", "köter", "beach"]
    assert torch.equal(loaded.rows()[:3], learned.rows())
    assert torch.equal(loaded.embeddings["beach"], noise((1, 8), 9))
    assert len(loaded.masks) == len(learned.masks) + 1


def test_replacing_a_concept_keeps_its_place() -> None:
    learned = example_set()
    replaced = learned.with_concepts([Concept("cat", num_vectors=1)], {"cat": noise((1, 8), 9)})
    assert replaced.placeholders == {"<cat>": 1, "<köter>": 1}
    assert torch.equal(replaced.embeddings["köter"], learned.embeddings["köter"])


def test_added_rows_are_copies() -> None:
    rows = torch.nn.Parameter(noise((1, 8), 9))
    extended = example_set().with_concepts([Concept("beach")], {"beach": rows})
    with torch.no_grad():
        rows.zero_()
    assert torch.equal(extended.embeddings["beach"], noise((1, 8), 9))
    assert not extended.embeddings["beach"].requires_grad


@pytest.mark.parametrize(
    "changes",
    [
        {"concepts": ()},
        {"concepts": (Concept("cat", num_vectors=2), Concept("cat"))},
        {"embeddings": {"cat": torch.zeros(2, 8)}},
        {"embeddings": {"cat": torch.zeros(2, 8), "köter": torch.zeros(1, 9)}},
        {"embeddings": {"cat": torch.zeros(3, 8), "köter": torch.zeros(1, 8)}},
        {"embeddings": {"cat": torch.zeros(2, 8), "köter": torch.zeros(8)}},
        {"embeddings": {"cat": torch.zeros(2, 8), "köter": torch.full((1, 8), torch.nan)}},
        {"embeddings": {"cat": torch.zeros(2, 8), "köter": torch.zeros(1, 8, dtype=torch.float64)}},
        {"masks": {("picture", "bird"): np.ones((2, 2), dtype=np.bool_)}},
        {"masks": {("../picture", "cat"): np.ones((2, 2), dtype=np.bool_)}},
        {"masks": {("picture", "cat"): np.ones((2, 2), dtype=np.uint8)}},
        {"thumbnails": {"bird": np.zeros((2, 2, 3), dtype=np.uint8)}},
        {"thumbnails": {"cat": np.zeros((2, 2), dtype=np.uint8)}},
    ],
)
def test_parts_that_do_not_fit_make_no_set(changes: dict) -> None:
    with pytest.raises(ConceptSetError):
        replace(example_set(), **changes)


# Saving and loading


def test_a_loaded_set_is_the_saved_one(folder: Path) -> None:
    saved, loaded = example_set(), ConceptSet.load(folder)
    assert loaded.concepts == saved.concepts
    assert loaded.base == saved.base
    assert (loaded.config, loaded.provenance) == (saved.config, saved.provenance)
    for name, rows in saved.embeddings.items():
        assert torch.equal(loaded.embeddings[name], rows)
    assert loaded.masks.keys() == saved.masks.keys()
    for key, mask in saved.masks.items():
        assert loaded.masks[key].dtype == np.bool_
        assert np.array_equal(loaded.masks[key], mask)
    assert np.array_equal(loaded.thumbnails["cat"], saved.thumbnails["cat"])
    assert loaded.weights is not None
    assert saved.weights is not None
    assert (loaded.weights.kind, loaded.weights.rank, loaded.weights.alpha) == ("lora", 2, 4.0)
    for name, tensor in saved.weights.tensors.items():
        assert torch.equal(loaded.weights.tensors[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_weight_difference_keeps_dtype_and_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"unet.w": (1e-5 * noise((50, 3), 1)).to(dtype)}
    replace(example_set(), weights=WeightsDelta("full", tensors)).save(tmp_path / "set")
    weights = ConceptSet.load(tmp_path / "set").weights
    assert weights is not None
    assert (weights.kind, weights.rank) == ("full", None)
    assert weights.tensors["unet.w"].dtype == dtype
    assert torch.equal(weights.tensors["unet.w"], tensors["unet.w"])


def test_a_set_without_weights_has_no_weights_file(tmp_path: Path) -> None:
    replace(example_set(), weights=None).save(tmp_path / "set")
    assert not (tmp_path / "set" / WEIGHTS).exists()
    assert ConceptSet.load(tmp_path / "set").weights is None


def test_masks_are_white_where_the_concept_is(folder: Path) -> None:
    with Image.open(folder / "masks" / "my picture" / "cat.png") as image:
        white = np.asarray(image.convert("L")) == 255
    assert np.array_equal(white, example_set().masks["my picture", "cat"])


def test_the_embeddings_file_has_one_key_per_placeholder_token(folder: Path) -> None:
    assert {name: tuple(rows.shape) for name, rows in load_file(folder / EMBEDDINGS).items()} == {
        "<cat>": (2, 8),
        "<köter>": (1, 8),
    }


def test_extras_are_written_beside_the_set(tmp_path: Path) -> None:
    (tmp_path / "run" / "masks").mkdir(parents=True)
    (tmp_path / "run" / "masks" / "a.png").write_bytes(b"png")
    (tmp_path / "metrics").write_text('{"loss": 1}\n')
    extras = {"index.html": b"<p>", "previews": tmp_path / "run", "metrics.jsonl": tmp_path / "metrics"}
    example_set().save(tmp_path / "set", extras)
    loaded = ConceptSet.load(tmp_path / "set")
    assert loaded.metrics is not None
    assert loaded.metrics.read_text() == '{"loss": 1}\n'
    assert (tmp_path / "set" / "index.html").read_bytes() == b"<p>"
    assert (tmp_path / "set" / "previews" / "masks" / "a.png").read_bytes() == b"png"


def test_saving_again_drops_the_earlier_sets_files_and_keeps_the_users(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    example_set().save(folder, {"index.html": b"old", "previews.txt": b"old"})
    (folder / "images").mkdir()
    (folder / "images" / "mine.png").write_bytes(b"mine")
    only_cat = ConceptSet((Concept("cat"),), {"cat": torch.zeros(1, 8)}, example_set().base)
    only_cat.save(folder, {"index.html": b"new"})
    assert {path.name for path in folder.iterdir()} == {DESCRIPTION, EMBEDDINGS, "index.html", "images"}
    assert (folder / "index.html").read_bytes() == b"new"
    assert (folder / "images" / "mine.png").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_is_no_set_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(ConceptSetError, match="no concept set"):
        example_set().save(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"jpg"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("x")
    with pytest.raises(ConceptSetError, match="is a file"):
        example_set().save(tmp_path / "set")


def test_an_empty_folder_and_missing_parents_are_filled(tmp_path: Path) -> None:
    (tmp_path / "a" / "set").mkdir(parents=True)
    example_set().save(tmp_path / "a" / "set")
    example_set().save(tmp_path / "b" / "c" / "set")
    assert (
        ConceptSet.load(tmp_path / "b" / "c" / "set").concepts
        == ConceptSet.load(tmp_path / "a" / "set").concepts
    )


def test_a_link_to_a_set_stays_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    example_set().with_concepts([Concept("dog")], {"dog": torch.zeros(1, 8)}).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(ConceptSet.load(folder).concepts) == 3


def test_a_save_that_fails_leaves_the_earlier_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, tensors: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(concept_set, "write_tensors", full_disk)
    with pytest.raises(ConceptSetError, match="No space left on device"):
        example_set().with_concepts([Concept("dog")], {"dog": torch.zeros(1, 8)}).save(folder)
    assert ConceptSet.load(folder).concepts == example_set().concepts
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_a_set_is_flushed_before_it_takes_the_place_of_the_earlier_one_and_its_parent_before_that_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = disk_events(monkeypatch)
    example_set().save(folder)
    published = told.index(("rename", folder.name))
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files <= {name for what, name in told[:published] if what == "fsync"}
    assert told[published + 1] == ("fsync", folder.parent.name)


def test_a_crash_between_the_two_renames_loses_nothing(folder: Path) -> None:
    folder.rename(previous_of(folder))
    assert ConceptSet.load(folder).concepts == example_set().concepts
    example_set().with_concepts([Concept("dog")], {"dog": torch.zeros(1, 8)}).save(folder)
    assert len(ConceptSet.load(folder).concepts) == 3
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_a_crash_after_the_two_renames_loses_no_file_of_somebody_else(folder: Path) -> None:
    shutil.copytree(folder, previous_of(folder))
    (previous_of(folder) / "notes.txt").write_text("mine")
    example_set().save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_values_that_json_cannot_hold_are_refused_and_leave_the_earlier_set(folder: Path) -> None:
    with pytest.raises(ConceptSetError, match="finite plain data"):
        replace(example_set(), provenance={"drift": float("nan")}).save(folder)
    assert ConceptSet.load(folder).provenance == example_set().provenance


def test_others_may_read_a_set_as_the_systems_mask_says(folder: Path) -> None:
    (folder.parent / "plain").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((folder.parent / "plain").stat().st_mode)


# Hostile and damaged sets


def test_a_missing_folder_or_description_is_refused(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "holds no concept_set.json")
    (folder / DESCRIPTION).unlink()
    refused(folder, "holds no concept_set.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"{}"]
)
def test_a_damaged_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION).write_bytes(content)
    refused(folder)


def test_a_newer_format_is_refused_with_what_to_do(folder: Path) -> None:
    change(folder, format_version=2)
    refused(folder, "update conceptloom")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved set whose description may be damaged."""
    folder = tmp_path_factory.mktemp("damaged") / "set"
    example_set().save(folder)
    shutil.copy(folder / DESCRIPTION, folder / "whole.json")
    return folder


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_set_whose_description_has_any_content_is_read_or_refused_in_one_line(
    damaged: Path, data: st.DataObject
) -> None:
    content = data.draw(json_like(json.loads((damaged / "whole.json").read_text())))
    read = value_or_refusal(lambda path: ConceptSet.load(path.parent), damaged / DESCRIPTION, content)
    assert read is None or read.placeholders == {"<cat>": 2, "<köter>": 1}


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_an_unknown_format_is_refused(folder: Path, version: object) -> None:
    change(folder, format_version=version)
    refused(folder, "format_version")


def test_keys_of_a_later_program_are_tolerated(folder: Path) -> None:
    change(folder, colour="blue")
    assert len(ConceptSet.load(folder).concepts) == 2


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/etc/passwd",
        "..",
        "a/b",
        "a\\b",
        "C:evil",
        "a\u0000b",
        "a\nb",
        "",
        "x" * 300,
        "CON",
        "nul.txt",
        "a.",
        "a ",
        "a*b",
        "a|b",
    ],
)
@pytest.mark.parametrize("where", ["picture", "concept", "thumbnail", "name"])
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, where: str, name: str) -> None:
    if where == "picture":
        change(folder, masks={name: ["cat"]})
    elif where == "concept":
        change(folder, masks={"picture": [name]})
    elif where == "thumbnail":
        change(folder, thumbnails=[name])
    else:
        change(folder, concepts=[{"name": name, "kind": "subject", "initializer": None, "num_vectors": 1}])
    refused(folder)


def damaged_tensors(how: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    name = "<cat>"
    return {
        "nan": lambda tensors: {**tensors, name: tensors[name] * torch.nan},
        "infinite": lambda tensors: {**tensors, name: tensors[name] / 0},
        "integers": lambda tensors: {**tensors, name: tensors[name].int()},
        "half": lambda tensors: {**tensors, name: tensors[name].half()},
        "rows": lambda tensors: {**tensors, name: torch.zeros(3, 8)},
        "width": lambda tensors: {**tensors, name: torch.zeros(2, 9)},
        "axes": lambda tensors: {**tensors, name: torch.zeros(16)},
        "empty": lambda tensors: {**tensors, name: torch.zeros(2, 0)},
        "missing": lambda tensors: {key: value for key, value in tensors.items() if key != name},
        "extra": lambda tensors: {**tensors, "<dog>": torch.zeros(1, 8)},
    }[how]


@pytest.mark.parametrize(
    "how", ["nan", "infinite", "integers", "half", "rows", "width", "axes", "empty", "missing", "extra"]
)
def test_wrong_embeddings_are_refused(folder: Path, how: str) -> None:
    save_file(damaged_tensors(how)(load_file(folder / EMBEDDINGS)), folder / EMBEDDINGS)
    refused(folder)


@pytest.mark.parametrize("path", [EMBEDDINGS, WEIGHTS])
@pytest.mark.parametrize("wrong", MALFORMED)
def test_malformed_safetensors_are_refused(folder: Path, path: str, wrong: str) -> None:
    (folder / path).write_bytes(MALFORMED[wrong])
    refused(folder, "cannot be read")


FILES = [DESCRIPTION, EMBEDDINGS, WEIGHTS, "masks/my picture/cat.png", "thumbnails/cat.png"]


@pytest.mark.parametrize("path", FILES)
def test_a_link_out_of_the_set_is_not_followed(folder: Path, tmp_path: Path, path: str) -> None:
    """The file it leads to would do: it is the set's own."""
    outside = (folder / path).rename(tmp_path / "outside")
    (folder / path).symlink_to(outside)
    refused(folder, f"'{Path(path).name}' of the concept set is a link out of its folder")


@pytest.mark.parametrize("path", ["masks", "masks/my picture", "thumbnails"])
def test_a_linked_folder_out_of_the_set_is_not_followed(folder: Path, tmp_path: Path, path: str) -> None:
    outside = (folder / path).rename(tmp_path / "outside")
    (folder / path).symlink_to(outside)
    refused(folder, "is a link out of its folder")


def test_links_within_the_set_and_to_it_are_followed(folder: Path, tmp_path: Path) -> None:
    mask = folder / "masks" / "Bild.2" / "cat.png"
    mask.rename(folder / "moved.png")
    mask.symlink_to("../../moved.png")
    (tmp_path / "link").symlink_to(folder)
    assert ConceptSet.load(tmp_path / "link").masks.keys() == example_set().masks.keys()


@pytest.mark.parametrize("path", FILES[1:])
def test_links_in_a_circle_are_refused(folder: Path, path: str) -> None:
    (folder / path).unlink()
    (folder / path).symlink_to(Path(path).name)
    refused(folder)


@pytest.mark.parametrize("path", FILES)
def test_a_pipe_is_refused_instead_of_waited_for(folder: Path, path: str) -> None:
    (folder / path).unlink()
    os.mkfifo(folder / path)
    refused(folder)


def test_saving_again_replaces_links_and_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    (folder / EMBEDDINGS).unlink()
    (folder / EMBEDDINGS).symlink_to(tmp_path / "outside")
    shutil.rmtree(folder / "masks")
    (folder / "masks").symlink_to(tmp_path / "photos")
    example_set().save(folder)
    assert ConceptSet.load(folder).concepts == example_set().concepts
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"mine"


def test_links_among_the_extras_are_not_copied_into_the_set(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "previews" / "inner").mkdir(parents=True)
    (tmp_path / "previews" / "inner" / "a.png").write_bytes(b"png")
    (tmp_path / "previews" / "inner" / "b.png").symlink_to(tmp_path / "secret")
    example_set().save(tmp_path / "set", {"previews": tmp_path / "previews"})
    assert [path.name for path in (tmp_path / "set" / "previews").rglob("*.png")] == ["a.png"]


def test_metrics_that_are_a_link_out_of_the_set_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("{}")
    (folder / "metrics.jsonl").symlink_to(tmp_path / "outside")
    loaded = ConceptSet.load(folder)
    with pytest.raises(ConceptSetError, match="link out of its folder"):
        _ = loaded.metrics


@pytest.mark.parametrize("path", ["~nobody-of-that-name/set", "a\x00b", "x" * 300])
def test_a_path_that_cannot_be_is_refused_for_reading_and_writing(path: str) -> None:
    refused(Path(path), "no usable path")
    with pytest.raises(ConceptSetError, match="no usable path"):
        example_set().save(path)


@pytest.mark.parametrize("files", [[[]], [{}], [None, 3], "x", None, ["../../etc"]])
def test_a_set_whose_list_of_files_is_nonsense_can_be_saved_over(folder: Path, files: object) -> None:
    change(folder, files=files)
    example_set().save(folder)
    assert ConceptSet.load(folder).concepts == example_set().concepts


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"name": "a\nb" * 9999, "fingerprint": "c\nd" * 9999, "version": "e\nf" * 9999}},
        {"concepts": [{"name": "cat", "kind": "a\nb" * 9999, "initializer": None, "num_vectors": 1}]},
        {"concepts": [{"name": "A\nb" * 9999, "kind": "subject", "initializer": None, "num_vectors": 1}]},
        {"format_version": "a\nb" * 9999},
        {"masks": {"a\nb" * 9999: ["cat"]}},
    ],
    ids=["base", "kind", "name", "version", "picture"],
)
def test_long_texts_and_line_breaks_of_a_set_stay_out_of_the_one_line(
    folder: Path, tiny_backbone: Backbone, changes: dict[str, Any]
) -> None:
    change(folder, **changes)
    with pytest.raises(ConceptSetError) as caught:
        ConceptSet.load(folder).check_base(tiny_backbone)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize("path", [EMBEDDINGS, WEIGHTS, "masks/my picture/cat.png", "thumbnails/cat.png"])
def test_truncated_or_missing_files_are_refused(folder: Path, path: str) -> None:
    (folder / path).write_bytes((folder / path).read_bytes()[:-30])
    refused(folder)
    (folder / path).unlink()
    refused(folder)


def test_a_mask_that_is_no_png_is_refused(folder: Path) -> None:
    path = folder / "masks" / "my picture" / "cat.png"
    Image.new("L", (4, 4)).save(path, format="BMP")
    refused(folder)


def test_a_mask_with_too_many_pixels_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_IMAGE_PIXELS, "L", 100)
    refused(folder, "too many pixels")


def test_a_thumbnail_of_a_photographs_size_is_refused(folder: Path) -> None:
    Image.new("1", (2049, 2048)).save(folder / "thumbnails" / "cat.png")
    refused(folder, "too many pixels")


def test_half_a_character_in_the_configuration_is_refused_when_the_set_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConceptSetError, match="plain data"):
        replace(example_set(), config={"prompt": "\ud800"}).save(tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "weights",
    [
        "lora",
        {},
        {"kind": "pickle"},
        {"kind": "lora"},
        {"kind": "lora", "rank": 0, "alpha": 1},
        {"kind": "lora", "rank": 2, "alpha": 10**400},
        {"kind": "lora", "rank": 2.5, "alpha": 1},
        {"kind": "lora", "rank": 2, "alpha": "1"},
        {"kind": "lora", "rank": 10**9, "alpha": 1},
        {"kind": "lora", "rank": 1, "alpha": 1},
    ],
)
def test_weights_of_an_unknown_kind_are_refused(folder: Path, weights: object) -> None:
    change(folder, weights=weights)
    refused(folder)


@pytest.mark.parametrize(
    "factors",
    [
        {},
        {"unet.a.weight": torch.zeros(2, 2)},
        {"unet.a.lora_A.weight": torch.zeros(2)},
        {"unet.a.lora_A.weight": torch.zeros(3, 2)},
        {"unet.a.lora_B.weight": torch.zeros(2, 3)},
    ],
    ids=["none", "name", "axes", "rank of A", "rank of B"],
)
def test_factors_of_another_form_than_the_description_says_are_refused(
    folder: Path, factors: dict[str, torch.Tensor]
) -> None:
    save_file(factors, folder / WEIGHTS)
    refused(folder, "no factors of rank 2")


def paths_of(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_of(inner, (*path, key))


def loads_or_is_refused(folder: Path) -> bool:
    """Whether it was refused."""
    try:
        ConceptSet.load(folder)
    except ConceptSetError as error:
        return len(str(error).splitlines()) == 1
    return False


def test_no_value_in_the_description_makes_loading_fail_in_another_way(folder: Path) -> None:
    """Every place of the JSON gets every kind of wrong value: it loads, or it is refused in one line."""
    told = json.loads((folder / DESCRIPTION).read_text())
    refusals = 0
    for path in list(paths_of(told))[1:]:
        for wrong in (None, True, -1, 1e300, 10**40, "", "../x", [], {}, [[]], {"a": [1]}):
            damaged = json.loads(json.dumps(told))
            place = damaged
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            (folder / DESCRIPTION).write_text(json.dumps(damaged))
            refusals += loads_or_is_refused(folder)
    assert refusals > 100


def test_saving_over_a_damaged_set_is_refused_rather_than_guessed(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(ConceptSetError):
        example_set().save(folder)


def test_a_copied_set_is_the_same_set(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert torch.equal(ConceptSet.load(copy).rows(), ConceptSet.load(folder).rows())
