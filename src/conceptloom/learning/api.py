"""From files and words to a concept set on disk: what the command line and Python callers share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.concepts import ConceptKind, ConceptSet
from conceptloom.concepts.storage import previous_of, remove_strays
from conceptloom.errors import ConceptloomError, ConfigError, RunError
from conceptloom.learning.checkpoint import (
    Checkpoint,
    Found,
    forget_start,
    newest_checkpoint,
    require_same_run,
    save_start,
)
from conceptloom.learning.config import Method
from conceptloom.learning.presets import resolve_config
from conceptloom.learning.prior import image_counts, require_cache
from conceptloom.learning.progress import Finished, Progress
from conceptloom.learning.reading import Box, read_pictures
from conceptloom.learning.recorder import Recorder, remove_run, run_folder
from conceptloom.learning.request import LearnRequest, build_request
from conceptloom.learning.trainer import CHECKPOINTS, require_learnable, require_resumable, run
from conceptloom.learning.weights import disk_bytes
from conceptloom.pictures import Picture
from conceptloom.runs import RunLock, expanded, require_elsewhere, require_place


@dataclass(frozen=True, eq=False)
class LearnJob:
    """A request, the base model it runs on, where the set goes, and whether a run that stopped goes on."""

    request: LearnRequest
    backbone: Backbone
    out: Path
    resume: bool = False
    set_aside: tuple[str, ...] = ()
    """Why checkpoints that an earlier run left were moved out of the way of this one, a line each."""

    def events(self) -> Generator[Progress, None, None]:
        """Learn, write everything, yield what happens; closing the iterator leaves a checkpoint to resume from."""
        recorder = Recorder(self.request, self.out, resume=self.resume)
        return recorder.record(run(self.request, self.backbone, run_folder(self.out), resume=self.resume))


def learn(
    pictures: Sequence[str | Path | Picture],
    concepts: Mapping[str, str | None],
    out: str | Path,
    *,
    method: Method | None = None,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    masks: Mapping[tuple[str, str], str | Path] | None = None,
    boxes: Mapping[tuple[str, str], Box] | None = None,
    strokes: Mapping[tuple[str, str], str | Path] | None = None,
    kinds: Mapping[str, ConceptKind] | None = None,
    base_model: str | Path | Backbone = "builtin",
    seed: int | None = None,
    config: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ConceptSet:
    """Learn concepts from pictures and write them as a concept set.

    >>> learn(["cat-and-dog.jpg"], {"cat": "cat", "dog": "dog", "garden": "grass"}, "my-set")  # doctest: +SKIP

    Args:
        pictures: files, folders in Break-A-Scene's layout, or loaded pictures; a file's stem names its picture.
        concepts: initializer word, or None, by concept name; `<name>` is the new word in prompts.
        out: folder of the concept set. Where it holds a set already, that set is learned further: concepts named here
            go on from their rows or are added; rows and masks of all others stay bit for bit, but weights that the run
            trains move under them too.
        method: "gt" (your masks), "fixed", "paper", "literal" or "refined" (the default).
        contains: names of the concepts in a picture, by picture name; left out, all of them, or those of its prompt.
        prompts: your own prompt of a picture, as "<cat> asleep near <dog>"; words at its end that the base model has no
            room for are not read.
        masks: mask file by (picture name, concept name), white = concept. Method "gt" needs one of every concept; other
            methods hold those given while they find the rest.
        boxes: (left, top, right, bottom) in the picture's pixels, which the concept does not leave, likewise.
        strokes: file of the picture's size by (picture name, concept name): white where the concept is, black where it
            is not, grey or transparent elsewhere.
        kinds: "subject", "background" or "pattern" by concept name.
        base_model: "builtin", a diffusers folder, or a loaded model.
        seed: of every random draw.
        config: any key of `LearnConfig`, on top of the preset.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16".
        resume: go on with a run that stopped.
        on_progress: called with every event.

    Returns:
        The set, as written to `out`.

    Raises:
        ConceptloomError: something given can't be used; the message says what, and what to do.
    """
    overrides = dict(config or {})
    if method is not None:
        overrides["method"] = method
    if seed is not None:
        overrides["seed"] = seed
    job = prepare_job(
        pictures,
        concepts,
        out,
        contains=contains,
        prompts=prompts,
        masks=masks,
        boxes=boxes,
        strokes=strokes,
        kinds=kinds,
        base_model=base_model,
        overrides=overrides,
        device=device,
        dtype=dtype,
        resume=resume,
    )
    for event in job.events():
        if on_progress is not None:
            on_progress(event)
        if isinstance(event, Finished):
            learned = event.concept_set
    return learned


def prepare_job(
    pictures: Sequence[str | Path | Picture],
    concepts: Mapping[str, str | None],
    out: str | Path,
    *,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    masks: Mapping[tuple[str, str], str | Path] | None = None,
    boxes: Mapping[tuple[str, str], Box] | None = None,
    strokes: Mapping[tuple[str, str], str | Path] | None = None,
    kinds: Mapping[str, ConceptKind] | None = None,
    base_model: str | Path | Backbone = "builtin",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    resume: bool = False,
) -> LearnJob:
    """Read pictures, load the base model and check the request; arguments as for `learn`.

    What can be refused without the base model is refused before it is loaded.
    """
    out, overrides = expanded(out), overrides or {}
    by_hand = overrides.get("method") == "gt"
    if by_hand and (boxes or strokes):
        raise ConfigError("boxes and strokes are hints for methods that find masks: leave method gt out")
    start = _start_from(out)
    loaded = read_pictures(
        pictures,
        concepts,
        contains=contains,
        prompts=prompts,
        masks=masks,
        boxes=boxes,
        strokes=strokes,
        masks_are_hints=not by_hand,
    )
    request_with = partial(
        build_request, loaded, concepts, contains=contains, prompts=prompts, kinds=kinds, start=start
    )
    # What is wrong with any family's numbers is wrong with these, and told before the model is loaded.
    made = [parent for parent in run_folder(out).absolute().parents if not parent.exists()]
    has_begun = False
    try:
        set_aside = _begin(request_with(resolve_config("builtin", overrides)), out, resume)
        has_begun = not resume
        backbone = (
            base_model if isinstance(base_model, Backbone) else load_backbone(base_model, device, dtype)
        )
        if start is not None:
            start.check_base(backbone)
        config = resolve_config(family_of(backbone.version), overrides)
        _require_space(run_folder(out), disk_bytes(backbone, config))
        request = request_with(config, backgrounds=backbone.backgrounds)
        require_learnable(request, backbone)
        require_cache(backbone, image_counts(request.class_words, config), config)
        return LearnJob(request, backbone, out, resume, set_aside)
    except (ConceptloomError, OSError):
        if has_begun:
            forget_start(run_folder(out) / CHECKPOINTS)
        for folder in made:
            with suppress(OSError):  # it holds something else
                folder.rmdir()
        raise


def _start_from(out: Path) -> ConceptSet | None:
    """The set in `out` to learn further from, None when there is none; refuses a folder that can't become a set."""
    require_elsewhere(out)
    was_cut_short = not out.exists() and previous_of(out.resolve()).is_dir()  # see `replace_folder`
    if was_cut_short or (out.is_dir() and any(out.iterdir())):
        return ConceptSet.load(out)
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file: choose a folder for the concept set")
    require_place(out)
    return None


def _begin(request: LearnRequest, out: Path, resume: bool) -> tuple[str, ...]:
    """Write checkpoint 0 of a new run; refuse to go on with none, and to begin where one is at work or unfinished.

    A run that was killed between writing its set and removing its folder is finished: the folder is removed.

    Returns:
        Why damaged checkpoints were moved aside.
    """
    folder = run_folder(out)
    with nullcontext() if resume and not folder.parent.is_dir() else RunLock(folder):
        for place in {out, out.resolve()}:
            remove_strays(place)
        found = newest_checkpoint(folder / CHECKPOINTS)
        if found.checkpoint is not None and _has_written_its_set(found.checkpoint, request):
            remove_run(out)
            if resume:
                raise RunError(
                    f"{out} is complete, nothing is left to resume: leave --resume out to learn it further"
                )
            found = Found(None, ())
        require_resumable(folder, found, resume=resume)
        if not resume:
            save_start(folder / CHECKPOINTS, request.description())
        elif found.checkpoint is not None and found.checkpoint.is_start:
            require_same_run(found.checkpoint, request.description())
    return () if resume else found.skipped


def _has_written_its_set(checkpoint: Checkpoint, request: LearnRequest) -> bool:
    """Whether the set that is there is what the checkpoint's run made, and not what it began from."""
    began_from, config = checkpoint.description.get("start"), checkpoint.description.get("config")
    if request.start is None or began_from == request.description()["start"]:
        return False
    return bool(config == request.start.config)


def _require_space(folder: Path, needed: int) -> None:
    """Raise `RunError` when the disk lacks room for `needed` bytes in `folder`; checkpoints there already count."""
    held = sum(path.stat().st_size for path in (folder / CHECKPOINTS).rglob("*") if path.is_file())
    disk = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free + held
    if free < needed:
        raise RunError(
            f"checkpoints and set need {needed / 1e9:.1f} GB, the disk of {disk} has {free / 1e9:.1f} GB free:"
            " make room, choose a folder on another disk, or set train to lora or kv in a --config file"
        )
