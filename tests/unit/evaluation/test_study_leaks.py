"""The checker of a study's folder: silent on a clean one, and never on one with something planted."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conceptloom.evaluation.protocols import RANDOM, Pair
from conceptloom.evaluation.study_bundle import TIMESTAMP, Comparison, Reference, export_study_bundle
from conceptloom.evaluation.study_key import StudyKey
from conceptloom.evaluation.study_leaks import leaks, order_tests

NAMES = ("ours", "baseline", "paper", "gt", "fixed", "inversion", "words", "/data/runs/paper", "tabby")
PROTOCOL = replace(RANDOM, people=6, pairs_per_person=20, people_per_pair=3)


def export(at: Path, seed: int = 7) -> tuple[Path, StudyKey]:
    rng = np.random.default_rng(0)
    comparisons = [
        Comparison(
            Pair(f"scene-{scene}", "tabby", f"a <tabby> in place {prompt}", 0, 0),
            # the baseline's images are smoother: compressed they would be smaller
            rng.integers(0, 256, (16, 16, 3), np.uint8),
            np.full((16, 16, 3), rng.integers(0, 256), np.uint8),
            (Reference("tabby", "subject", rng.integers(0, 256, (16, 16, 3), np.uint8)),),
        )
        for scene in range(5)
        for prompt in range(8)
    ]
    key = export_study_bundle(
        comparisons,
        PROTOCOL,
        at / "study",
        at / "key.json",
        methods={"ours": "paper", "baseline": "fixed"},
        seed=seed,
    )
    return at / "study", key


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyKey]:
    return export(tmp_path_factory.mktemp("original"))


@pytest.fixture
def study(original: tuple[Path, StudyKey], tmp_path: Path) -> tuple[Path, StudyKey]:
    """A copy to spoil: times and rights are the original's."""
    return shutil.copytree(original[0], tmp_path / "study"), original[1]


@pytest.fixture
def folder(study: tuple[Path, StudyKey]) -> Path:
    return study[0]


def first_image(folder: Path) -> Path:
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return folder / "images" / f"{study['people'][0]['trials'][0]['left']}.png"


def stamp(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (TIMESTAMP, TIMESTAMP), follow_symlinks=False)


def test_nothing_leaks_from_an_exported_study(original: tuple[Path, StudyKey]) -> None:
    assert leaks(original[0], NAMES) == []


def test_the_key_would_be_found_if_it_were_inside(original: tuple[Path, StudyKey], folder: Path) -> None:
    shutil.copy(original[0].parent / "key.json", folder)
    found = leaks(folder, NAMES)
    assert "key.json: no trial names it" in found
    assert "key.json: says 'paper'" in found


def _text_chunk(folder: Path) -> None:
    path, chunks = first_image(folder), PngInfo()
    chunks.add_text("Software", "something")
    with Image.open(path) as image:
        image.save(path, pnginfo=chunks, compress_level=0)


def _exif(folder: Path) -> None:
    path, exif = first_image(folder), Image.Exif()
    exif[0x010E] = "made by gt"
    with Image.open(path) as image:
        image.save(path, exif=exif, compress_level=0)


def _after_the_end(folder: Path) -> None:
    path = first_image(folder)
    path.write_bytes(path.read_bytes() + b"made by gt_12")


def _in_the_pixels(folder: Path) -> None:
    path = first_image(folder)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels.reshape(-1)[:9] = np.frombuffer(b"Inversion", np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


def _in_the_stream(folder: Path) -> None:
    """Bytes behind the last scanline, which no viewer shows."""
    path = first_image(folder)
    data = path.read_bytes()
    at = data.index(b"IDAT") + 4
    length = int.from_bytes(data[at - 8 : at - 4], "big")
    content = zlib.compress(zlib.decompress(data[at : at + length]) + b"made by gt", 0)
    chunk = b"IDAT" + content
    ending = zlib.crc32(chunk).to_bytes(4, "big") + data[at + length + 4 :]
    path.write_bytes(data[: at - 8] + len(content).to_bytes(4, "big") + chunk + ending)


def _compressed(folder: Path) -> None:
    path = first_image(folder)
    with Image.open(path) as image:
        image.save(path, compress_level=9)


def _other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(first_image(folder), compress_level=0)


def _named_after_a_method(folder: Path) -> None:
    first_image(folder).rename(folder / "images" / "GT-3.png")


def _stray_file(folder: Path) -> None:
    (folder / "images" / "Thumbs.db").write_bytes(b"\0")


def _missing_file(folder: Path) -> None:
    first_image(folder).unlink()


def _link(folder: Path) -> None:
    path = first_image(folder)
    path.unlink()
    path.symlink_to(folder.parent / "paper.png")


def _rights(folder: Path) -> None:
    first_image(folder).chmod(0o600)


def _replaced(old: str, new: str) -> Callable[[Path], None]:
    def replaced(folder: Path) -> None:
        path = folder / "study.json"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replaced


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (_text_chunk, "holds a tEXt chunk"),
        (_exif, "holds a eXIf chunk"),
        (_exif, "says 'gt'"),
        (_after_the_end, "goes on for 13 bytes after its end"),
        (_after_the_end, "says 'gt'"),
        (_in_the_pixels, "says 'inversion'"),
        (_in_the_stream, "holds 10 bytes beside its pixels"),
        (_compressed, "differ in size or in how they are stored"),
        (_other_size, "differ in size or in how they are stored"),
        (_named_after_a_method, "named after 'gt'"),
        (_stray_file, "images/Thumbs.db: no trial names it"),
        (_missing_file, "is not there"),
        (_link, "a link to"),
        (_rights, "files differ in their mode"),
        (_replaced("in place", "as PAPER in place"), "study.json: says 'paper'"),
        (_replaced("in place", "as p\\u0061per in place"), "study.json: says 'paper'"),
        (_replaced("in place", "from /home/me/out/x.png in place"), "holds a path"),
        (_replaced("in place", "from C:\\\\runs in place"), "holds a path"),
        (_replaced("the object in reference 1", "a <tabby>"), "holds a placeholder"),
        (_replaced('"people"', '"peoples"'), "cannot be read as a study"),
        (_replaced('"people"', "people"), "study.json: cannot be read"),
        (_replaced('          "left": "', '          "left": "/'), "which is no id"),
    ],
)
def test_what_is_planted_is_found(folder: Path, plant: Callable[[Path], None], told: str) -> None:
    plant(folder)
    stamp(folder)
    assert any(told in line for line in leaks(folder, NAMES)), leaks(folder, NAMES)


def test_one_file_that_was_touched_is_found(folder: Path) -> None:
    os.utime(first_image(folder), (TIMESTAMP + 1, TIMESTAMP + 1))
    assert leaks(folder, NAMES) == ["files differ in their modification time"]


def test_a_name_inside_another_word_is_none(folder: Path) -> None:
    _replaced("in place", "for hours, like paperwork, in place")(folder)
    stamp(folder)
    assert leaks(folder, NAMES) == []


# Order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_the_files_knows_the_method(tmp_path: Path, seed: int) -> None:
    found = order_tests(*export(tmp_path, seed))
    assert set(found) == {"name", "size", "time", "listing", "side"}
    assert min(found.values()) > 0.01
    assert found["size"] == found["time"] == 1.0


def test_p_values_of_clean_studies_are_spread_as_chance_spreads_them(tmp_path: Path) -> None:
    p = [order_tests(*export(tmp_path / str(seed), seed))["name"] for seed in range(12)]
    assert 0.3 < np.mean(p) < 0.7
    assert min(p) < 0.25 < 0.75 < max(p)


def _sorted_names(folder: Path, key: StudyKey) -> StudyKey:
    """Ids given out method by method, as a careless export would."""
    old = sorted(key.images, key=lambda name: key.images[name].method)
    new = {name: f"{index:016x}" for index, name in enumerate(old)}
    text = (folder / "study.json").read_text(encoding="utf-8")
    for name, other in new.items():
        (folder / "images" / f"{name}.png").rename(folder / "images" / f"{other}.png")
        text = text.replace(name, other)
    (folder / "study.json").write_text(text, encoding="utf-8")
    return key.model_copy(update={"images": {new[name]: image for name, image in key.images.items()}})


def _listed_one_method_after_the_other(folder: Path, key: StudyKey) -> StudyKey:
    """Trials that name every image of one method before any of the other's."""
    text = (folder / "study.json").read_text(encoding="utf-8")
    listed = list(dict.fromkeys(re.findall(r'"(?:left|right)": "(\w+)"', text)))
    told = dict(zip(listed, sorted(listed, key=lambda name: key.images[name].method), strict=True))
    text = re.sub(r"[0-9a-f]{16}", lambda name: told.get(name[0], name[0]), text)
    (folder / "study.json").write_text(text, encoding="utf-8")
    return key


def _compressed_files(folder: Path, key: StudyKey) -> StudyKey:
    for name in key.images:
        path = folder / "images" / f"{name}.png"
        with Image.open(path) as image:
            image.save(path)
    return key


def _written_one_method_after_the_other(folder: Path, key: StudyKey) -> StudyKey:
    for name, image in key.images.items():
        later = TIMESTAMP + (image.method == "ours")
        os.utime(folder / "images" / f"{name}.png", (later, later))
    return key


def _ours_always_left(folder: Path, key: StudyKey) -> StudyKey:
    swapped = {name: trial.model_copy(update={"left": "ours"}) for name, trial in key.trials.items()}
    return key.model_copy(update={"trials": swapped})


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (_sorted_names, "name"),
        (_compressed_files, "size"),
        (_written_one_method_after_the_other, "time"),
        (_listed_one_method_after_the_other, "listing"),
        (_ours_always_left, "side"),
    ],
)
def test_an_order_that_knows_the_method_is_found(
    study: tuple[Path, StudyKey], plant: Callable[[Path, StudyKey], StudyKey], what: str
) -> None:
    folder, key = study
    assert order_tests(folder, plant(folder, key))[what] < 1e-6
