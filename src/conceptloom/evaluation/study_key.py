"""The key of a forced-choice study for people: whose each image is, and which trials are attention checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from conceptloom.errors import RunError
from conceptloom.evaluation.forced_choice import Vote
from conceptloom.evaluation.protocols import Check, Method

FORMAT_VERSION: Literal[1] = 1
STUDY = "study.json"
IMAGES = "images"
"""What a study's folder holds."""

Answer = Literal["left", "neutral", "right"]
ANSWERS: Mapping[Answer, str] = {
    "left": "the left image",
    "neutral": "both alike",
    "right": "the right image",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyTrial(_Record):
    """What a trial was.

    `left` and `right` are the methods; `right_answer` is that of an attention check, None where there is none;
    `repeats` is the trial whose sides a "repeat" exchanges.
    """

    person: str
    kind: Literal["comparison"] | Check
    scene: str
    subject: str
    prompt: str
    seed: int
    index: int
    left: Method
    right: Method
    right_answer: Answer | None
    repeats: str | None


class KeyImage(_Record):
    """Whose image it is, and whether it was spoiled for a check."""

    method: Method
    degraded: bool


class StudyKey(_Record):
    """Who is who in a study.

    Attributes:
        study_sha256: of the `study.json` it belongs to.
        protocol: its numbers.
        seed: with it and the images the study can be made again, so it is as secret as the key.
        methods: what "ours" and "baseline" are called.
        pairs: pairs of images there were, and pairs that are shown.
        trials: by id.
        images: by id, references left out.
        references: concept names by id.
    """

    format_version: Literal[1]
    study_sha256: str
    protocol: dict[str, str | int | None]
    seed: int
    methods: dict[Method, str]
    pairs: dict[Literal["given", "shown"], int]
    trials: dict[str, KeyTrial]
    images: dict[str, KeyImage]
    references: dict[str, str]

    def vote(self, trial: str, answer: Answer) -> Vote:
        """Whom an answer to a comparison, or to its repeat, is for.

        Raises:
            ValueError: for another attention check, which is about no method.
        """
        asked = self.trials[trial]
        if asked.right_answer is not None:
            raise ValueError(f"trial {trial} is an attention check: compare its answer with right_answer")
        if answer == "neutral":
            return "neutral"
        return asked.left if answer == "left" else asked.right


def read_key(key_file: str | Path) -> StudyKey:
    """Read a study's key.

    Raises:
        RunError: it cannot be read, or is no key.
    """
    try:
        return StudyKey.model_validate_json(Path(key_file).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(
            f"'{key_file}' is no key of a study ({str(error).splitlines()[0]}): give the file written beside it"
        ) from error
