"""How far a judge agrees with a person's eye on 200 generated images.

    python benchmarks/judge_agreement.py [--judge examiner] [--folder FOLDER]

`labelled_images/` holds the images and `labels.json`: 100 drawn with concepts learned by `paper` on dev sets (image 0
of seed 0 of the first ten prompts of the first ten sets), 100 drawn by the base model alone (a known thing in a known
place). One person labelled every asked thing 2 (would be named so), 1 (parts or colours of it), 0 (not there), and the
place right, wrong, or unclear (null: left out), without seeing what any judge said.

The judge says that a learned subject is there from its presence threshold on, a known thing from probability 0.5 on,
and a place right where it is the likeliest. Kappa is Cohen's, rho Spearman's between label and the judge's number;
intervals resample sets, for base images nouns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_findings import Bench, set_up_judge
from conceptloom.evaluation.image_scores import score_pictures
from conceptloom.evaluation.statistics import cluster_bootstrap, cohen_kappa
from conceptloom.judges.detector import Pixels

FOLDER = Path(__file__).parent / "labelled_images"
SETS = 20
KNOWN_FROM = 0.5


@dataclass(frozen=True)
class Case:
    """One label beside what the judge said."""

    what: str
    cluster: str
    label: int
    number: float
    says: bool


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", default="examiner", choices=("examiner", "selector"))
    parser.add_argument("--folder", type=Path, help="of a judge other than the one that ships")
    given = parser.parse_args()
    bench = set_up_judge(builtin_benchmark("dev", SETS), given.judge, given.folder)
    labels = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))
    cases = [*learned_cases(bench, labels["learned"]), *base_cases(bench, labels["base"])]
    print(f"{bench.fingerprint}, present from {bench.judge.present_from:.3f}")
    for what in ("subject", "known thing, base model alone", "known thing beside learned ones", "place"):
        for cut in (1,) if what == "place" else (2, 1):
            print(line(what, [case for case in cases if case.what == what], cut))


def line(what: str, cases: Sequence[Case], cut: int) -> str:
    """Agreement of one kind of label, which is true from `cut` on."""
    truth, says = [case.label >= cut for case in cases], [case.says for case in cases]
    right = [float(a == b) for a, b in zip(truth, says, strict=True)]
    found = cluster_bootstrap(right, [case.cluster for case in cases])
    rho = spearmanr([case.label for case in cases], [case.number for case in cases]).statistic
    return (
        f"{what + (', label 2' if cut == 2 else ''):45} {len(cases):4} labels, {sum(truth):3} true, judge says"
        f" {sum(says):3}: agree {found.value:.3f} [{found.low:.3f}, {found.high:.3f}],"
        f" kappa {cohen_kappa(truth, says):.3f}, rho {rho:.3f}"
    )


def learned_cases(bench: Bench, labels: Sequence[dict[str, Any]]) -> list[Case]:
    """Cases of images with learned concepts."""
    cases = []
    sets = {one.name: one for one in builtin_benchmark("dev", SETS).sets}
    for entry in labels:
        one, number = sets[entry["set"]], entry["prompt"]
        (score,) = score_pictures(
            one,
            {(number, 0): pixels(entry["file"])},
            one.prompts,
            bench.found[one.name],
            bench.judge,
            "labelled",
        )
        for name, label in entry["subjects"].items():
            identity = score.identity[name]
            cases.append(Case("subject", one.name, label, identity, score.present[name]))
        for noun, label in entry["known"].items():
            chance = score.known[noun]
            cases.append(
                Case("known thing beside learned ones", one.name, label, chance, chance >= KNOWN_FROM)
            )
        if entry["place"] is not None:
            right = bool(score.place_right)
            cases.append(Case("place", one.name, int(entry["place"]), float(right), right))
    return cases


def base_cases(bench: Bench, labels: Sequence[dict[str, Any]]) -> list[Case]:
    """Cases of the base model's own images."""
    looker = bench.judge.looker
    assert looker is not None
    cases = []
    for entry in labels:
        image = pixels(entry["file"])
        found = looker.detect(image).by_noun()[entry["noun"]]
        chance = float(max(found, default=0.0))
        cases.append(
            Case("known thing, base model alone", entry["noun"], entry["thing"], chance, chance >= KNOWN_FROM)
        )
        if entry["place_right"] is not None:
            behind = looker.background(image)
            right = max(behind, key=behind.__getitem__) == entry["place"]
            cases.append(Case("place", entry["noun"], int(entry["place_right"]), float(right), right))
    return cases


def pixels(name: str) -> Pixels:
    """A labelled image."""
    with Image.open(FOLDER / name, formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main()
