"""What ending EM once masks are calm would save, and cost in mask IoU, told from the runs of an evaluation.

    python benchmarks/early_stop.py OUT [--method refined] [--calm 3] [--iou 0.95]

OUT is the folder of `conceptloom evaluate --benchmark builtin`. The rule is `learn`'s `stop_when_calm`: EM ends after
so many E-steps in a row in which every mask of every picture kept at least that IoU with the one before. The steps up
to there are the same with the rule and without, so the masks it would have ended with are those the run had then.
What fewer steps do to the tokens is not told by this.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.mask_scores import (
    ScoredMask,
    final_masks,
    first_masks,
    paired_difference,
    scored_masks,
)
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.plan import FULL, MASKS
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult, has_unit, load_unit
from conceptloom.learning import resolve_config
from conceptloom.masks import all_keep


@dataclass(frozen=True)
class Stopped:
    """A run, the step at which the rule would have ended its EM, and the step of its last E-step."""

    unit: UnitResult
    step: int
    last: int


def stop_step(records: Sequence[MaskRecord], calm: int, least_iou: float) -> int:
    """The step at which the rule ends EM; where it never does, the step of the last E-step."""
    by_step: dict[int, dict[str, MaskRecord]] = defaultdict(dict)
    for record in records:
        by_step[record.step][record.picture] = record
    steps = sorted(by_step)
    in_a_row = 0
    for before, step in pairwise(steps):
        are_calm = all(
            all_keep(record.masks, by_step[before][picture].masks, least_iou)
            for picture, record in by_step[step].items()
        )
        in_a_row = in_a_row + 1 if are_calm else 0
        if in_a_row == calm:
            return step
    return steps[-1]


def stopped_runs(
    out: Path, benchmark: Benchmark, method: MethodName, calm: int, least_iou: float
) -> list[Stopped]:
    """The finished runs of a method that update their masks."""
    keys = [
        UnitKey(one.name, method, seed, variant)
        for one, seed, variant in product(benchmark.sets, range(FULL.seeds), ("", MASKS))
    ]
    runs = []
    for key in keys:
        if has_unit(key, out / "units"):
            unit = load_unit(key, out / "units")
            if unit.diverged is not None:
                continue
            last = max(mask.step for mask in unit.masks)
            runs.append(Stopped(unit, stop_step(unit.masks, calm, least_iou), last))
    return runs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="refined", choices=("paper", "refined", "literal"))
    parser.add_argument("--calm", type=int, default=3)
    parser.add_argument("--iou", type=float, default=resolve_config("builtin").calm_iou)
    arguments = parser.parse_args()
    benchmark = builtin_benchmark("dev", FULL.sets)
    runs = stopped_runs(arguments.out, benchmark, arguments.method, arguments.calm, arguments.iou)
    if not runs:
        raise SystemExit(f"no finished run of {arguments.method} under {arguments.out}/units")
    sets = {one.name: one for one in benchmark.sets}
    stopped: list[ScoredMask] = []
    whole: list[ScoredMask] = []
    for run in runs:
        scored = scored_masks(sets[run.unit.key.set], run.unit)
        stopped += [mask for mask in scored if mask.step <= run.step]
        whole += scored
    shares = np.array([run.step / run.last for run in runs])
    early = sum(run.step < run.last for run in runs)
    print(
        f"{arguments.method}, EM ends after {arguments.calm} E-steps in a row that keep an IoU of {arguments.iou:g}:"
        f" {early} of {len(runs)} runs end early; steps taken {shares.mean():.1%}"
        f" (quartiles {np.quantile(shares, 0.25):.0%}, {np.quantile(shares, 0.5):.0%}, {np.quantile(shares, 0.75):.0%})"
    )
    for name, are_places in (("subjects", False), ("backgrounds", True)):
        first, cut, full = (
            [mask for mask in found if mask.is_place == are_places]
            for found in (first_masks(whole), final_masks(stopped), final_masks(whole))
        )
        if full:
            means = [float(np.mean([mask.score.iou for mask in masks])) for masks in (first, cut, full)]
            print(
                f"  {name} ({len(full)}): first {means[0]:.3f}, stopped {means[1]:.3f}, whole {means[2]:.3f};"
                f" stopped less whole {_told(cut, full)}"
            )


def _told(ours: Sequence[ScoredMask], others: Sequence[ScoredMask]) -> str:
    found = paired_difference(ours, others)
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


if __name__ == "__main__":
    main()
