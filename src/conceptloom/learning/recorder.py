"""Writes what a run reports: metrics, mask previews, sample images; at the end the concept set and its page.

While it learns everything lies in the run folder beside the set, `SET.learning`: `metrics.jsonl`, `previews/masks`,
`previews/samples`, `checkpoints`. When it is done the set is written, previews and page included, and the run
folder is removed.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from conceptloom.concepts import ConceptSet
from conceptloom.errors import ConfigError, PictureError
from conceptloom.learning.page import (
    DISPLAY_PX,
    PageInput,
    Panel,
    PictureStory,
    concept_colours,
    enlarge,
    render_page,
)
from conceptloom.learning.progress import (
    STAGES,
    DriftMeasured,
    Finished,
    MasksUpdated,
    Noticed,
    Progress,
    Resumed,
    SamplesDrawn,
    Stage,
    StepDone,
)
from conceptloom.learning.request import LearningPicture, LearnRequest
from conceptloom.pictures import (
    contact_sheet,
    load_picture,
    overlay,
    square_frame,
    square_frame_mask,
    write_png,
)
from conceptloom.runs import append_jsonl, read_jsonl, write_bytes_atomic

METRICS, PREVIEWS, TENSORBOARD, PAGE = "metrics.jsonl", "previews", "tensorboard", "index.html"
_SAID_AT_THE_END = ("drift", "notice")
"""What records after the last step are of; a notice of a step comes before the step's other records."""
_FILE_NAME = re.compile(rf"({'|'.join(STAGES)})-[0-9]{{6,}}\.png")
MOST_DRAWN = 1e30
"""Losses from here on, infinity and NaN are not drawn."""
SNAPSHOTS = 4
"""Mask overlays between start and end that the page shows of each picture."""


class ScalarWriter(Protocol):
    """What TensorBoard's `SummaryWriter` offers here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""

    def close(self) -> None:
        """Write what is left."""


def run_folder(out: Path) -> Path:
    """Where a run that will write the set `out` keeps its state while it learns."""
    return out.with_name(f"{out.name}.learning")


def remove_run(out: Path) -> None:
    """Remove the run folder of the complete set `out`: as a whole, and a kill leaves but a stray (`remove_strays`)."""
    stray = out.with_name(f".{out.name}.{uuid4().hex[:8]}.tmp")
    run_folder(out).rename(stray)
    shutil.rmtree(stray)


def open_tensorboard(folder: Path) -> ScalarWriter:
    """A TensorBoard writer; raises `ConfigError` when the optional package is missing."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError(
            "configuration key 'tensorboard': run pip install 'conceptloom[tensorboard]' first"
        ) from None
    writer: ScalarWriter = SummaryWriter(str(folder))
    return writer


class Recorder:
    """Passes a run's events on and writes them on the way."""

    def __init__(self, request: LearnRequest, out: Path, *, resume: bool) -> None:
        self._request = request
        self._out = out
        self._folder = run_folder(out)
        self._resume = resume
        self._names = [concept.name for concept in request.concepts]
        self._masks: dict[str, npt.NDArray[np.bool_]] = {}
        self._left_out: list[str] = []
        """Why previews are not on the page."""
        self._frames = {
            entry.picture.name: square_frame(entry.picture.pixels, DISPLAY_PX) for entry in request.pictures
        }

    def record(self, events: Generator[Progress, None, None]) -> Generator[Progress, None, None]:
        """Yield `events` one by one, each after what it says has been written.

        `Finished` is yielded when the concept set and its page are complete in the output folder.
        """
        scalars = open_tensorboard(self._folder / TENSORBOARD) if self._request.config.tensorboard else None
        clock = time.perf_counter()
        fresh = not self._resume
        with closing(events):
            for event in events:
                try:
                    if fresh:
                        self._forget_after("prior", 0)
                        fresh = False
                    if scalars is not None:
                        _write_scalars(scalars, event)
                    self._write(event, time.perf_counter() - clock)
                except BaseException as error:
                    # Closed, the run would write a checkpoint, and going on from it leave this step's records out.
                    events.throw(error)
                clock = time.perf_counter()
                for text in self._left_out:
                    yield Noticed(event.stage, event.step, event.total, text=text)
                yield event

    def _write(self, event: Progress, seconds: float) -> None:
        where: dict[str, Any] = {"stage": event.stage, "step": event.step}
        if isinstance(event, Resumed):
            self._forget_after(event.stage, event.step)
            self._masks = dict(event.masks)
        elif isinstance(event, StepDone):
            append_jsonl(self._folder / METRICS, {**where, **event.losses, "seconds": round(seconds, 4)})
            config = self._request.config
            is_due = config.preview_every and event.step % config.preview_every == 0
            if is_due and event.stage == "em" and config.mask_update_every is not None:
                for picture in self._masks:
                    self._preview_masks(event, picture)
        elif isinstance(event, MasksUpdated):
            self._masks[event.picture] = event.masks
            append_jsonl(
                self._folder / METRICS, {**where, **_mask_metrics(event), "seconds": round(seconds, 4)}
            )
            if event.stage == "masks":
                self._preview_masks(event, event.picture)
        elif isinstance(event, SamplesDrawn):
            append_jsonl(
                self._folder / METRICS, {**where, "prompt": event.prompt, "seconds": round(seconds, 4)}
            )
            sheet = contact_sheet(list(event.images), columns=len(event.images), pad_px=2)
            _write_png(self._folder / PREVIEWS / "samples" / _file_name(event.stage, event.step), sheet)
        elif isinstance(event, Noticed):
            append_jsonl(self._folder / METRICS, {**where, "notice": event.text})
        elif isinstance(event, DriftMeasured):
            append_jsonl(
                self._folder / METRICS, {**where, "drift": {"before": event.before, "after": event.after}}
            )
        elif isinstance(event, Finished):
            self._save(event.concept_set)

    def _preview_masks(self, event: Progress, name: str) -> None:
        entry = next(entry for entry in self._request.pictures if entry.picture.name == name)
        picture = self._overlay(entry, enlarge(self._masks[name], DISPLAY_PX))
        file = _file_name(event.stage, event.step)
        _write_png(self._folder / PREVIEWS / "masks" / name / file, picture)

    def _overlay(self, entry: LearningPicture, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        colours = concept_colours(self._names)
        return overlay(self._frames[entry.picture.name], masks, [colours[name] for name in entry.concepts])

    def _forget_after(self, stage: Stage, step: int) -> None:
        """Drop what a run that went further than its checkpoint had written; it will be written again."""
        reached = (STAGES.index(stage), step)
        metrics = self._folder / METRICS
        if metrics.is_file():
            kept = [
                row
                for row in read_jsonl(metrics)
                if _is_record(row) and (STAGES.index(row["stage"]), row["step"]) <= reached
            ]
            while kept and not kept[-1].keys().isdisjoint(_SAID_AT_THE_END):
                kept.pop()
            text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in kept)
            write_bytes_atomic(metrics, text.encode(errors="replace"))  # a row may hold half a character
        for path in _own_pngs(self._folder / PREVIEWS, "**/*.png"):
            if _order(path) > reached:
                path.unlink()
        for stray in (self._folder / PREVIEWS).glob("**/.*.tmp"):  # of a process that was killed
            stray.unlink()

    def _save(self, learned: ConceptSet) -> None:
        extras: dict[str, bytes | Path] = {PAGE: self._page(learned).encode()}
        for name in (METRICS, PREVIEWS, TENSORBOARD):
            if (self._folder / name).exists():
                extras[name] = self._folder / name
        learned.save(self._out, extras)
        remove_run(self._out)

    def _page(self, learned: ConceptSet) -> str:
        request, config = self._request, self._request.config
        metrics = self._folder / METRICS
        rows = [row for row in read_jsonl(metrics) if _is_record(row)] if metrics.is_file() else []
        losses: dict[str, list[tuple[int, float]]] = {}
        titles = {
            "mask": "masked denoising loss (Eq. 3)",
            "attention": "attention loss (Eq. 4)",
            "prior": "prior loss",
        }
        for row in rows:
            offset = config.em_steps if row["stage"] == "joint" else 0
            for key, title in titles.items():
                if _is_number(row.get(key)):
                    losses.setdefault(title, []).append((offset + row["step"], row[key]))
        prompts = {_file_name(row["stage"], row["step"]): row["prompt"] for row in rows if "prompt" in row}
        samples = self._panels(
            _own_pngs(self._folder / PREVIEWS / "samples"),
            lambda path: f"{_title(path)}: {prompts.get(path.name, 'prompt not recorded')}",
        )
        stories = tuple(self._story(entry, learned) for entry in request.pictures)
        return render_page(
            PageInput(
                concepts=request.concepts,
                notes={name: self._note(name, learned) for name in self._names},
                stories=stories,
                samples=tuple(samples),
                losses=losses,
                em_steps=config.em_steps,
                facts=self._facts(
                    learned,
                    sum(row["seconds"] for row in rows if _is_number(row.get("seconds"))),
                    [*(str(row["notice"]) for row in rows if "notice" in row), *self._left_out],
                ),
            )
        )

    def _story(self, entry: LearningPicture, learned: ConceptSet) -> PictureStory:
        name = entry.picture.name
        paths = _own_pngs(self._folder / PREVIEWS / "masks" / name)
        last = _file_name("em", self._request.config.em_steps)
        start, between = paths[:1], [path for path in paths[1:] if path.name != last]
        if len(between) > SNAPSHOTS:
            between = [between[round(index)] for index in np.linspace(0, len(between) - 1, SNAPSHOTS)]
        end = np.stack(
            [square_frame_mask(learned.masks[name, concept], DISPLAY_PX) for concept in entry.concepts]
        )
        panels = [Panel("picture", self._frames[name])]
        panels += self._panels([*start, *between], _title)
        panels.append(Panel("learned masks", self._overlay(entry, end)))
        return PictureStory(name, self._request.full_prompt(entry), tuple(panels))

    def _panels(self, paths: Iterable[Path], caption: Callable[[Path], str]) -> list[Panel]:
        """The previews that can be read; of the others a note is kept, for a finished run must not fail on them."""
        panels = []
        for path in paths:
            try:
                panels.append(Panel(caption(path), load_picture(path).pixels))
            except PictureError:
                name = path.relative_to(self._folder)
                self._left_out.append(f"{name} is damaged and not on the page")
        return panels

    def _note(self, concept: str, learned: ConceptSet) -> str:
        shares = [
            f"{learned.masks[entry.picture.name, concept].mean():.0%} of {entry.picture.name}"
            for entry in self._request.pictures
            if concept in entry.concepts
        ]
        counts = learned.provenance["rescues"].values()
        refused = sum(of_picture.get(concept, 0) for of_picture in counts)
        told = f"; {refused} of its updates refused" if refused else ""
        return "covers " + ", ".join(shares) + told

    def _facts(self, learned: ConceptSet, seconds: float, notices: Iterable[str]) -> dict[str, str]:
        config = self._request.config
        every = "never" if config.mask_update_every is None else f"every {config.mask_update_every} steps"
        rescues = sum(sum(counts.values()) for counts in learned.provenance["rescues"].values())
        joint = "none"
        if config.train != "tokens":
            joint = f"{config.joint_steps} steps at rate {config.joint_lr:g}, training {config.train}"
        facts = {
            "method": config.method,
            "base model": learned.base.name,
            "masks updated": every,
            "EM": f"{config.em_steps} steps of batch {config.batch_size} at rate {config.token_lr:g}",
            "joint": joint,
            "seed": str(config.seed),
            "refused mask updates": str(rescues),
            "time": f"{seconds / 60:.1f} minutes",
        }
        if notices := list(dict.fromkeys(notices)):
            facts["noticed"] = "; ".join(notices)
        drift = learned.provenance["drift"]
        if drift:
            facts["drift"] = f"loss on other nouns {drift['before']:.4f} before, {drift['after']:.4f} after"
        return facts


def _write_scalars(scalars: ScalarWriter, event: Progress) -> None:
    if isinstance(event, StepDone):
        for name, value in event.losses.items():
            scalars.add_scalar(f"{event.stage}/{name}", value, event.step)
    elif isinstance(event, Finished):
        scalars.close()


def _is_record(row: Mapping[str, Any]) -> bool:
    return row.get("stage") in STAGES and isinstance(row.get("step"), int)


def _is_number(value: object) -> bool:
    """Whether a row's value can be drawn; a damaged file may hold anything."""
    return isinstance(value, int | float) and abs(value) < MOST_DRAWN


def _mask_metrics(event: MasksUpdated) -> Mapping[str, Any]:
    return {
        "picture": event.picture,
        "area": dict(zip(event.concepts, event.masks.mean(axis=(1, 2)).round(5).tolist(), strict=True)),
        "overlap": dict(zip(event.concepts, event.overlap, strict=True)),
        "rescued": list(event.rescued),
        "collapsed": list(event.collapsed),
    }


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, pixels, None)


def _file_name(stage: Stage, step: int) -> str:
    return f"{stage}-{step:06d}.png"


def _own_pngs(folder: Path, pattern: str = "*.png") -> list[Path]:
    """The run's own pictures in the order in which they were made; whatever else lies there is left alone."""
    return sorted((path for path in folder.glob(pattern) if _FILE_NAME.fullmatch(path.name)), key=_order)


def _order(path: Path) -> tuple[int, int]:
    stage, _, step = path.stem.rpartition("-")
    return [str(known) for known in STAGES].index(stage), int(step)


def _title(path: Path) -> str:
    stage, _, step = path.stem.rpartition("-")
    return "start" if stage == "masks" else f"{stage.replace('em', 'EM')} step {int(step)}"
