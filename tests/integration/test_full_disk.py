"""A disk that fills up, or turns read-only, anywhere in a command: one line, nothing lost, and the command goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.backbone import Backbone
from conceptloom.basemodel.training import load_state, save_state
from conceptloom.cli import FAILED, build_app
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.coco_format import write_benchmark
from conceptloom.evaluation.protocols import RANDOM, Pair
from conceptloom.evaluation.report import save_report
from conceptloom.evaluation.study_bundle import Comparison, Reference, export_study_bundle
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, load_unit, save_unit
from conceptloom.learning import run_folder
from conceptloom.learning.checkpoint import newest_checkpoint
from conceptloom.learning.trainer import CHECKPOINTS
from conceptloom.pictures import load_picture, write_png
from report_fixture import periods, plain_report
from small_disk import Ended, SmallDisk, run_command, run_in_fork, with_small_disk
from tiny_sets import PROMPT, content, tiny_benchmark_set, tiny_set

SHORT: dict[str, Any] = {
    "em_steps": 2,
    "joint_steps": 1,
    "batch_size": 1,
    "token_lr": 0.01,
    "joint_lr": 1e-3,
    "mask_update_every": 2,
    "initial_timesteps": 1,
    "e_step_timesteps": 1,
    "prior_images": 1,
    "sample_steps": 1,
    "preview_every": 2,
    "checkpoint_every": 1,
    "train": "kv",
    "crf": {"iterations": 1},
}
SET, LOCK = "set", ".set.learning.lock"


@pytest.fixture
def files(
    tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a picture, a configuration and the cache; commands find their base model loaded."""
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    write_png(tmp_path / "yard.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "short.json").write_text(json.dumps(SHORT))

    def load(name: str, device: str, dtype: str) -> Backbone:
        assert (name, device, dtype) == (str(tiny_folder), "cpu", "float32")
        return tiny_backbone

    modules = ("backbone", "learning.api", "learning.segment", "generation.api")
    for module in modules:
        monkeypatch.setattr(import_module(f"conceptloom.{module}"), "load_backbone", load)
    return tmp_path


@dataclass(frozen=True)
class Scene:
    """Commands on a small disk, and what was there before."""

    disk: SmallDisk
    files: Path
    base: tuple[object, ...]

    @property
    def out(self) -> Path:
        return self.disk.root / SET

    def learn(self, *more: object, out: Path | None = None, **fault: Any) -> Ended:
        concepts = ("--concept", "cat=cat", "--concept", "beach=beach", "--kind", "beach=background")
        where = ("--config", self.files / "short.json", "--out", out or self.out)
        arguments = ("learn", self.files / "yard.png", *concepts, *where, *self.base, *more)
        return run_command(arguments, self.disk, **fault)

    def learned(self) -> dict[str, Any]:
        """What an undisturbed run writes where the disk holds what it holds now."""
        ended = self.learn()
        assert ended.code == 0, "\n".join(ended.errors)
        return content(self.out)


@pytest.fixture
def on_small_disk(files: Path, tiny_folder: Path) -> Callable[[Callable[[Scene], None]], None]:
    base = ("--base-model", tiny_folder, "--device", "cpu", "--dtype", "float32")
    return lambda work: with_small_disk(files / "disk", lambda disk: work(Scene(disk, files, base)))


def bits(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_one_line(ended: Ended, disk: SmallDisk) -> None:
    """The command was refused by the disk in one line that names what could not be written."""
    # `generate` has its progress bar on stderr.
    lines = [line for line in ended.errors if "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in line]
    assert (ended.code, len(lines)) == (FAILED, 1), "\n".join(lines)
    line = lines[0]
    assert line.startswith("error: ")
    assert str(disk.root) in line


def require_whole(folder: Path) -> None:
    """No file with its final name is empty or cut short, and none has a temporary name."""
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".png":
            load_picture(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
        elif path.suffix == ".jsonl":
            text = path.read_text()
            assert not text or text.endswith("\n"), path
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines()), path
        elif path.is_file():
            assert path.read_bytes(), path


def newest_step(out: Path) -> int:
    """Position of the newest checkpoint, -1 without one; none is damaged."""
    found = newest_checkpoint(run_folder(out) / CHECKPOINTS)
    assert found.skipped == ()
    return -1 if found.checkpoint is None else found.checkpoint.position


@dataclass(frozen=True)
class Site:
    """Where in a command, by the number of the change on the disk, and how the disk fails."""

    number: int
    fault: str

    def of(self, disk: SmallDisk) -> dict[str, Any]:
        """What `run_command` takes."""
        return {
            "strike": lambda: strike(disk, self.fault, self.number),
            "when": lambda changes: len(changes) == self.number + 1,
        }


def sites(changes: list[str]) -> list[Site]:
    """A full disk at every write, and one that fails in another way at every third change."""
    writes = [n for n, change in enumerate(changes) if change.startswith(("open", "os.mkdir"))]
    others = [Site(n, ("entries", "read-only")[n % 2]) for n in range(0, len(changes), 3)]
    return [*(Site(n, "room") for n in writes), *others]


def strike(disk: SmallDisk, fault: str, number: int = 0) -> None:
    """Let the disk fail; `number` varies where in a file it is full."""
    if fault == "room":
        disk.fill(pages_left=number % 3)
    elif fault == "entries":
        disk.fill_entries()
    else:
        disk.turn_read_only()


# Learning --------------------------------------------------------------------------------------------------------


def survive(scene: Scene, strike: Callable[[], None], when: Callable[[list[str]], bool]) -> Ended:
    """Learn on a disk that fails, check what is left, mend the disk and go on; how the first command ended."""
    disk, out = scene.disk, scene.out
    earlier, noted = bits(out), scene.files / "newest"

    def note_and_strike() -> None:
        names = [path.name for path in (run_folder(out) / CHECKPOINTS).glob("[0-9]*")]
        noted.write_text(max(names, default="-1"))
        strike()

    ended = scene.learn(strike=note_and_strike, when=when)
    assert ended.was_struck
    read_only = not os.access(disk.root, os.W_OK)
    if ended.code != 0:
        require_one_line(ended, disk)
        assert disk.names() <= {SET, run_folder(out).name, LOCK} or read_only
        present = out if out.exists() else out.with_name(f".{SET}.previous")  # between two renames
        if not (read_only and ended.changes[-1].endswith(".previous")):
            assert bits(present) == earlier
        if not read_only:
            require_whole(disk.root / run_folder(out).name)
        if run_folder(out).exists():
            assert newest_step(out) >= int(noted.read_text())
    disk.mend()
    if ended.code != 0:
        resumed = scene.learn("--resume")
        if resumed.code == FAILED and "start without --resume" in resumed.errors[0]:
            resumed = scene.learn()
        assert resumed.code == 0 or "nothing is left to resume" in resumed.errors[0], resumed.errors
    return ended


def test_learning_goes_on_after_a_full_disk(on_small_disk: Callable[..., None]) -> None:
    def work(scene: Scene) -> None:
        whole = scene.learned()
        for what in ("00000002.", "/.set."):
            scene.disk.clear()
            ended = survive(scene, lambda: strike(scene.disk, "room", 1), lambda seen: what in seen[-1])  # noqa: B023
            assert "No space left on device" in ended.errors[0]
            assert content(scene.out) == whole

    on_small_disk(work)


@pytest.mark.slow
def test_learning_further_survives_a_disk_that_fails_anywhere(on_small_disk: Callable[..., None]) -> None:
    def work(scene: Scene) -> None:
        scene.learned()
        shutil.copytree(scene.out, scene.files / "earlier")
        changes = scene.learn().changes
        whole = content(scene.out)
        assert len(sites(changes)) > 80
        failures = []
        for site in sites(changes):
            scene.disk.clear()
            shutil.copytree(scene.files / "earlier", scene.out)
            try:
                survive(scene, **site.of(scene.disk))
                assert content(scene.out) == whole
                # Where a disk kept the earlier set or the lock's file, to remove it was all that was left to do.
                assert scene.disk.names() - {f".{SET}.previous", LOCK} == {SET}
                assert scene.disk.names() == {SET} or site.fault == "read-only"
            except AssertionError as error:
                failures.append(f"{site} {changes[site.number]}: {error}")
        assert not failures, "\n\n".join(failures)

    on_small_disk(work)


# A quota, the cache, a read-only disk ----------------------------------------------------------------------------


@pytest.fixture
def learn(files: Path, tiny_folder: Path) -> Callable[..., Result]:
    """Learn in this process, with a checkpoint after the first masks and one at the end."""
    (files / "short.json").write_text(json.dumps({**SHORT, "checkpoint_every": 50, "train": "tokens"}))

    def call(out: str, *more: str) -> Result:
        base = ("--base-model", str(tiny_folder), "--device", "cpu", "--dtype", "float32")
        where = ("--config", str(files / "short.json"), "--out", str(files / out))
        arguments = ("learn", str(files / "yard.png"), "--concept", "cat=cat", *where, *base, *more)
        return CliRunner().invoke(build_app(), arguments)

    return call


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The sample images of EM step 2 are too much, until this is undone."""

    def refuse(path: Path, *rest: Any) -> None:
        if path.parts[-2:] == ("samples", "em-000002.png"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))
        write_png(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("conceptloom.learning.recorder.write_png", refuse)
        yield patch


def test_a_step_whose_records_could_not_be_written_is_done_again(
    files: Path, learn: Callable[..., Result], quota: pytest.MonkeyPatch
) -> None:
    ended = learn(SET)
    written = files / "set.learning" / "previews" / "samples" / "em-000002.png"
    assert (ended.exit_code, ended.stderr) == (FAILED, f"error: {written}: {os.strerror(errno.EDQUOT)}\n")
    quota.undo()
    resumed = learn(SET, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert learn("whole").exit_code == 0
    assert content(files / SET) == content(files / "whole")


@pytest.mark.slow
def test_what_a_stopped_run_left_half_written_is_not_in_the_set(
    files: Path, learn: Callable[..., Result], quota: pytest.MonkeyPatch
) -> None:
    assert learn(SET).exit_code == FAILED
    folder = files / "set.learning"
    (folder / "previews" / "samples" / ".em-000001.png.a1b2.tmp").write_bytes(b"half")
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"stage": "eM", "step": 1}\n{"step": 1}\n{"stage": "em", "step": "1"}\n{"stage": ')
    (files / ".set.0123abcd.tmp").mkdir()
    quota.undo()
    resumed = learn(SET, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert learn("whole").exit_code == 0
    assert content(files / SET) == content(files / "whole")
    assert not list(files.glob(".set*"))


@pytest.mark.parametrize("fault", ["room", "read-only"])
def test_a_cache_that_takes_nothing_is_told_before_anything_is_drawn(
    fault: str, on_small_disk: Callable[..., None], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(files / "disk" / "cache"))

    def work(scene: Scene) -> None:
        strike(scene.disk, fault)
        ended = scene.learn(out=files / SET)
        require_one_line(ended, scene.disk)
        assert "CONCEPTLOOM_CACHE" in ended.errors[0]
        assert not [path for path in files.iterdir() if path.name.lstrip(".").startswith(SET)]

    on_small_disk(work)


@pytest.mark.slow
def test_images_drawn_before_the_cache_was_full_are_kept(
    on_small_disk: Callable[..., None], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(files / "disk" / "cache"))

    def work(scene: Scene) -> None:
        assert scene.learn(out=files / "whole").code == 0
        images = bits(scene.disk.root / "cache")
        scene.disk.clear()

        def is_sixth_image(seen: Sequence[str]) -> bool:
            return sum(one.startswith("open ") for one in seen) == 6

        ended = scene.learn(out=files / SET, strike=scene.disk.fill, when=is_sixth_image)
        require_one_line(ended, scene.disk)
        kept = bits(scene.disk.root / "cache")
        assert len(kept) == 5
        assert kept.items() < images.items()
        scene.disk.mend()
        assert scene.learn(out=files / SET).code == 0
        assert content(files / SET) == content(files / "whole")

    on_small_disk(work)


COMMANDS = {
    "learn": ("--concept", "cat=cat", "--out", "{disk}/new"),
    "learn further": ("--concept", "cat=cat", "--out", "{disk}/set"),
    "generate": ("{disk}/set", PROMPT, "--out", "{disk}/images"),
    "generate here": ("{disk}/set", PROMPT, "--out", "{disk}/empty"),
    "segment": ("{files}/yard.png", "--concept", "cat=cat", "--out", "{disk}/masks"),
    "discover": ("{files}/yard.png", "--out", "{disk}/masks"),
    "evaluate": ("--benchmark", "folder", "--data", "{files}", "--out", "{disk}/evaluation"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_disk_is_told_before_the_base_model_is_loaded(
    command: str, on_small_disk: Callable[..., None], tiny_backbone: Backbone
) -> None:
    def work(scene: Scene) -> None:
        tiny_set(tiny_backbone).save(scene.out)
        (scene.disk.root / "empty").mkdir()
        scene.disk.turn_read_only()
        verb = command.split()[0]
        picture = [scene.files / "yard.png"] if verb == "learn" else []
        words = [word.format(disk=scene.disk.root, files=scene.files) for word in COMMANDS[command]]
        ended = run_command([verb, *picture, *words, "--base-model", "not-looked-at"], scene.disk)
        require_one_line(ended, scene.disk)
        assert "written to" in ended.errors[0] or os.strerror(errno.EROFS) in ended.errors[0]
        assert scene.disk.names() == {SET, "empty"}

    on_small_disk(work)


# Other commands --------------------------------------------------------------------------------------------------


def fail_everywhere(
    disk: SmallDisk, run: Callable[..., Ended], check: Callable[[Ended, Site | None], None]
) -> None:
    """Let the disk fail in a command everywhere, and repeat it on the mended disk; `check` is given both ends."""
    disk.clear()
    changes = run().changes
    for site in sites(changes):
        disk.clear()
        ended = run(**site.of(disk))
        assert ended.was_struck, changes[site.number]
        if ended.code != 0:
            require_one_line(ended, disk)
        check(ended, site)
        disk.mend()
        check(run(), None)


@pytest.mark.slow
def test_images_drawn_before_the_disk_failed_are_whole(
    on_small_disk: Callable[..., None], tiny_backbone: Backbone
) -> None:
    def work(scene: Scene) -> None:
        tiny_set(tiny_backbone).save(scene.files / SET)
        out = scene.disk.root / "out"

        def generate(name: str = "out", **fault: Any) -> Ended:
            what = ("generate", scene.files / SET, PROMPT, "--num", 2, "--steps", 1)
            return run_command([*what, "--out", scene.disk.root / name, *scene.base], scene.disk, **fault)

        assert generate().code == 0
        whole = bits(out)
        assert len(whole) == 3

        def check(ended: Ended, site: Site | None) -> None:
            left = {name: data for name, data in bits(out).items() if name[0] != "."}
            assert left.items() <= whole.items()
            assert ended.code != 0 or left == whole
            if site is None and ended.code != 0:
                assert "is not replaced" in ended.errors[0]
                assert generate("other").code == 0
                assert bits(out.with_name("other")) == whole
            elif site is not None and site.fault != "read-only":
                assert left == bits(out)

        fail_everywhere(scene.disk, generate, check)

    on_small_disk(work)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "words"),
    [("segment", ("--concept", "cat=cat")), ("discover", ("--word", "cat", "--place", "beach", "--most", 1))],
)
def test_masks_are_written_all_or_not_at_all(
    verb: str, words: tuple[object, ...], on_small_disk: Callable[..., None]
) -> None:
    def work(scene: Scene) -> None:
        out = scene.disk.root / "out"

        def find(**fault: Any) -> Ended:
            what = (verb, scene.files / "yard.png", *words, "--out", out)
            return run_command([*what, *scene.base], scene.disk, **fault)

        assert find().code == 0
        whole = bits(out)
        assert whole

        def check(ended: Ended, site: Site | None) -> None:
            assert bits(out) == (whole if ended.code == 0 or site is None else {})
            assert site is None or site.fault == "read-only" or scene.disk.names() <= {"out"}

        fail_everywhere(scene.disk, find, check)

    on_small_disk(work)


@pytest.mark.slow
def test_figures_and_page_of_a_report_are_whole_or_not_there(on_small_disk: Callable[..., None]) -> None:
    def work(scene: Scene) -> None:
        report = plain_report(curves=(periods(),))
        out = scene.disk.root / "out"

        def redraw(**fault: Any) -> Ended:
            save_report(report, out / "report.json")
            return run_command(["evaluate", "--redraw", "--out", out], scene.disk, **fault)

        assert redraw().code == 0
        whole = bits(out)
        assert len(whole) == 4

        def check(ended: Ended, site: Site | None) -> None:
            left = {name: data for name, data in bits(out).items() if ".tmp" not in name}
            assert left.items() <= whole.items()
            assert ended.code != 0 or left == whole
            assert site is None or site.fault == "read-only" or left == bits(out)
            assert site is not None or ended.code == 0

        fail_everywhere(scene.disk, redraw, check)

    on_small_disk(work)


def test_a_unit_of_an_evaluation_is_there_when_it_is_complete(on_small_disk: Callable[..., None]) -> None:
    def work(scene: Scene) -> None:
        key, root = UnitKey("garden", "words", 0), scene.disk.root
        images = {(0, index): np.full((64, 64, 3), 90 * index, np.uint8) for index in range(2)}
        unit = UnitResult(key, (), images, {"learn": 0.0, "draw": 1.0})

        def save(**fault: Any) -> Ended:
            return run_in_fork(lambda: save_unit(unit, root), scene.disk, **fault)

        changes = save().changes
        for site in sites(changes):
            scene.disk.clear()
            ended = save(**site.of(scene.disk))
            assert ended.was_struck
            assert has_unit(key, root) == (ended.code == 0)
            if ended.code != 0:
                assert str(root) in ended.errors[-1]
            scene.disk.mend()
            assert save().code == 0
            assert np.array_equal(load_unit(key, root).images[0, 1], images[0, 1])

    on_small_disk(work)


@pytest.mark.slow
def test_an_evaluation_goes_on_after_its_workers_found_the_disk_full(
    on_small_disk: Callable[..., None], files: Path, tiny_folder: Path
) -> None:
    picture = tiny_benchmark_set().pictures[0]
    sets = files / "sets"
    (sets / "garden" / "masks" / "first").mkdir(parents=True)
    write_png(sets / "garden" / "first.png", picture.pixels)
    write_png(sets / "garden" / "masks" / "first" / "pet.png", picture.masks["pet"])
    told = {
        "concepts": {"pet": {"word": "cat"}, "place": {"word": "beach", "kind": "background"}},
        "prompts": [{"text": "a <pet> on the <place>", "kind": "context", "place": "place"}],
    }
    (sets / "garden" / "set.json").write_text(json.dumps(told))

    def work(scene: Scene) -> None:
        out = scene.disk.root / "out"
        what = ("--benchmark", "folder", "--data", sets, "--methods", "words", "--quick", "--workers", 1)
        arguments = ["evaluate", *what, "--out", out, *scene.base]
        ended = run_command(
            arguments,
            scene.disk,
            strike=lambda: scene.disk.fill(pages_left=1),
            when=lambda seen: seen[-1].endswith(".units.lock"),
        )
        require_one_line(ended, scene.disk)
        assert "units" in ended.errors[0]
        assert sorted(path.name for path in (out / "units").iterdir()) == []
        scene.disk.mend()
        assert run_command(arguments, scene.disk).code == 0
        assert (out / "report.html").is_file()

    on_small_disk(work)


# What is written for others, and by the built-in model's makers --------------------------------------------------


def test_a_benchmark_on_the_disk_is_the_earlier_or_the_new_one_whole(
    on_small_disk: Callable[..., None],
) -> None:
    def work(scene: Scene) -> None:
        out = scene.disk.root / "benchmark"
        one = tiny_benchmark_set()
        earlier, new = (Benchmark(name, "dev", (replace(one, name=name),)) for name in ("earlier", "new"))

        def write(**fault: Any) -> Ended:
            return run_in_fork(lambda: write_benchmark(new, out), scene.disk, **fault)

        write_benchmark(earlier, out)
        before = bits(out)
        changes = write().changes
        after = bits(out)
        assert before != after
        for site in sites(changes):
            scene.disk.clear()
            write_benchmark(earlier, out)
            ended = write(**site.of(scene.disk))
            assert ended.was_struck
            present = out if out.exists() else out.with_name(".benchmark.previous")
            assert bits(present) in (before, after)
            assert ended.code == 0 or str(scene.disk.root) in ended.errors[-1]
            scene.disk.mend()
            assert write().code == 0
            assert bits(out) == after

    on_small_disk(work)


@pytest.mark.slow
def test_a_study_is_there_with_its_key_or_not_at_all(on_small_disk: Callable[..., None]) -> None:
    picture = np.full((24, 24, 3), 99, np.uint8)
    comparisons = [
        Comparison(
            Pair(f"scene-{scene}", "cat", f"a <cat>, number {prompt}", 0, 0),
            picture + np.uint8(scene),
            picture - np.uint8(prompt + 1),
            (Reference("cat", "subject", picture),),
        )
        for scene in range(2)
        for prompt in range(2)
    ]
    protocol = replace(RANDOM, people=2, pairs_per_person=4, people_per_pair=1)

    def work(scene: Scene) -> None:
        study, key = scene.disk.root / "study", scene.disk.root / "key.json"

        def export(**fault: Any) -> Ended:
            methods = {"ours": "paper", "baseline": "fixed"}
            return run_in_fork(
                lambda: export_study_bundle(comparisons, protocol, study, key, methods=methods, seed=0),
                scene.disk,
                **fault,
            )

        ended = export()
        assert ended.code == 0, ended.errors
        whole = bits(scene.disk.root)
        for site in sites(ended.changes):
            scene.disk.clear()
            ended = export(**site.of(scene.disk))
            assert ended.was_struck
            if ended.code != 0:
                assert str(scene.disk.root) in ended.errors[-1]
                assert not study.exists()
                assert site.fault == "read-only" or scene.disk.names() == set()
            scene.disk.mend()
            if ended.code != 0:
                key.unlink(missing_ok=True)
                assert export().code == 0
            assert {name: data for name, data in bits(scene.disk.root).items() if ".tmp" not in name} == whole

    on_small_disk(work)


def test_a_state_of_the_built_in_models_training_is_the_old_or_the_new_one_whole(
    on_small_disk: Callable[..., None],
) -> None:
    def work(scene: Scene) -> None:
        folder = scene.disk.root / "denoiser"
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])

        def save(step: int, **fault: Any) -> Ended:
            tensors = {"weight": torch.full((64, 64), float(step))}
            return run_in_fork(
                lambda: save_state(folder, tensors, optimizer, {"step": step}), scene.disk, **fault
            )

        def saved() -> Any:
            tensors, meta = load_state(folder, None)
            assert (tensors["weight"] == meta["step"]).all()
            return meta["step"]

        assert save(1).code == 0
        changes = save(2).changes
        for site in sites(changes):
            scene.disk.clear()
            assert save(1).code == 0
            ended = save(2, **site.of(scene.disk))
            assert ended.was_struck
            assert saved() in ((2,) if ended.code == 0 else (1, 2))
            assert ended.code == 0 or str(scene.disk.root) in ended.errors[-1]
            scene.disk.mend()
            assert save(3).code == 0
            assert saved() == 3

    on_small_disk(work)
