"""Sets, checkpoints, base models and names made to do harm: nothing runs, nothing leaves its folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.cli import FAILED, build_app
from conceptloom.concepts import ConceptSet
from conceptloom.errors import BaseModelError, RunError
from conceptloom.generation import generate
from conceptloom.learning import Resumed, learn, prepare_job, run_folder
from conceptloom.learning.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from conceptloom.pictures import write_png
from hostile import MALFORMED, disguises, pickle_of, torch_archive
from tiny_sets import PROMPT, tiny_set

DRESSES = ("bare", "archive", "tail", "polyglot")
PICKLE_NAMES = (
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "model.pkl",
)
SHORT: dict[str, Any] = {
    "em_steps": 1,
    "joint_steps": 0,
    "batch_size": 1,
    "initial_timesteps": 1,
    "e_step_timesteps": 1,
    "train": "tokens",
    "preview_every": 0,
    "crf": {"iterations": 1},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder that is there once a pickle of these tests has been loaded."""
    return tmp_path / "canary"


@pytest.fixture(scope="module")
def sound_set(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    tiny_set(tiny_backbone, "lora").save(folder)
    return folder


@pytest.fixture
def concept_set(sound_set: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(sound_set, tmp_path / "set")


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "base")


def told_in_one_line(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (FAILED, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder: contents of files, targets of links."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# Pickles


def test_the_canary_is_there_once_its_pickle_is_loaded(canary: Path) -> None:
    import pickle  # noqa: S403, TID251 - else the tests below might prove nothing

    pickle.loads(pickle_of(canary))  # noqa: S301
    assert canary.is_dir()


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize(
    "name",
    [
        "concept_set.json",
        "learned_embeds.safetensors",
        "weights.safetensors",
        "masks/garden/cat.png",
        "thumbnails/cat.png",
    ],
)
def test_a_pickle_in_a_sets_file_is_not_loaded(
    concept_set: Path, canary: Path, name: str, dress: str
) -> None:
    (concept_set / name).write_bytes(disguises(canary)[dress])
    told_in_one_line(run("info", str(concept_set)))
    assert not canary.exists()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pkl"])
def test_a_pickle_in_place_of_a_sets_rows_is_not_looked_for(
    concept_set: Path, canary: Path, suffix: str
) -> None:
    rows = concept_set / "learned_embeds.safetensors"
    rows.unlink()
    rows.with_suffix(suffix).write_bytes(torch_archive(canary))
    assert "learned_embeds.safetensors" in told_in_one_line(run("info", str(concept_set)))
    assert not canary.exists()


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_pickle_in_a_base_models_file_is_not_loaded(
    base: Path, canary: Path, name: str, dress: str
) -> None:
    (base / name).write_bytes(disguises(canary)[dress])
    with pytest.raises(BaseModelError, match="damaged") as caught:
        load_backbone(base, "cpu", "float32")
    assert "\n" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", PICKLE_NAMES)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_in_place_of_weights_is_not_loaded(base: Path, canary: Path, part: str, name: str) -> None:
    next((base / part).glob("*.safetensors")).unlink()
    (base / part / name).write_bytes(torch_archive(canary))
    with pytest.raises(BaseModelError, match=f"weights in '{part}' are pickled.*convert to safetensors"):
        load_backbone(base, "cpu", "float32")
    assert not canary.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_an_index_does_not_lead_to_a_pickle(base: Path, canary: Path, part: str) -> None:
    weights = next((base / part).glob("*.safetensors"))
    (base / part / "evil.bin").write_bytes(torch_archive(canary))
    index = {"metadata": {}, "weight_map": {"a": "evil.bin"}}
    (base / part / f"{weights.name}.index.json").write_text(json.dumps(index))
    weights.unlink()
    with pytest.raises(BaseModelError, match="only safetensors files beside it"):
        load_backbone(base, "cpu", "float32")
    assert not canary.exists()


def test_pickles_beside_sound_files_are_left_alone(
    base: Path, concept_set: Path, canary: Path, tiny_backbone: Backbone
) -> None:
    for folder in (base, base / "unet", base / "vae", base / "text_encoder", base / "tokenizer", concept_set):
        for name in (
            *PICKLE_NAMES,
            "adapter_model.bin",
            "learned_embeds.bin",
            "spiece.model",
            "training_args.bin",
        ):
            (folder / name).write_bytes(torch_archive(canary))
    assert load_backbone(base, "cpu", "float32").fingerprint == tiny_backbone.fingerprint
    assert torch.equal(ConceptSet.load(concept_set).rows(), tiny_set(tiny_backbone).rows())
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.pt"])
def test_a_single_file_is_no_base_model(concept_set: Path, canary: Path, name: str) -> None:
    Path(name).write_bytes(torch_archive(canary))
    result = run("generate", str(concept_set), PROMPT, "--base-model", name)
    assert "is a single file" in told_in_one_line(result)
    assert not canary.exists()


# Checkpoints


def hostile_checkpoint(folder: Path, position: int, name: str, content: bytes) -> None:
    """A checkpoint with a file replaced, its manifest made to agree."""
    made = save_checkpoint(folder, Checkpoint(position, {"rows": torch.zeros(1, 2)}, {"done": 1}, {"a": 1}))
    (made / name).write_bytes(content)
    manifest = json.loads((made / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (made / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_passed_over(tmp_path: Path, canary: Path, name: str, dress: str) -> None:
    save_checkpoint(tmp_path / "c", Checkpoint(1, {"rows": torch.ones(1, 2)}, {"done": 1}, {"a": 1}))
    hostile_checkpoint(tmp_path / "c", 2, name, disguises(canary)[dress])
    found = newest_checkpoint(tmp_path / "c")
    assert found.checkpoint is not None
    assert found.checkpoint.position == 1
    assert "00000002 is damaged" in found.skipped[0]
    assert not canary.exists()


@pytest.mark.parametrize("wrong", MALFORMED)
def test_malformed_tensors_of_a_checkpoint_are_passed_over(tmp_path: Path, wrong: str) -> None:
    hostile_checkpoint(tmp_path / "c", 2, "state.safetensors", MALFORMED[wrong])
    found = newest_checkpoint(tmp_path / "c")
    assert found.checkpoint is None
    assert "00000002 is damaged" in found.skipped[0]


@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"format_version": 2, "position": 2, "state": [], "description": {}},
        {"format_version": 2, "position": 2, "state": {"a": 1}, "description": "x"},
        {"format_version": 2, "position": 99, "state": {"a": 1}, "description": {}},
    ],
)
def test_a_state_of_another_shape_is_passed_over(tmp_path: Path, state: object) -> None:
    hostile_checkpoint(tmp_path / "c", 2, "state.json", json.dumps(state).encode())
    assert newest_checkpoint(tmp_path / "c").checkpoint is None


def picture(name: str = "yard") -> str:
    """A picture in the working folder."""
    pixels = np.random.default_rng(0).integers(90, 130, (70, 90, 3), dtype=np.uint8)
    pixels[10:40, 20:50] = (220, 60, 40)
    write_png(f"{name}.png", pixels)
    return f"{name}.png"


def resumed(backbone: Backbone, changes: dict[str, torch.Tensor | None], state: dict[str, Any]) -> None:
    """Interrupt a run after its first masks, change its checkpoint and go on with it."""
    command: dict[str, Any] = {"base_model": backbone, "overrides": SHORT}
    job = prepare_job([picture()], {"cat": "cat"}, Path("set"), **command)
    events = job.events()
    while next(events).stage != "em":
        pass
    events.close()
    checkpoints = run_folder(Path("set")) / "checkpoints"
    saved = newest_checkpoint(checkpoints).checkpoint
    assert saved is not None
    tensors = {name: tensor for name, tensor in {**saved.tensors, **changes}.items() if tensor is not None}
    shutil.rmtree(checkpoints)
    save_checkpoint(
        checkpoints, Checkpoint(saved.position, tensors, {**saved.state, **state}, saved.description)
    )
    events = prepare_job([picture()], {"cat": "cat"}, Path("set"), resume=True, **command).events()
    assert isinstance(next(events), Resumed)
    events.close()


def test_a_checkpoint_taken_apart_and_put_together_goes_on(tiny_backbone: Backbone) -> None:
    resumed(tiny_backbone, {}, {})


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"rows": None}, {}),
        ({"rows": torch.zeros(7, 3)}, {}),
        ({"targets.0": None}, {}),
        ({"masks.0": None, "masks.x": torch.zeros(1, 8, 8)}, {}),
        ({"descent.rows": torch.zeros(1)}, {"done": None}),
        ({}, {"done": {"tokens": 0}}),
        ({}, {"rescues": [1]}),
        ({}, {"calm_e_steps": "many"}),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused_in_one_line(
    tiny_backbone: Backbone, changes: dict[str, torch.Tensor | None], state: dict[str, Any]
) -> None:
    with pytest.raises(RunError, match="does not fit its own run") as caught:
        resumed(tiny_backbone, changes, state)
    assert "\n" not in str(caught.value)


# Code, hubs and the network


def test_code_in_a_base_models_folder_is_never_imported(
    base: Path, canary: Path, tiny_backbone: Backbone
) -> None:
    code = f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n"
    for folder in (base, *(path for path in base.iterdir() if path.is_dir())):
        for name in (
            "__init__.py",
            "evil.py",
            "pipeline.py",
            "unet.py",
            "modeling_clip.py",
            "tokenization_clip.py",
        ):
            (folder / name).write_text(code)
    configs = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ]
    for name in configs:
        told = json.loads((base / name).read_text())
        wishes = {key: "evil.Evil" for key in ("AutoConfig", "AutoModel", "AutoTokenizer")}
        told |= {"auto_map": wishes, "trust_remote_code": True, "custom_pipeline": "pipeline"}
        (base / name).write_text(json.dumps(told))
    backbone = load_backbone(base, "cpu", "float32")
    assert not canary.exists()
    for name, parameter in tiny_backbone.unet.named_parameters():
        assert torch.equal(backbone.unet.get_parameter(name), parameter)
    from_there = [
        module
        for module in sys.modules.values()
        if str(getattr(module, "__file__", "")).startswith(str(base))
    ]
    assert from_there == []


def test_nothing_of_a_base_model_is_fetched(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        called.append(str(args))
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    load_backbone(base, "cpu", "float32")
    text = base / "text_encoder/config.json"
    text.write_text(
        json.dumps({**json.loads(text.read_text()), "_attn_implementation": "kernels-community/flash-attn"})
    )
    load_backbone(base, "cpu", "float32")
    with pytest.raises(BaseModelError, match="hf download"):
        load_backbone("nobody/no-model", "cpu", "float32")
    for part in ("tokenizer", "scheduler", "text_encoder", "unet"):
        shutil.rmtree(base / part)
        with pytest.raises(BaseModelError, match=part):
            load_backbone(base, "cpu", "float32")
    assert called == []


# Names and links

_watched: list[Path] | None = None
# Path and folder descriptor of each argument of an event that names what is changed.
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _watched.append(Path(os.fsdecode(arguments[0])).absolute())
    elif event in _CHANGES:
        for path, folder in _CHANGES[event]:
            start = (
                Path.cwd() if arguments[folder] < 0 else Path(f"/proc/self/fd/{arguments[folder]}").resolve()
            )
            _watched.append(start / os.fsdecode(arguments[path]))
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _watched.append(Path(f"/{event}"))


def strays(paths: list[Path], *folders: str) -> list[Path]:
    """Those of `paths` that are neither in the working folder's `folders` nor the working folder, which is there."""
    here = Path.cwd()
    return [
        path
        for path in paths
        if path not in (here, Path(os.devnull))
        and not any(path.is_relative_to(here / name) for name in folders)
    ]


@pytest.fixture(scope="module")
def _hook() -> None:
    sys.addaudithook(_watch)  # stays until the process ends, and does nothing unless asked to


@contextmanager
def watched() -> Iterator[list[Path]]:
    """The paths that Python writes, makes, moves or removes meanwhile, and the processes it starts."""
    global _watched
    _watched = paths = []
    try:
        yield paths
    finally:
        _watched = None


HOSTILE_PROMPTS = (
    "../../<cat>/../x",
    "/etc/<cat>",
    "C:\\<cat>\\x",
    "<cat>\0\n\r\x1b[2J",
    "<cat> " + "x" * 300,
    "CON <cat>",
    "-rf <cat>",
    "<cat>...",
    "$(touch pwned) `id` ; <cat> | sh & \"'",
    "<c\uff41t> \u202egnp.exe",
    "<cat> \U0001f408 חתול",
)


@pytest.mark.usefixtures("_hook")
def test_images_of_hostile_prompts_stay_in_their_folder(tiny_backbone: Backbone, tmp_path: Path) -> None:
    with watched() as paths:
        generate(
            tiny_set(tiny_backbone),
            HOSTILE_PROMPTS,
            base_model=tiny_backbone,
            num_inference_steps=1,
            batch_size=len(HOSTILE_PROMPTS),
            out="out",
        )
    assert len(list(Path("out").iterdir())) == len(HOSTILE_PROMPTS) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert paths
    assert strays(paths, "out") == []
    for path in Path("out").iterdir():
        assert set(path.stem) & set("/\\:*?\"<>|$`;&' ") == set()
        assert path.name.isprintable()


HOSTILE_CONCEPTS = (
    "../x",
    "/etc/x",
    "C:\\x",
    "a\nb",
    "x" * 300,
    "con",
    "CON",
    "-rf",
    "cat.",
    "c\u202eat",
    "$(touch pwned)",
    "\U0001f408",
    "<cat>",
)


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize("name", HOSTILE_CONCEPTS)
def test_a_hostile_concept_name_is_refused_before_anything_is_written(name: str, tiny_folder: Path) -> None:
    file = picture()
    before = tree(Path())
    with watched() as paths:
        result = run("learn", file, "--concept", name, "--out", "set", "--base-model", str(tiny_folder))
    told_in_one_line(result)
    assert tree(Path()) == before
    assert strays(paths) == []


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize(
    "name",
    [
        "$(touch pwned) `id` ;& 'x'",
        "-rf",
        "{b} & b",
        "猫\u0301 {0} %s",
        "x" * 190,
    ],
)
def test_a_picture_of_an_odd_name_is_learned_from_within_its_folders(
    name: str, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    file = picture(name)
    with watched() as paths:
        learned = learn(
            [file], {"cat": "cat"}, "set", base_model=tiny_backbone, config={**SHORT, "preview_every": 1}
        )
    assert len(learned.masks) == 1
    temporary = {path.relative_to(tmp_path).parts[0] for path in paths if path.name.endswith(".tmp")}
    places = ("set", "set.learning", ".set.lock", ".set.learning.lock", ".set.previous")
    assert strays(paths, *places, *(name for name in temporary if name.startswith(".set."))) == []
    assert {path.name for path in tmp_path.iterdir()} == {file, "set"}


@pytest.mark.parametrize(
    "name", ["a\nb", "C:evil", "CON", "nul", "a*b", "a|b", 'a"b', "\x1b[31m", "\u202egnp", " a", "x" * 220]
)
def test_a_picture_whose_name_cannot_be_a_files_everywhere_is_refused_before_anything_is_written(
    name: str, tiny_folder: Path
) -> None:
    shutil.move(picture(), f"{name}.png")
    before = tree(Path())
    result = run("learn", f"{name}.png", "--concept", "cat", "--out", "set", "--base-model", str(tiny_folder))
    assert "cannot name a picture" in told_in_one_line(result)
    assert tree(Path()) == before


@pytest.mark.parametrize(
    "path", ["learned_embeds.safetensors", "masks/garden/cat.png", "masks", "concept_set.json"]
)
def test_a_set_with_links_out_of_it_is_neither_used_nor_learned_further(
    concept_set: Path, tiny_folder: Path, path: str
) -> None:
    (concept_set / path).rename("outside")
    (concept_set / path).symlink_to(Path("outside").absolute())
    file = picture()
    before = tree(Path())
    base = ("--base-model", str(tiny_folder))
    for command in (
        ("info", str(concept_set)),
        ("generate", str(concept_set), PROMPT, *base),
        ("learn", file, "--concept", "cat", "--out", str(concept_set), *base),
    ):
        assert "is a link out of its folder" in told_in_one_line(run(*command))
    assert tree(Path()) == before
    assert not run_folder(concept_set).exists()


def test_a_set_behind_a_link_is_learned_further_where_it_is(tiny_backbone: Backbone, sound_set: Path) -> None:
    Path("disk").mkdir()
    shutil.copytree(sound_set, "disk/set")
    Path("link").symlink_to("disk/set")
    learn([picture()], {"dog": "dog"}, "link", base_model=tiny_backbone, config=SHORT)
    assert Path("link").is_symlink()
    assert [concept.name for concept in ConceptSet.load("disk/set").concepts][-1] == "dog"
