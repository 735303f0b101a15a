"""How well concepts are found that nobody named: count, masks and words on dev sets; and what tells things from parts.

    python benchmarks/discovery.py cache CACHE [--sets 40] [--model FOLDER] [--dtype bfloat16]
    python benchmarks/discovery.py fit CACHE
    python benchmarks/discovery.py score CACHE [--least 0.33] [--sets 40] [--model FOLDER] [--dtype bfloat16]

`cache` keeps what is to be seen in every picture (`conceptloom.learning.discover.Seen`). `fit` prints the numbers of
`conceptloom.masks.objectness.OBJECTNESS`, by ridge regression of each part's IoU with the subject that it covers best.
`score` fits on four fifths of the sets and discovers in the last, in turn, so that no picture is judged by numbers
fitted to it. A subject is found when a proposed mask has an IoU above .5 with it, one to one; intervals are 95 %
bootstraps over sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.statistics import cluster_bootstrap
from conceptloom.learning.discover import LEAST, MOST, Seen, look_at, propose
from conceptloom.masks import area_to_grid, iou
from conceptloom.masks.objectness import Objectness, Weight, best_disjoint
from conceptloom.pictures import Picture, square_frame_mask
from conceptloom.seeding import numpy_generator

FOLDS = 5
RIDGE = 3.0
ARRAYS = ("word_errors", "place_errors", "parts")


@dataclass(frozen=True, eq=False)
class Case:
    """A picture of a set, and what was seen in it."""

    one: BenchmarkSet
    picture: Picture
    seen: Seen

    @property
    def subjects(self) -> list[str]:
        """Concepts with a true mask that are no places."""
        kinds = {concept.name: concept.kind for concept in self.one.concepts}
        return [name for name in self.one.contains[self.picture.name] if kinds[name] == "subject"]

    def cells_iou(self) -> NDArray[np.float64]:
        """IoU (P,) of each part with the subject that it covers best, on the grid."""
        side = round(self.seen.parts.shape[1] ** 0.5)
        truth = np.stack([self.picture.masks[name] for name in self.subjects])
        frame = np.stack([square_frame_mask(mask, 8 * side) for mask in truth])
        shares = area_to_grid(frame, (side, side)).reshape(len(truth), -1)
        cells = (shares >= 0.5) | (shares == shares.max(axis=1, keepdims=True))
        both = (self.seen.parts[:, None] & cells[None]).sum(axis=2)
        either = (self.seen.parts[:, None] | cells[None]).sum(axis=2)
        best: NDArray[np.float64] = (both / either).max(axis=1)
        return best


def pictures(sets: int) -> Iterator[tuple[str, BenchmarkSet, Picture]]:
    """File name, set and picture of all pictures."""
    for one in builtin_benchmark("dev", sets).sets:
        for number, picture in enumerate(one.pictures):
            yield f"{one.name}-{number}.safetensors", one, picture


def write(seen: Seen, path: Path) -> None:
    """Keep what was seen."""
    arrays = {name: getattr(seen, name) for name in ARRAYS} | {
        f"features.{name}": values for name, values in seen.features.items()
    }
    save_file(arrays, path, {"words": "|".join(seen.words), "places": "|".join(seen.places)})


def read(path: Path) -> Seen:
    """What `write` kept."""
    with safe_open(path, "numpy") as stored:
        labels = {name: tuple(text.split("|")) for name, text in stored.metadata().items()}
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    features = {
        name.removeprefix("features."): arrays.pop(name)
        for name in list(arrays)
        if name.startswith("features.")
    }
    return Seen(**labels, **arrays, features=features)


def fit(cases: Sequence[Case]) -> Objectness:
    """Ridge regression of the parts' IoU on their features and these squared."""
    names = list(cases[0].seen.features)
    columns = {name: np.concatenate([case.seen.features[name] for case in cases]) for name in names}
    target = np.concatenate([case.cells_iou() for case in cases])
    means = {name: float(values.mean()) for name, values in columns.items()}
    spreads = {name: float(values.std()) for name, values in columns.items()}
    standard = np.stack([(columns[name] - means[name]) / spreads[name] for name in names], axis=1)
    design = np.concatenate([standard, standard**2, np.ones((len(target), 1))], axis=1)
    solved = np.linalg.solve(design.T @ design + RIDGE * np.eye(design.shape[1]), design.T @ target)
    weights = {
        name: Weight(means[name], spreads[name], float(solved[k]), float(solved[len(names) + k]))
        for k, name in enumerate(names)
    }
    return Objectness(float(solved[-1]), weights)


@dataclass(frozen=True)
class Score:
    """Of one picture: how many were proposed, IoU of each true subject with its proposal, words that were right."""

    set_name: str
    proposed: int
    ious: tuple[float, ...]
    right: int
    place_iou: float | None
    place_right: bool


def score(case: Case, backbone: Backbone, objectness: Objectness, least: float) -> Score:
    """Discover in one picture."""
    seen = case.seen
    chosen = seen.parts[best_disjoint(seen.parts, objectness(seen.features), least, MOST)]
    proposals = propose(backbone, case.picture, seen, chosen)
    things = [proposal for proposal in proposals if proposal.kind == "subject"]
    truth = [case.picture.masks[name] for name in case.subjects]
    overlap = np.array([[iou(thing.segment.mask, mask) for mask in truth] for thing in things])
    ious, right = np.zeros(len(truth)), 0
    for thing, true in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        ious[true] = overlap[thing, true]
        is_right = things[thing].word == case.one.concept(case.subjects[true]).noun
        right += int(is_right and overlap[thing, true] > 0.5)
    places = [
        name for name in case.one.contains[case.picture.name] if case.one.concept(name).kind != "subject"
    ]
    ground = next((proposal for proposal in proposals if proposal.kind == "background"), None)
    place_iou = place_right = None
    if places and ground is not None:
        place_iou = float(iou(ground.segment.mask, case.picture.masks[places[0]]))
        place_right = ground.word == case.one.concept(places[0]).noun
    return Score(case.one.name, len(things), tuple(ious), right, place_iou, bool(place_right))


def folds(cases: Sequence[Case]) -> Iterator[tuple[list[Case], list[Case]]]:
    """Cases to fit to and to judge, by sets."""
    names = sorted({case.one.name for case in cases})
    order = numpy_generator(0, "discovery", "folds").permutation(len(names))
    for fold in range(FOLDS):
        left_out = {names[index] for index in order[fold::FOLDS]}
        yield (
            [case for case in cases if case.one.name not in left_out],
            [case for case in cases if case.one.name in left_out],
        )


def print_scores(scores: Sequence[Score]) -> None:
    """Recall, precision, IoU, count and words."""
    per_subject = [(value, one.set_name) for one in scores for value in one.ious]
    values, names = np.array([value for value, _ in per_subject]), [name for _, name in per_subject]
    found = int((values > 0.5).sum())
    recall, mean = cluster_bootstrap(values > 0.5, names), cluster_bootstrap(values, names)
    hits = [sum(value > 0.5 for value in one.ious) / max(one.proposed, 1) for one in scores]
    precision = cluster_bootstrap(hits, [one.set_name for one in scores])
    counts = cluster_bootstrap(
        [float(one.proposed == len(one.ious)) for one in scores], [one.set_name for one in scores]
    )
    places = [one.place_iou for one in scores if one.place_iou is not None]
    print(f"{len(scores)} pictures, {len(values)} subjects, {sum(one.proposed for one in scores)} proposed")
    for title, interval in (
        ("recall", recall),
        ("precision, mean over pictures", precision),
        ("mean IoU", mean),
        ("count right", counts),
    ):
        print(f"{title:<30} {interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]")
    print(f"word right, of those found     {sum(one.right for one in scores) / max(found, 1):.3f}")
    right = np.mean([one.place_right for one in scores if one.place_iou is not None])
    print(f"{len(places)} places: IoU {np.mean(places):.3f}, word right {right:.3f}")


def main() -> None:
    """Fill a cache, fit to it, or score discovery on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("cache", "fit", "score"))
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--least", type=float, default=LEAST)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(arguments.model, device="cpu", dtype=arguments.dtype)
    if arguments.command == "cache":
        arguments.cache.mkdir(parents=True, exist_ok=True)
        for file, _, picture in pictures(arguments.sets):
            if not (arguments.cache / file).exists():
                write(
                    look_at(backbone, picture, backbone.nouns, backbone.backgrounds), arguments.cache / file
                )
        return
    cases = [
        Case(one, picture, read(arguments.cache / file)) for file, one, picture in pictures(arguments.sets)
    ]
    if arguments.command == "fit":
        constant, weights = fit(cases)
        print(f"{constant:.4f}")
        for name, weight in weights.items():
            print(f"{name}: {', '.join(f'{value:.4f}' for value in weight)}")
        return
    print_scores(
        [
            score(case, backbone, fit(known), arguments.least)
            for known, unknown in folds(cases)
            for case in unknown
        ]
    )


if __name__ == "__main__":
    main()
