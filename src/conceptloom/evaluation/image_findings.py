"""Judging a comparison's images: which judge looks, what it was calibrated on, and every image's score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.calibration import (
    CALIBRATION_PROMPTS,
    calibrate,
    calibrate_on_dev,
    shipped_calibration,
)
from conceptloom.evaluation.image_references import References, prototypes, references
from conceptloom.evaluation.image_rows import image_rows
from conceptloom.evaluation.image_sanity import (
    REAL,
    composed,
    identities,
    own_pictures,
    sanity_scores,
)
from conceptloom.evaluation.image_scores import ImageScore, score_images
from conceptloom.evaluation.image_tables import Judged, paired_trials
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.evaluation.margins import BUILTIN, Margin, measure_margin
from conceptloom.evaluation.methods import our_method
from conceptloom.evaluation.parts import PARTS, part_task, run_of
from conceptloom.evaluation.plan import Size
from conceptloom.evaluation.statistics import Interval
from conceptloom.evaluation.units import UnitResult, has_unit, load_unit
from conceptloom.judges.detector import JUDGES, JudgeName, judge_folder, load_judge
from conceptloom.judges.features import BuiltinFeatures, load_feature_judge
from conceptloom.judges.networks import DESCRIPTION, WEIGHTS

EXAMINER: JudgeName = "examiner"
PART_METRICS = ("identity", "overall")
"""Columns of images in table "Parts"."""
SPOILED = ("fused", "swirled", "crossfaded")
"""Kinds of damage by which learned concepts that mix look spoiled (`basemodel.damage`)."""
REAL_PICTURES = 2
"""Composed for each prompt, so that the diversity of real pictures can be told."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A judge set up for a benchmark.

    Attributes:
        name: what the judge is called.
        fingerprint: of everything by which it judges: weights, and whether a detector looks or windows are compared.
        judge: with prototypes of the subjects of the sets that draw, and its presence threshold.
        found: references by set.
        sanity: its scores of real pictures and of wrong subjects.
        composed: whether those real pictures are composed anew, or the sets' own ones.
        unknown: of `SPOILED` drawings, the share that the detector says "unknown" of, as measured when it was trained;
            empty where there is no detector or it does not tell.
    """

    name: str
    fingerprint: str
    judge: ImageJudge
    found: Mapping[str, References]
    sanity: tuple[ImageScore, ...]
    composed: bool
    unknown: Mapping[str, float] = field(default_factory=dict)

    @property
    def knows_only_itself(self) -> bool:
        """Whether no subject is in two real pictures, so that each was compared with itself in calibration."""
        return not identities(self.sanity, REAL)


def set_up_judge(benchmark: Benchmark, name: str = EXAMINER, folder: str | Path | None = None) -> Bench:
    """Load a judge and calibrate it (`present_from`, `usual_identity`): on composed pictures of `dev`, or on the
    benchmark's own, each subject against its other pictures; where none has any, against itself.

    The examiner looks for drawings in pictures of the built-in benchmark; elsewhere no detector knows what pictures
    show, and windows are compared.

    Args:
        benchmark: the sets that draw.
        name: see `load_feature_judge`.
        folder: see `load_feature_judge`.

    Raises:
        DataError: the judge cannot be loaded, or the benchmark has fewer than two sets.
    """
    if len(benchmark.sets) < 2:
        raise DataError(
            f"benchmark '{benchmark.name}' holds one set, but a judge must tell a set's subjects from another's:"
            " give two sets or more"
        )
    folder = None if folder is None else Path(folder).expanduser()
    features = load_feature_judge(name, folder)
    drawings = benchmark.name == BUILTIN
    looker = None
    if drawings:
        looker = features.judge if isinstance(features, BuiltinFeatures) else load_judge(EXAMINER)
    found = {one.name: references(one, features, greyed=drawings) for one in benchmark.sets}
    known = prototypes(benchmark, found)
    answers = composed(benchmark, CALIBRATION_PROMPTS, REAL_PICTURES) if drawings else own_pictures(benchmark)
    judge = ImageJudge(looker, features, known, 0.0, 1.0)
    fingerprint = judge_fingerprint(benchmark, name, folder)
    if drawings:
        side_px = benchmark.sets[0].pictures[0].size[0]
        calibration = shipped_calibration(fingerprint, side_px) or calibrate_on_dev(judge, side_px)
    else:
        calibration = calibrate(judge, benchmark, answers, found)
    judge = replace(judge, **calibration.model_dump())
    sanity = tuple(sanity_scores(benchmark, answers, found, judge))
    unknown = _unknown_rates(_detector_folder(name, folder)) if drawings else {}
    return Bench(name, fingerprint, judge, found, sanity, drawings, unknown)


def judge_images(
    bench: Bench, benchmark: Benchmark, size: Size, results: Sequence[UnitResult], margin: Margin | None
) -> Judged:
    """Scores of the images of whole units; without a margin it is measured, where `our_method` has two seeds.

    Args:
        bench: the judge.
        benchmark: holds the units' sets.
        size: how many images count.
        results: units, whatever they hold.
        margin: that was fixed before, None where there is none.
    """
    sets = {one.name: one for one in benchmark.sets}
    scores: dict[int, list[ImageScore]] = {}
    for unit in results:
        if unit.images:
            one = sets[unit.key.set]
            scores.setdefault(unit.key.seed, []).extend(
                score_images(one, unit, one.prompts, bench.found[one.name], bench.judge, size.images)
            )
    compared = tuple(scores.get(0, ()))
    ours = our_method({score.method for score in compared})
    other = tuple(score for score in scores.get(1, ()) if score.method == ours)
    if margin is None and ours is not None:
        trials = paired_trials([score for score in compared if score.method == ours], other)
        margin = measure_margin(benchmark, trials, ours)
    subjects = len(bench.judge.prototypes.keys)
    return Judged(compared, other, bench.sanity, margin, subjects, bench.composed)


def parts_images(
    bench: Bench, benchmark: Benchmark, size: Size, units: Path
) -> dict[str, dict[str, Interval]]:
    """`PART_METRICS` of the images of every part that drew some, by the part's name; units not done are left out."""
    found: dict[str, dict[str, Interval]] = {}
    for part in PARTS:
        if not part.generates or run_of(part) != part:
            continue
        scores: list[ImageScore] = []
        for one in benchmark.sets[: size.image_sets]:
            key = part_task(part, one, size).key
            if has_unit(key, units):
                unit = load_unit(key, units)
                if unit.diverged is not None:
                    continue
                scores += score_images(
                    one, unit, one.prompts, bench.found[one.name], bench.judge, size.images
                )
        if scores:
            rows = image_rows(scores, lambda score, _: score.method)["paper"]
            found[part.name] = {metric: rows[metric].mean for metric in PART_METRICS if metric in rows}
    return found


def judge_fingerprint(benchmark: Benchmark, name: str, folder: str | Path | None) -> str:
    """The judge's name and the first digits of the hash of all weights by which it judges images of a benchmark.

    On the built-in benchmark the examiner looks first, so its weights count; elsewhere windows are compared.
    """
    drawings = benchmark.name == BUILTIN
    own = judge_folder(EXAMINER if name == EXAMINER else "selector") if folder is None else Path(folder)
    where = [own.expanduser()]
    if drawings and name not in JUDGES:
        where.append(judge_folder(EXAMINER))
    digest = hashlib.sha256()
    for one in where:
        for path in sorted(one.glob(f"*{Path(WEIGHTS).suffix}")):
            digest.update(path.read_bytes())
    return f"{name}-{digest.hexdigest()[:12]}{'' if drawings else '-windows'}"


def _detector_folder(name: str, folder: Path | None) -> Path:
    """Where the judge lies that looks for drawings: a built-in judge of that name, else the examiner that ships."""
    own = next((one for one in JUDGES if one == name), None)
    return judge_folder(EXAMINER) if own is None else folder or judge_folder(own)


def _unknown_rates(folder: Path) -> dict[str, float]:
    try:
        told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["report"]["damaged"]
        return {kind: float(told[kind]["mean"]) for kind in SPOILED}
    except (OSError, ValueError, LookupError, TypeError):
        return {}  # a judge of one's own need not have been measured so
