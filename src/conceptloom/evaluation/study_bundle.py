"""A forced-choice study as a folder that can be put before people, and the key that says who is who.

    FOLDER/study.json         the question, and for each person the trials in order:
                              id, left, right, references (ids of images), prompt (plain words)
    FOLDER/images/<id>.png    every image and reference
    KEY_FILE                  elsewhere: which id is whose, which trials are checks and what is right there

Nothing in the folder tells the methods apart but what is in the pictures: ids are random, images are stored
uncompressed and without metadata, so that all of one size are files of one length, and all times are the same. What is
written is looked through for such traces before it is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from conceptloom.backbone import PLACEHOLDER, refuse_stray_brackets
from conceptloom.concepts import ConceptKind
from conceptloom.concepts.storage import replace_folder
from conceptloom.errors import ConfigError, PictureError, PromptError, RunError
from conceptloom.evaluation.benchmark import named_in
from conceptloom.evaluation.protocols import (
    QUESTION,
    Method,
    Pair,
    Protocol,
    Showing,
    Stimulus,
    plan_showings,
)
from conceptloom.evaluation.study_key import (
    ANSWERS,
    FORMAT_VERSION,
    IMAGES,
    STUDY,
    Answer,
    KeyImage,
    KeyTrial,
    StudyKey,
)
from conceptloom.evaluation.study_leaks import refuse_leaks
from conceptloom.runs import write_bytes_atomic
from conceptloom.seeding import numpy_generator

TIMESTAMP = 946_684_800
"""Modification time of everything in a bundle: the year 2000 began."""
MOSAIC_CELLS = 12
"""A degraded image has so many cells on its longer side."""

_WORD_FOR: Mapping[ConceptKind, str] = {"subject": "object", "background": "background", "pattern": "pattern"}
_DETERMINER = r"(?:an?|the|this|that|my|your|his|her|its|our|their|one|another)"
_JOINT = (
    r"(?:and|or|of|on|in|at|to|from|by|with|near|under|over|above|behind|beside|for|as"
    r"|(?:carry|chas|fac|hold|meet|rid|watch|wear)ing)"
)
# "a small sleeping <cat>", but not "a man holding <cat>" nor "a photo of <cat>"
_ADJECTIVES = rf"(?:(?!{_JOINT}\s)[\w-]+\s+){{0,2}}"
_MENTION = re.compile(
    rf"(?:\b(?P<article>{_DETERMINER})\s+(?P<adjectives>{_ADJECTIVES}))?{PLACEHOLDER.pattern}", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture that shows people what a concept looks like: uint8 (H, W, 3), the concept alone or marked."""

    name: str
    kind: ConceptKind
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two images to compare, uint8 (H, W, 3) of one size, and a reference for every concept of the prompt."""

    pair: Pair
    ours: npt.NDArray[np.uint8]
    baseline: npt.NDArray[np.uint8]
    references: tuple[Reference, ...]

    def __post_init__(self) -> None:
        for pixels in (self.ours, self.baseline, *(reference.pixels for reference in self.references)):
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, (
                f"pixels {pixels.shape} {pixels.dtype}, not (H, W, 3) uint8"
            )
        if self.ours.shape != self.baseline.shape:
            raise PictureError(
                f"the images for '{self.pair.prompt}' are {_size(self.ours)} and {_size(self.baseline)} px, which"
                " tells the methods apart: generate both at one size"
            )

    def pixels(self, stimulus: Stimulus) -> npt.NDArray[np.uint8]:
        """The image that is shown."""
        image = self.ours if stimulus.method == "ours" else self.baseline
        return degrade(image) if stimulus.degraded else image


def export_study_bundle(
    comparisons: Sequence[Comparison],
    protocol: Protocol,
    folder: str | Path,
    key_file: str | Path,
    *,
    methods: Mapping[Method, str],
    seed: int,
) -> StudyKey:
    """Write a study for people, all or nothing, and its key.

    The same input gives the same bytes, in whatever order the comparisons come.

    Args:
        comparisons: a protocol's population, or only what `shown_pairs` leaves of it.
        protocol: people, pairs and checks.
        folder: missing or empty; it can be handed to whoever runs the study.
        key_file: a JSON file that is not there yet and not in the folder.
        methods: what "ours" and "baseline" are called; it stands in the key alone.
        seed: of ids, sides and order. Whoever knows it could make the ids again: choose one that can't be guessed.

    Raises:
        ConfigError: no comparisons, or two of one pair.
        PromptError: a prompt names a concept that has no reference.
        RunError: the folder or the key file is there already, the key would lie in the folder, or the folder would
            tell the methods apart by more than pictures.
    """
    folder, key_file = Path(folder), Path(key_file)
    _require_free(folder, key_file)
    by_pair = {comparison.pair: comparison for comparison in comparisons}
    if len(by_pair) < len(comparisons):
        raise ConfigError("two comparisons are of one scene, prompt, seed and image: give each pair once")
    plan = plan_showings(by_pair, protocol, seed)
    draft = _Draft(by_pair, seed)
    people = [draft.add_person(showings) for showings in plan]
    study = _json_bytes(
        {
            "format_version": FORMAT_VERSION,
            "question": QUESTION,
            "answers": ANSWERS,
            "people": people,
        }
    )
    numbers = ("name", "prompts_per_set", "images_per_prompt", "concepts", "people")
    key = StudyKey(
        format_version=FORMAT_VERSION,
        study_sha256=hashlib.sha256(study).hexdigest(),
        protocol={number: getattr(protocol, number) for number in numbers},
        seed=seed,
        methods=dict(methods),
        pairs={"given": len(by_pair), "shown": len({showing.pair for own in plan for showing in own})},
        trials=draft.trials,
        images=draft.images,
        references=draft.references,
    )
    words = [PLACEHOLDER.sub(" ", pair.prompt) for pair in by_pair]

    def write(fresh: Path) -> None:
        _write(fresh, study, draft.files)
        refuse_leaks(fresh, (*methods, *methods.values()), words)

    # The key first: a study without its key is lost, a key alone tells nobody anything.
    write_bytes_atomic(key_file, _json_bytes(key.model_dump(mode="json")))
    try:
        replace_folder(folder, write, lambda _: False)
    except BaseException:
        key_file.unlink(missing_ok=True)
        raise
    return key


def plain_prompt(prompt: str, references: Mapping[str, ConceptKind]) -> str:
    """A prompt in words for people: "a <cat> on the <shore>" is "the object in reference 1 on the background in ...".

    References are numbered as the prompt first mentions them.

    Args:
        prompt: with placeholders.
        references: kind by concept name.

    Raises:
        PromptError: a placeholder has no reference, or an angle bracket belongs to none.
    """
    refuse_stray_brackets(prompt, "<name>")
    named = named_in(prompt)
    if missing := [name for name in named if name not in references]:
        raise PromptError(
            f"the prompt '{prompt}' names <{missing[0]}>, which has no reference: give its picture"
        )

    def in_words(mention: re.Match[str]) -> str:
        (name,) = named_in(mention[0])
        noun = f"{_WORD_FOR[references[name]]} in reference {named.index(name) + 1}"
        if adjectives := mention["adjectives"]:
            return f"{mention['article']} {adjectives}{noun}"
        return f"the {noun}"

    return _MENTION.sub(in_words, prompt)


def degrade(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A mosaic of an image (H, W, 3), so coarse that nobody who looks can prefer it."""
    image = Image.fromarray(pixels)
    scale = MOSAIC_CELLS / max(image.size)
    cells = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(cells, Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST))


class _Draft:
    """Gives out ids while the showings are written down."""

    def __init__(self, comparisons: Mapping[Pair, Comparison], seed: int) -> None:
        self._comparisons = comparisons
        self._rng = numpy_generator(seed, "study", "ids")
        self._shared: dict[tuple[Pair, Stimulus], str] = {}
        self._reference_ids: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.files: dict[str, npt.NDArray[np.uint8]] = {}
        self.trials: dict[str, KeyTrial] = {}
        self.images: dict[str, KeyImage] = {}
        self.references: dict[str, str] = {}

    def add_person(self, showings: Sequence[Showing]) -> dict[str, Any]:
        person, first_of, trials = self._new_id(), {}, []
        for showing in showings:
            trial = self._new_id()
            if showing.kind == "comparison":
                first_of[showing.pair] = trial
            pair = showing.pair
            references = self._comparisons[pair].references
            kinds = {reference.name: reference.kind for reference in references}
            trials.append(
                {
                    "id": trial,
                    "left": self._image(showing, showing.left),
                    "right": self._image(showing, showing.right),
                    "prompt": plain_prompt(pair.prompt, kinds),
                    "references": [
                        self._reference(reference)
                        for name in named_in(pair.prompt)
                        for reference in references
                        if reference.name == name
                    ],
                }
            )
            self.trials[trial] = KeyTrial(
                person=person,
                kind=showing.kind,
                scene=pair.scene,
                subject=pair.subject,
                prompt=pair.prompt,
                seed=pair.seed,
                index=pair.index,
                left=showing.left.method,
                right=showing.right.method,
                right_answer=_right_answer(showing),
                repeats=first_of[pair] if showing.kind == "repeat" else None,
            )
        return {"id": person, "trials": trials}

    def _image(self, showing: Showing, stimulus: Stimulus) -> str:
        """Checks have files of their own: an id that comes twice would give them away."""
        if showing.kind == "comparison" and (showing.pair, stimulus) in self._shared:
            return self._shared[showing.pair, stimulus]
        name = self._new_id()
        if showing.kind == "comparison":
            self._shared[showing.pair, stimulus] = name
        self.files[name] = self._comparisons[showing.pair].pixels(stimulus)
        self.images[name] = KeyImage(method=stimulus.method, degraded=stimulus.degraded)
        return name

    def _reference(self, reference: Reference) -> str:
        digest = hashlib.sha256(reference.pixels.tobytes()).digest()
        known = reference.name, reference.pixels.shape, digest
        if known not in self._reference_ids:
            name = self._reference_ids[known] = self._new_id()
            self.files[name], self.references[name] = reference.pixels, reference.name
        return self._reference_ids[known]

    def _new_id(self) -> str:
        return self._rng.bytes(8).hex()


def _right_answer(showing: Showing) -> Answer | None:
    if showing.kind == "identical":
        return "neutral"
    if showing.kind == "degraded":
        return "right" if showing.left.degraded else "left"
    return None


def _require_free(folder: Path, key_file: Path) -> None:
    if key_file.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"the key '{key_file}' would lie in the study's folder '{folder}': put it elsewhere")
    if key_file.exists():
        raise RunError(f"'{key_file}' is there already and may be another study's key: choose another file")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"'{folder}' is not empty: choose a new folder for the study")


def _write(folder: Path, study: bytes, files: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    (folder / IMAGES).mkdir()
    written = [folder / STUDY]
    written[0].write_bytes(study)
    for name in sorted(files):  # in the order of random names, so that no file system tells another order
        written.append(folder / IMAGES / f"{name}.png")
        written[-1].write_bytes(_png_bytes(files[name]))
    for path in (*written, folder / IMAGES, folder):
        os.utime(path, (TIMESTAMP, TIMESTAMP))


def _png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of pixels alone. Stored uncompressed: else a smoother method's files would be the smaller ones."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _size(pixels: npt.NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
