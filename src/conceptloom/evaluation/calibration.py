"""What a judge of images is calibrated to: the identity that is presence, and how alike two pictures of one thing are.

On drawings it is measured on `dev` for every comparison, so what was measured of the judge that ships, ships with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from pydantic import BaseModel, ConfigDict, TypeAdapter

from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_references import References, prototypes, references
from conceptloom.evaluation.image_sanity import (
    REAL,
    WRONG,
    Answers,
    composed,
    identities,
    presence_threshold,
    sanity_scores,
)
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.evaluation.shipped import shipped_entry

CALIBRATION_SETS = 20
CALIBRATION_PROMPTS = 10
CALIBRATIONS = "calibrations.json"


class Calibration(BaseModel):
    """What a judge was calibrated to.

    Attributes:
        present_from: see `ImageJudge`.
        usual_identity: see `ImageJudge`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    present_from: float
    usual_identity: float


_FILE = TypeAdapter(dict[str, Calibration])


def calibrate(
    judge: ImageJudge, benchmark: Benchmark, answers: Mapping[str, Answers], found: Mapping[str, References]
) -> Calibration:
    """Calibrate a judge on real pictures of a benchmark's sets.

    Args:
        judge: with the benchmark's prototypes; its own calibration is not used.
        benchmark: two sets or more.
        answers: real pictures of each set; where no subject is in two of them, each is compared with itself.
        found: references of each set.
    """
    scores = sanity_scores(benchmark, answers, found, judge)
    real, wrong = identities(scores, REAL), identities(scores, WRONG)
    if not real:
        real = identities(sanity_scores(benchmark, answers, found, judge, with_itself=True), REAL)
    return Calibration(present_from=presence_threshold(real, wrong), usual_identity=median(real))


def calibrate_on_dev(judge: ImageJudge, side_px: int) -> Calibration:
    """Calibrate a judge of drawings on composed pictures of `dev`, `side_px` wide, whatever it will judge."""
    dev = builtin_benchmark("dev", CALIBRATION_SETS, side_px=side_px)
    found = {one.name: references(one, judge.features, greyed=True) for one in dev.sets}
    of_dev = replace(judge, prototypes=prototypes(dev, found))
    return calibrate(of_dev, dev, composed(dev, CALIBRATION_PROMPTS, 1), found)


def shipped_calibration(fingerprint: str, side_px: int) -> Calibration | None:
    """What `calibrate_on_dev` once gave for the judge of a fingerprint, None where that did not ship.

    Raises:
        DataError: the shipped file is damaged.
    """
    return shipped_entry(
        CALIBRATIONS, f"{fingerprint}/{side_px}", lambda path: _FILE.validate_json(path.read_bytes())
    )
