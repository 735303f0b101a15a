"""Pictures and masks that are unusual, broken or hostile, from the command line to what is on disk."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from conceptloom.cli import FAILED, build_app
from conceptloom.evaluation.coco_format import write_benchmark
from conceptloom.evaluation.folder_sets import folder_benchmark
from conceptloom.pictures import write_png

SHORT = {
    "em_steps": 2,
    "joint_steps": 1,
    "batch_size": 1,
    "initial_timesteps": 2,
    "e_step_timesteps": 2,
    "prior_images": 2,
    "sample_steps": 1,
    "preview_every": 2,
    "mask_update_every": 2,
    "train": "lora",
    "crf": {"iterations": 1},
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound picture, a sound mask and a configuration in the working folder."""
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path_factory.getbasetemp() / "hostile-cache"))
    monkeypatch.chdir(tmp_path)
    write_png("yard.png", scene())
    write_png("mask.png", middle())
    Path("short.json").write_text(json.dumps(SHORT))


def scene(seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(90, 130, (70, 90, 3), dtype=np.uint8)
    pixels[10:40, 20:50] = (220, 60, 40)
    return pixels


def middle() -> np.ndarray:
    mask = np.zeros((70, 90), dtype=np.bool_)
    mask[10:40, 20:50] = True
    return mask


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


@pytest.fixture
def on_tiny(tiny_folder: Path) -> Callable[..., Result]:
    """Run a verb on the tiny model."""

    def call(*arguments: str) -> Result:
        result = invoke(*arguments, "--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32")
        assert result.exit_code == 0, result.output
        return result

    return call


def animation(path: str) -> None:
    first, second = Image.fromarray(scene()), Image.fromarray(scene(1))
    first.save(path, format="WEBP", save_all=True, append_images=[second], lossless=True)


def test_learn_says_what_was_not_as_one_might_expect(on_tiny: Callable[..., Result]) -> None:
    animation("moving.png")
    Image.fromarray(scene(2)).save("odd.png", icc_profile=b"no profile")
    Path("copy.png").write_bytes(Path("yard.png").read_bytes())
    write_png("inverted.png", ~middle())
    result = on_tiny(
        *("learn", "yard.png", "moving.png", "odd.png", "copy.png", "--concept", "cat=cat", "--out", "set"),
        *("--mask", "odd:cat=inverted.png", "--config", "short.json"),
    )
    assert [line for line in result.stdout.splitlines() if line.startswith("note: ")] == [
        "note: 'moving' is a WEBP file, though its name ends in .png",
        "note: 'moving' is an animation of 2 frames, of which only the first is used",
        "note: 'moving' has the same pixels as 'yard', which so counts twice",
        "note: 'odd' has a colour profile that is broken or for other colours, and is ignored",
        "note: 'odd' has a mask of 'cat' that is white along all four edges: right for a background,"
        " inverted for anything else",
        "note: 'copy' has the same pixels as 'yard', which so counts twice",
    ]


def test_segment_says_how_much_of_a_prompt_is_not_read(on_tiny: Callable[..., Result]) -> None:
    long = "a <cat>" + " a" * 40
    result = on_tiny(
        "segment", "yard.png", "--concept", "cat=cat", "--prompt", f"yard={long}", "--out", "masks"
    )
    assert f"the last 12 tokens do not fit and are not read: {long}" in result.stdout.splitlines()


def test_segment_says_what_was_not_as_one_might_expect(on_tiny: Callable[..., Result]) -> None:
    animation("moving.png")
    result = on_tiny("segment", "moving.png", "--concept", "cat=cat", "--out", "masks")
    assert result.stdout.splitlines()[:2] == [
        "note: 'moving' is a WEBP file, though its name ends in .png",
        "note: 'moving' is an animation of 2 frames, of which only the first is used",
    ]


def _cut(path: str) -> None:
    Path(path).write_bytes(Path("yard.png").read_bytes()[:3000])


def _zero_bytes(path: str) -> None:
    Path(path).write_bytes(b"")


def _page(path: str) -> None:
    Path(path).write_text("<!DOCTYPE html><title>404</title>")


def _bomb(path: str) -> None:
    content = bytearray(Path("yard.png").read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    Path(path).write_bytes(content)


def _dot(path: str) -> None:
    Image.new("RGB", (1, 1)).save(path)


BROKEN = [
    (_cut, "is damaged"),
    (_zero_bytes, "is empty"),
    (_page, "is not a picture: give a PNG, JPEG or WebP file"),
    (_bomb, "too many pixels"),
    (_dot, "is only 1 x 1 px"),
]


@pytest.mark.parametrize("verb", ["learn", "segment"])
@pytest.mark.parametrize(("make", "reason"), BROKEN)
def test_one_broken_picture_among_sound_ones_is_named_in_one_line_and_nothing_is_written(
    make: Callable[[str], None], reason: str, verb: str
) -> None:
    make("broken.png")
    before = sorted(Path().rglob("*"))
    result = invoke(verb, "yard.png", "broken.png", "--concept", "cat=cat", "--out", "new/out")
    assert (result.exit_code, result.stdout) == (FAILED, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: broken.png ")
    assert reason in line
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("verb", ["learn", "segment"])
@pytest.mark.parametrize("flag", ["--mask", "--stroke"])
@pytest.mark.parametrize(("make", "reason"), BROKEN)
def test_a_broken_mask_or_stroke_file_is_named_in_one_line_and_nothing_is_written(
    make: Callable[[str], None], reason: str, flag: str, verb: str
) -> None:
    make("broken.png")
    before = sorted(Path().rglob("*"))
    given = ("--concept", "cat=cat", flag, "yard:cat=broken.png", "--out", "new/out")
    result = invoke(verb, "yard.png", *given)
    assert (result.exit_code, result.stdout) == (FAILED, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: 'cat' in 'yard': broken.png ")
    assert reason in line
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("method", ["gt", "paper"])
@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((70, 90), np.bool_), "marks nothing: paint the concept white"),
        (np.ones((70, 90), np.bool_), "marks the whole picture"),
        (middle()[:, :70], "is 70 x 70 px, its picture 90 x 70: save it at the picture's size"),
        (middle().T, "is 70 x 90 px, its picture 90 x 70: save it at the picture's size, upright"),
    ],
    ids=["empty", "full", "wrong-size", "on-its-side"],
)
def test_a_mask_that_says_nothing_of_its_picture_is_refused_in_one_line(
    mask: np.ndarray, reason: str, method: str
) -> None:
    write_png("bad.png", mask)
    given = ("--concept", "cat=cat", "--mask", "yard:cat=bad.png", "--method", method, "--out", "new/out")
    result = invoke("learn", "yard.png", *given)
    assert (result.exit_code, result.stdout) == (FAILED, "")
    (line,) = result.stderr.splitlines()
    assert reason in line
    assert not Path("new").exists()


SECRETS = ("Paula-Geheim", "31.4159265", "secret prompt", "Canary Camera 9000", "my-profile-name")


def with_secrets(path: str, pixels: np.ndarray) -> None:
    """A file with all that others may have put into it: camera, owner, place, prompt, comment, profile's name."""
    exif = Image.Exif()
    exif[0x0110], exif[0x013B] = "Canary Camera 9000", "Paula-Geheim"
    exif[0x9286] = exif[0x010E] = "secret prompt"
    exif.get_ifd(0x8825).update({1: "N", 2: (31.4159265, 0.0, 0.0), 29: "31.4159265"})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"my-profile-name"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>Paula-Geheim 31.4159265</x:xmpmeta>"
    image = Image.fromarray(pixels)
    if path.endswith(".jpg"):
        image.save(path, exif=exif, comment="secret prompt", xmp=xmp, icc_profile=profile)
    elif path.endswith(".webp"):
        image.save(path, exif=exif, xmp=xmp, icc_profile=profile)
    else:
        text = PngInfo()
        text.add_text("parameters", "secret prompt")
        text.add_itxt("Author", "Paula-Geheim", zip=True)
        image.save(path, exif=exif, pnginfo=text, icc_profile=profile)


def inside(content: bytes) -> bytes:
    """A file's bytes and, laid open, the images in it and the text that they hold compressed."""
    opened = content
    for encoded in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        opened += inside(base64.b64decode(encoded))
    if content.startswith((b"\x89PNG", b"RIFF")):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kept = {key: value for key, value in image.info.items() if key in ("exif", "icc_profile", "xmp")}
            assert kept == {}
            opened += repr(image.info).encode()
    return opened


def given_with_secrets(*names: str) -> None:
    """Pictures, masks and strokes by their names, all with all secrets."""
    for seed, name in enumerate(names):
        pixels = scene(seed)
        if re.search("mask|stroke", name):
            pixels = np.repeat(middle()[..., None] * np.uint8(255), 3, axis=-1)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with_secrets(name, pixels)
        assert all(secret.encode() in _raw(Path(name)) for secret in ("Paula-Geheim", "secret prompt"))


def require_no_secrets(*folders: str) -> set[str]:
    """The endings of the files in these folders, none of which holds a secret."""
    written = [path for name in folders for path in Path(name).rglob("*") if path.is_file()]
    for path in written:
        content = inside(path.read_bytes())
        assert [secret for secret in SECRETS if secret.encode() in content] == [], path
    return {path.suffix for path in written}


def test_nothing_that_a_picture_holds_beside_its_pixels_is_ever_written(
    on_tiny: Callable[..., Result],
) -> None:
    names = ("yard.jpg", "park.webp", "path.png", "mask.png", "stroke.png")
    given_with_secrets(*(f"given/{name}" for name in names))
    pictures = [f"given/{name}" for name in ("yard.jpg", "park.webp", "path.png")]
    hints = ("--mask", "yard:cat=given/mask.png", "--stroke", "path:cat=given/stroke.png")
    on_tiny("learn", *pictures, "--concept", "cat=cat", *hints, "--config", "short.json", "--out", "set")
    on_tiny("segment", *pictures, "--set", "set", *hints, "--out", "masks")
    on_tiny("generate", "set", "a <cat>", "--steps", "1", "--out", "images")
    kinds = require_no_secrets("set", "masks", "images")
    assert {".png", ".html", ".json", ".jsonl", ".safetensors"} <= kinds


@pytest.mark.parametrize("name", ["yard.jpg", "park.webp", "path.png"])
def test_discover_writes_nothing_that_a_picture_holds_beside_its_pixels(
    name: str, on_tiny: Callable[..., Result]
) -> None:
    given_with_secrets(f"given/{name}")
    words = ("--word", "cat", "--place", "beach", "--most", "1")
    told = on_tiny("discover", f"given/{name}", *words, "--out", "found").output
    assert [secret for secret in SECRETS if secret in told] == []
    assert require_no_secrets("found") == {".png", ".json"}


def test_a_benchmark_of_ones_own_sets_holds_nothing_that_a_picture_holds_beside_its_pixels() -> None:
    own = ("yard.jpg", "park.webp", "path.png", "masks/yard/cat.png", "masks/path/cat.png")
    given_with_secrets(*(f"sets/garden/{name}" for name in own), "sets/den/img.jpg", "sets/den/mask0.png")
    told = {
        "concepts": {"cat": {"word": "cat"}, "lawn": {"word": "grass", "kind": "background"}},
        "prompts": [{"text": "a <cat> on the <lawn>", "place": "lawn"}],
    }
    for name in ("garden", "den"):
        Path("sets", name, "set.json").write_text(json.dumps(told))
    write_benchmark(folder_benchmark("sets"), "benchmark")
    assert len(list(Path("benchmark/images").iterdir())) == 4
    assert require_no_secrets("benchmark") == {".png", ".json"}


def _raw(path: Path) -> bytes:
    """All that a picture's file says beside its pixels."""
    with Image.open(path) as image:
        image.load()
        return path.read_bytes() + repr(image.info).encode()


def test_no_library_makes_decoders_fill_up_what_is_missing() -> None:
    for module in ("learning", "generation", "judges", "evaluation"):
        import_module(f"conceptloom.{module}")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
