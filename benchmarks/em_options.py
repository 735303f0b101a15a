"""What EM adds on the dev sets of the built-in benchmark: stages 1 to 3, masks scored at every E-step.

    python benchmarks/em_options.py --log RESULTS.jsonl --option NAME=JSON [--option ...] [--sets 40] [--method refined]

With `--hard N` the sets are N of every hard case (`conceptloom.evaluation.hard_sets`), or of those that `--case` names,
a row each in the table.
Each option is a table of switches of `LearnConfig`. The masks before the first M-step are those of the same E-step with
EM off, so "gain" is what EM adds. An interrupted run goes on where it was; `--table` only prints. Sets with a fixed
number, as `--only 1/2`, are shared out between two processes, each with a log of its own; `--log` may be given again
to print them together. Intervals are paired 95 % bootstraps over sets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import ResultLog, fresh_folder
from grid_bounds import BOUNDS, grid_bounds
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.hard_sets import CASES, hard_benchmark
from conceptloom.evaluation.mask_metrics import swapped
from conceptloom.evaluation.methods import learn_request
from conceptloom.evaluation.statistics import Interval, clopper_pearson, cluster_bootstrap
from conceptloom.learning import LearnConfig, MasksUpdated, resolve_config, run
from conceptloom.masks import iou
from conceptloom.pictures import Picture, square_frame, square_frame_mask

LAST = 3
"""The end of a curve is the mean of its last E-steps, so that no lucky update decides; the last is told too."""
Row = Mapping[str, Any]


def curves(
    backbone: Backbone, one: BenchmarkSet, overrides: Mapping[str, Any], scratch: Path
) -> Iterator[dict[str, Any]]:
    """One row a concept and picture: its IoU from the first masks to the last, and its rescues."""
    quiet = {"train": "tokens", "preview_every": 0, "checkpoint_every": 1_000_000}
    config = resolve_config(family_of(backbone.version), {**quiet, **overrides})
    truth = {
        (picture.name, name): square_frame_mask(mask, backbone.size)
        for picture in one.pictures
        for name, mask in picture.masks.items()
    }
    ious: dict[tuple[str, str], list[float]] = {key: [] for key in truth}
    rescues = dict.fromkeys(truth, 0)
    ends: dict[str, dict[str, Any]] = {}
    begun = time.perf_counter()
    for event in run(learn_request(one, backbone, config), backbone, scratch):
        if not isinstance(event, MasksUpdated):
            continue
        ends[event.picture] = {
            "collapsed": bool(event.collapsed),
            "rescued": bool(event.rescued),
            "swapped": _swapped(one, event, truth),
        }
        for name, mask in zip(_named(one, event, truth), event.masks, strict=True):
            key = (event.picture, name)
            if key in truth:
                ious[key].append(float(iou(mask, truth[key])))
                rescues[key] += name in event.rescued
    seconds = time.perf_counter() - begun
    _, h, w = backbone.latent_shape
    allowed = {
        picture.name: _allowed(one, picture, backbone.size, (h, w), config) for picture in one.pictures
    }
    for (picture, name), curve in ious.items():
        concept = one.concept(name)
        yield {
            "subjects": sum(one.concept(other).kind == "subject" for other in one.contains[picture]),
            "whole": round(float(truth[picture, name].mean()), 4),
            "grid": allowed[picture][name],
            "set": one.name,
            "picture": picture,
            "concept": name,
            "kind": concept.kind,
            "split": concept.split,
            "own_word": concept.word == concept.noun,
            "curve": [round(value, 4) for value in curve],
            "rescues": rescues[picture, name],
            **ends[picture],
            "sec": round(seconds, 1),
        }


def _named(
    one: BenchmarkSet, event: MasksUpdated, truth: Mapping[tuple[str, str], NDArray[np.bool_]]
) -> list[str]:
    """Whose mask each of the event's is: its concept's, or of subjects that no word tells apart that it fits best."""
    names = list(event.concepts)
    told = _told_apart(one, event)
    free = [k for k, name in enumerate(names) if k not in told and one.concept(name).kind == "subject"]
    free = [k for k in free if (event.picture, names[k]) in truth]
    overlap = [[iou(event.masks[k], truth[event.picture, names[other]]) for other in free] for k in free]
    if free:
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        for row, column in zip(rows, columns, strict=True):
            names[free[row]] = event.concepts[free[column]]
    return names


def _allowed(
    one: BenchmarkSet, picture: Picture, side: int, grid: tuple[int, int], config: LearnConfig
) -> dict[str, list[float]]:
    """By concept the IoU that the latent grid allows, in the ways of `BOUNDS`."""
    names = [name for name in one.contains[picture.name] if name in picture.masks]
    if not names:
        return {}
    true = np.stack([square_frame_mask(picture.masks[name], side) for name in names])
    kinds = [one.concept(name).kind for name in names]
    bounds = grid_bounds(square_frame(picture.pixels, side), true, kinds, grid, config)
    return {
        name: [round(float(iou(bounds[way][k], true[k])), 4) for way in BOUNDS]
        for k, name in enumerate(names)
    }


def _told_apart(one: BenchmarkSet, event: MasksUpdated) -> list[int]:
    """Which of the event's masks are subjects that start from a word no other subject of the picture has."""
    concepts = [one.concept(name) for name in event.concepts]
    words = Counter(concept.word for concept in concepts if concept.kind == "subject")
    return [
        index
        for index, concept in enumerate(concepts)
        if concept.kind == "subject" and concept.word is not None and words[concept.word] == 1
    ]


def _swapped(
    one: BenchmarkSet, event: MasksUpdated, truth: Mapping[tuple[str, str], NDArray[np.bool_]]
) -> bool | None:
    """Whether subjects that words tell apart have exchanged masks; None where there are no two."""
    subjects = [k for k in _told_apart(one, event) if (event.picture, event.concepts[k]) in truth]
    if len(subjects) < 2:
        return None
    return swapped(
        event.masks[subjects], np.stack([truth[event.picture, event.concepts[k]] for k in subjects])
    )


def groups_of() -> dict[str, Callable[[Row], bool]]:
    """Rows of the tables: subjects, those that start from their own noun or are of nouns never taught, every case."""
    groups: dict[str, Callable[[Row], bool]] = {
        "subjects": lambda row: row["kind"] == "subject",
        "subjects that start from their own noun": lambda row: row["kind"] == "subject" and row["own_word"],
        "subjects of nouns never taught": lambda row: row["split"] == "novel noun",
    }
    for count in range(1, 6):
        groups[f"subjects, {count} in the picture"] = lambda row, count=count: (  # type: ignore[misc]
            row["kind"] == "subject" and row["subjects"] == count
        )
    groups["places"] = lambda row: row["kind"] != "subject"
    for case in CASES:
        groups[f"case: {case.title}"] = lambda row, name=case.name: (  # type: ignore[misc]
            row["kind"] == "subject" and row["set"].split("-", 1)[1].rpartition("-")[0] == name
        )
    return groups


def print_table(rows: Sequence[Row]) -> None:
    """Start, end and gain of every option and group of concepts, and how often runs end badly."""
    groups = groups_of()
    print(f"{'option':<24} {'group':<40} masks  start   end   gain                     last  gain")
    for option in dict.fromkeys(row["option"] for row in rows):
        mine = [row for row in rows if row["option"] == option]
        for group, belongs in groups.items():
            chosen = [row for row in mine if belongs(row)]
            if not chosen:
                continue
            start = [row["curve"][0] for row in chosen]
            end = [float(np.mean(row["curve"][-LAST:])) for row in chosen]
            last = [row["curve"][-1] for row in chosen]
            sets = [row["set"] for row in chosen]
            gains = [cluster_bootstrap(np.subtract(after, start), sets) for after in (end, last)]
            told = [f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in gains]
            print(
                f"{option:<24} {group:<40} {len(chosen):>5}  {np.mean(start):.3f}  {np.mean(end):.3f}"
                f"  {told[0]}  {np.mean(last):.3f}  {told[1]}"
            )
        print_shares(mine)
        seconds = np.mean([row["sec"] for row in mine])
        print(
            f"{'':<24} {seconds:.0f} s a set, {sum(row['rescues'] for row in mine)} rescues; sets that end",
            end=" ",
        )
        for title, rate in ends(mine).items():
            print(f"{title}: {rate.value:.3f} (at most {rate.high:.3f})", end="; ")
        print()


def print_shares(rows: Sequence[Row]) -> None:
    """First and last masks of every group as shares of what the grid allows.

    Of places both are counted from what the whole picture as a mask scores.
    """
    for title, belongs in groups_of().items():
        chosen = [row for row in rows if belongs(row)]
        if not chosen:
            continue
        allowed = max(np.mean([row["grid"] for row in chosen], axis=0))
        floor = np.mean([row["whole"] for row in chosen]) if title == "places" else 0.0
        first, last = (np.mean([row["curve"][at] for row in chosen]) for at in (0, -1))
        shares = [(value - floor) / (allowed - floor) for value in (first, last)]
        print(
            f"{'':<24} {title:<40} {len(chosen):>5}  of the grid's {allowed:.3f}: {shares[0]:.3f} to {shares[1]:.3f}"
        )


def ends(rows: Sequence[Row]) -> dict[str, Interval]:
    """How often sets end badly, with the 95 % one-sided upper ends of Clopper and Pearson.

    Only what could be swapped counts for swaps: sets with several subjects in a picture that start from words.
    """
    sets = {row["set"] for row in rows}

    def rate(among: Set[str], *events: str) -> Interval:
        bad = {row["set"] for row in rows if row["set"] in among and any(row[event] for event in events)}
        return clopper_pearson(len(bad), len(among), side="upper")

    can_swap = {row["set"] for row in rows if row["swapped"] is not None}
    found = {f"swapped, of {len(can_swap)}": rate(can_swap, "swapped")} if can_swap else {}
    found[f"collapsed, of {len(sets)}"] = rate(sets, "collapsed")
    found["on a rescued mask"] = rate(sets, "rescued")
    found["collapsed or rescued"] = rate(sets, "collapsed", "rescued")
    return found


def main() -> None:
    """Run what is missing from the log, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", default="paper")
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--hard", type=int, default=0, metavar="N")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="of --hard")
    parser.add_argument("--only", default="1/1", metavar="PART/PARTS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--log", type=Path, action="append", required=True)
    arguments = parser.parse_args()
    logs = [ResultLog(path) for path in arguments.log]
    if not arguments.table:
        torch.set_num_threads(1)
        backbone = load_backbone(arguments.model, device="cpu", dtype=arguments.dtype)
        part, parts = (int(number) for number in arguments.only.split("/"))
        cases = [case for case in CASES if not arguments.case or case.name in arguments.case]
        if arguments.hard:
            benchmark = hard_benchmark("dev", arguments.hard, cases=cases)
        else:
            benchmark = builtin_benchmark("dev", arguments.sets)
        sets = benchmark.sets[part - 1 :: parts]
        for text in arguments.option:
            option, _, values = text.partition("=")
            overrides = {"method": arguments.method, "seed": arguments.seed, **json.loads(values)}
            for one in sets:
                if logs[0].has(option=option, set=one.name):
                    continue
                scratch = fresh_folder(arguments.log[0].with_suffix(".scratch"))
                for row in list(curves(backbone, one, overrides, scratch)):
                    logs[0].add({"option": option, **row})
    print_table([row for log in logs for row in log.rows])


if __name__ == "__main__":
    main()
