"""Every E-step option on the dev sets of the built-in benchmark, scored in seconds from maps cached once.

    python benchmarks/e_step_options.py cache --out CACHE [--sets 40 | --hard 20] [--model FOLDER] [--rows RUNS]
    python benchmarks/e_step_options.py score CACHE [--set KEY=JSON ...] [--vary KEY=JSON,JSON ...] [--against CACHE]

`cache` keeps, of every picture, 60 passes at timesteps spread evenly over the schedule, under the picture's full
prompt: the map of each concept in each cross-attention layer, and the up path's self-attention in bands of timesteps.
Tokens start from the sets' words; with `--rows` they are those of concept sets learned before (`RUNS/SETNAME`). With
`--hard N` the sets are N of every hard case that starts from words (`conceptloom.evaluation.hard_sets`).
`score` prints the mask IoU of the ladder of parts, or of the last rung changed by `--set`, once for each value of
`--vary`; the key `crf_side` is the CRF's size in pixels, no switch of the product. Below the ladder stands what its
last rung reaches of what the grid allows ("share"), and what it would if no two subjects' masks were exchanged
("right"), if on every subject's pixels it were known whose they are ("whose"), or on every pixel whether it is a
subject's ("rest"). `--against` compares the last rung with that on another model's cache of the same sets. Masks are
those of stage 2: nothing is learned. Intervals are 95 % bootstraps over sets, differences paired; "ms" is the time a
picture's masks take from maps and a ready CRF.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from grid_bounds import BOUNDS, grid_bounds
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

from conceptloom.backbone import Backbone, encode_prompts, load_backbone, record_affinity, record_attention
from conceptloom.concepts import ConceptKind, ConceptSet
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.hard_sets import CASES, hard_benchmark
from conceptloom.evaluation.mask_metrics import trivial_masks
from conceptloom.evaluation.methods import learn_request
from conceptloom.evaluation.statistics import cluster_bootstrap, paired_cluster_bootstrap
from conceptloom.learning import LearnConfig, resolve_config
from conceptloom.learning.batches import Material, moments_of
from conceptloom.learning.e_step import MeanMaps, masks_from
from conceptloom.learning.example import LearningExample
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.presets import PRESETS
from conceptloom.learning.trainer import prepare_material
from conceptloom.masks import DenseCRF, iou, propagate, resize_maps
from conceptloom.masks.assign import assign, evidence_of
from conceptloom.pictures import square_frame, square_frame_mask
from conceptloom.seeding import noise

PASSES, BANDS = 60, 10
PARTS: dict[str, Mapping[str, Any]] = {
    "spread": {"normalise": "spread", "tau": 0.6},
    "one CRF for all": {"crf_labels": "joint"},
    "soft unary": {"unary_temperature": 2.0},
    "timesteps .3 to .7": {"timestep_range": (0.3, 0.7)},
    "background is the rest": {"background_is_rest": True},
    "propagation": {"propagation_steps": 1},
    "colour deviation 8": {"crf": {"scale": 2.0, "bilateral_srgb": 8.0}},
    "pieces with half the peak": {"piece_peak": 0.5},
    "small holes filled": {"hole_share": 0.01},
}
"""What `refined` adds to `fixed`'s first masks, one after the other."""


def _ladder() -> dict[str, Mapping[str, Any]]:
    masks = PRESETS["builtin"].masks
    rungs = {"paper's first masks": masks["paper"], "fixed's first masks": masks["fixed"]}
    reached = dict(masks["fixed"])
    for part, switches in PARTS.items():
        reached = {**reached, **switches}
        rungs[f"+ {part}"] = reached
    return rungs


LADDER = _ladder()
"""What `refined` adds, part by part; the last rung is the base of `--set` and `--vary`."""


@dataclass(frozen=True, eq=False)
class CachedPicture:
    """One picture of a set: what the model attends to, and the truth."""

    set_name: str
    frame: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    kinds: tuple[str, ...]
    splits: tuple[str, ...]
    timesteps: NDArray[np.int64]
    layers: dict[str, NDArray[np.float16]]
    """(T, K, h, w) by layer name."""
    affinity: NDArray[np.float16]
    """(bands, n*n, n*n)."""

    def mean(self, config: LearnConfig) -> MeanMaps:
        """Maps and affinity of the timesteps and layers that `config` takes."""
        first, last = config.timestep_range
        chosen = (self.timesteps >= first * 1000) & (self.timesteps < last * 1000)
        picked = [maps for name, maps in self.layers.items() if _is_chosen(name, config.layers)]
        maps = np.mean([maps[chosen].astype(np.float32).mean(axis=0) for maps in picked], axis=0)
        bands = np.unique(self.timesteps[chosen] * BANDS // 1000)
        affinity = self.affinity[bands].astype(np.float32).mean(axis=0) if config.propagation_steps else None
        return MeanMaps(maps.astype(np.float32), np.ones(len(maps), dtype=np.int64), affinity)


def _is_chosen(name: str, layers: str) -> bool:
    """Whether a layer of the built-in model is among `layers`; its last up block is the one at 16x16."""
    if layers == "up_16":
        return name.startswith("up_blocks.1.")
    places = {"all": ("down", "mid", "up"), "up_down": ("down", "up")}.get(layers, (layers,))
    return name.split("_")[0] in places


@torch.no_grad()
def record(material: Material, rows: torch.Tensor, picture: int) -> dict[str, NDArray[Any]]:
    """The passes of one picture as arrays for `CachedPicture`."""
    backbone, example = material.backbone, material.examples[picture]
    tokens: list[str | None] = [concept.placeholder_token for concept in example.concepts]
    prompts = material.prompts([example.full_prompt], [tokens])
    hidden = encode_prompts(backbone, prompts.distinct, rows)
    timesteps = torch.linspace(5, 995, PASSES).long()
    drawn = noise((2, PASSES, *backbone.latent_shape), 0, "e-step options", picture)
    latents = moments_of(example.moments, 0).sample(drawn[0])
    noisy = backbone.add_noise(latents, drawn[1], timesteps)
    found: dict[str, list[NDArray[np.float16]]] = {}
    looked = []
    side = backbone.latent_shape[-1]
    for band in range(BANDS):
        chosen = torch.nonzero(timesteps * BANDS // 1000 == band).flatten()
        with (
            record_attention(backbone, prompts.selector.expand(len(chosen), -1, -1)) as maps,
            record_affinity(backbone) as affinity,
        ):
            backbone.predict(noisy[chosen], timesteps[chosen], hidden.expand(len(chosen), -1, -1))
        for name, values in maps.maps.items():
            n = round(values.shape[-1] ** 0.5)
            square = values.flatten(0, 1).unflatten(-1, (n, n)).numpy()
            resized = resize_maps(square, side).reshape(len(chosen), len(tokens), side, side)
            found.setdefault(name, []).append(resized.astype(np.float16))
        looked.append(torch.stack(list(affinity.values())).mean(dim=(0, 1)).numpy().astype(np.float16))
    arrays: dict[str, NDArray[Any]] = {f"layer.{name}": np.concatenate(v) for name, v in found.items()}
    return arrays | {"timesteps": timesteps.numpy(), "affinity": np.stack(looked)}


def fill(backbone: Backbone, out: Path, sets: Sequence[BenchmarkSet], runs: Path | None) -> None:
    """Write what is missing of the cache."""
    out.mkdir(parents=True, exist_ok=True)
    config = resolve_config("builtin", {"method": "fixed", "layers": "all"})
    for one in sets:
        missing = [p for p in range(len(one.pictures)) if not (out / f"{one.name}-{p}.safetensors").exists()]
        if not missing:
            continue
        request = learn_request(one, backbone, config)
        material = prepare_material(request, backbone)
        start = None if runs is None else ConceptSet.load(runs / one.name)
        rows = starting_rows(backbone, request.concepts, config, start)
        by_name = {concept.name: concept for concept in one.concepts}
        for index in missing:
            example, picture = material.examples[index], one.pictures[index]
            concepts = [by_name[concept.name] for concept in example.concepts]
            truth = [square_frame_mask(picture.masks[concept.name], backbone.size) for concept in concepts]
            arrays = {"frame": square_frame(picture.pixels, backbone.size), "truth": np.stack(truth)}
            labels = {
                "set": one.name,
                "kinds": " ".join(concept.kind for concept in concepts),
                "splits": json.dumps([concept.split for concept in concepts]),
            }
            save_file(arrays | record(material, rows, index), out / f"{one.name}-{index}.safetensors", labels)
        print(one.name, flush=True)


def read(path: Path) -> CachedPicture:
    """One file of the cache."""
    with safe_open(path, "numpy") as stored:
        labels = stored.metadata()
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    return CachedPicture(
        labels["set"],
        arrays["frame"],
        arrays["truth"],
        tuple(labels["kinds"].split()),
        tuple(json.loads(labels["splits"])),
        arrays["timesteps"],
        {name.removeprefix("layer."): maps for name, maps in arrays.items() if name.startswith("layer.")},
        arrays["affinity"],
    )


class Scored(NamedTuple):
    """One concept's mask in one picture."""

    set_name: str
    kind: str
    split: str
    subjects: int
    """How many there are in the picture."""
    iou: float


class Scorer:
    """IoU of every concept of every picture under any option."""

    def __init__(self, pictures: Sequence[CachedPicture]) -> None:
        self.pictures = pictures
        self.crf = cache(self._crf)

    def _crf(self, index: int, settings: str, side: int) -> DenseCRF:
        config = resolve_config("builtin", {"crf": json.loads(settings)})
        return DenseCRF(square_frame(self.pictures[index].frame, side), config.crf.crf_config())

    def masks(self, option: Mapping[str, Any]) -> list[NDArray[np.bool_]]:
        """(K, H, W) masks of each picture, found by a CRF of (side, side) where the option has "crf_side"."""
        side = option.get("crf_side", len(self.pictures[0].frame))
        switches = {key: value for key, value in option.items() if key != "crf_side"}
        config = resolve_config("builtin", {"method": "paper", **switches})
        settings = config.crf.model_dump_json()
        found = []
        for index, picture in enumerate(self.pictures):
            concepts = [SimpleNamespace(kind=kind) for kind in picture.kinds]
            example = SimpleNamespace(concepts=concepts, crf=self.crf(index, settings, side), held=None)
            update = masks_from(cast(LearningExample, example), picture.mean(config), config, None)
            scale = len(picture.frame) // side
            found.append(update.masks.repeat(scale, axis=1).repeat(scale, axis=2))
        return found

    def bounds(self, option: Mapping[str, Any]) -> dict[str, list[NDArray[np.bool_]]]:
        """(K, H, W) masks of each picture from each cell's share of the true masks, by the ways of `BOUNDS`."""
        config = resolve_config("builtin", {"method": "paper", **option})
        found: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in BOUNDS}
        for picture in self.pictures:
            h, w = next(iter(picture.layers.values())).shape[2:]
            for name, masks in grid_bounds(
                picture.frame, picture.truth, picture.kinds, (h, w), config
            ).items():
                found[name].append(masks)
        return found

    def told(self, option: Mapping[str, Any], what: str) -> list[NDArray[np.bool_]]:
        """(K, H, W) masks of each picture from evidence as `told_evidence` changes it, without rescues."""
        config = resolve_config("builtin", {"method": "paper", **option})
        rules, found = config.mask_rules, []
        for index, picture in enumerate(self.pictures):
            crf = self.crf(index, config.crf.model_dump_json(), len(picture.frame))
            mean = picture.mean(config)
            maps = mean.maps
            if mean.affinity is not None:
                maps = propagate(maps, mean.affinity, config.propagation_steps)
            evidence = told_evidence(picture, evidence_of(maps, crf.size, rules), what)
            kinds = np.array(picture.kinds)
            behind = (kinds == "background") & rules.joint & rules.background_is_rest
            found.append(assign(evidence, crf, rules, behind, kinds == "subject", None)[1])
        return found

    def scored(self, masks: Sequence[NDArray[np.bool_]]) -> list[Scored]:
        """Each concept's IoU in each picture."""
        return [
            Scored(picture.set_name, kind, split, picture.kinds.count("subject"), float(iou(mask, true)))
            for picture, found in zip(self.pictures, masks, strict=True)
            for kind, split, mask, true in zip(
                picture.kinds, picture.splits, found, picture.truth, strict=True
            )
        ]

    def ious(self, option: Mapping[str, Any]) -> list[Scored]:
        """Of an option's masks."""
        return self.scored(self.masks(option))


def told(values: Sequence[float], sets: Sequence[str]) -> str:
    """Mean and interval."""
    interval = cluster_bootstrap(values, sets)
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def print_table(scorer: Scorer, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Means by kind, the time a picture's masks take, and the paired difference of subjects to the row before."""
    print(f"{'option':<40} {'subjects':<22} known novel  {'places':<22} ms  subjects against the row before")
    before: list[Scored] | None = None
    for name, option in options.items():
        begun = time.perf_counter()
        masks = scorer.masks(option)  # builds the CRFs' lattices
        begun = time.perf_counter()
        masks = scorer.masks(option)
        milliseconds = 1000 * (time.perf_counter() - begun) / len(masks)
        rows = scorer.scored(masks)
        subjects = [row for row in rows if row.kind == "subject"]
        places = [row for row in rows if row.kind != "subject"]
        splits = [
            float(np.mean([row.iou for row in subjects if row.split == split] or [np.nan]))
            for split in ("instance", "novel noun")
        ]
        line = (
            f"{name:<40} {told([row.iou for row in subjects], [row.set_name for row in subjects])}  {splits[0]:.3f}"
            f" {splits[1]:.3f} {told([row.iou for row in places], [row.set_name for row in places])}"
            f" {milliseconds:3.0f}"
        )
        if before is not None:
            pair = [[row.iou for row in rows_ if row.kind == "subject"] for rows_ in (rows, before)]
            difference = paired_cluster_bootstrap(pair[0], pair[1], [row.set_name for row in subjects])
            line += f"  {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        print(line, flush=True)
        before = rows


def told_evidence(picture: CachedPicture, evidence: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """Evidence (K, H, W) with what a true mask would add: "whose" a subject's pixel is, or what is the "rest"."""
    subjects = [k for k, kind in enumerate(picture.kinds) if kind == "subject"]
    told = evidence.copy()
    if what == "rest":
        things = [k for k, kind in enumerate(picture.kinds) if kind != "background"]
        return told + np.where(picture.truth[things].any(axis=0), 20, -20).astype(np.float32)
    for k in subjects if len(subjects) > 1 else ():
        others = picture.truth[[i for i in subjects if i != k]].any(axis=0)
        told[k] = np.where(
            picture.truth[k], evidence[subjects].max(axis=0), np.where(others, -5, evidence[k])
        )
    return told


def named_right(picture: CachedPicture, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The masks (K, H, W) with those of subjects exchanged among them so that they fit best."""
    subjects = [k for k, kind in enumerate(picture.kinds) if kind == "subject"]
    overlap = [[iou(masks[k], picture.truth[true]) for k in subjects] for true in subjects]
    named = masks.copy()
    if subjects:
        named[subjects] = masks[np.array(subjects)[linear_sum_assignment(overlap, maximize=True)[1]]]
    return named


def print_bounds(scorer: Scorer, option: Mapping[str, Any]) -> None:
    """What an option reaches of what the grid allows, and what it would if no subjects' masks were exchanged."""
    pictures, masks = scorer.pictures, scorer.masks(option)
    areas = [
        mask.mean()
        for p in pictures
        for kind, mask in zip(p.kinds, p.truth, strict=True)
        if kind == "subject"
    ]
    trivial = [
        trivial_masks(p.truth, cast(Sequence[ConceptKind], p.kinds), float(np.median(areas)))
        for p in pictures
    ]
    right = [named_right(p, found) for p, found in zip(pictures, masks, strict=True)]
    knowing = {what: scorer.told(option, what) for what in ("whose", "rest")}
    rows = {"reached": masks, "named right": right, **knowing, "trivial": trivial, **scorer.bounds(option)}
    scores = {name: scorer.scored(found) for name, found in rows.items()}
    groups: dict[str, Callable[[Scored], bool]] = {
        f"subjects, {count} in the picture": lambda row, count=count: (  # type: ignore[misc]
            row.kind == "subject" and row.subjects == count
        )
        for count in range(1, 1 + max(picture.kinds.count("subject") for picture in pictures))
    }
    groups |= {"subjects": lambda row: row.kind == "subject", "places": lambda row: row.kind != "subject"}
    print(f"\n{'':<28} masks {'reached':<20}  right whose rest  trivial " + " ".join(BOUNDS) + " share")
    for title, belongs in groups.items():
        chosen = {name: [row for row in found if belongs(row)] for name, found in scores.items()}
        if not chosen["reached"]:
            continue
        means = {name: float(np.mean([row.iou for row in found])) for name, found in chosen.items()}
        reached = chosen["reached"]
        best = max(means[name] for name in BOUNDS)
        above = (means["reached"] - means["trivial"]) / (best - means["trivial"])
        print(
            f"{title:<28} {len(reached):>5} {told([row.iou for row in reached], [row.set_name for row in reached])}"
            f"  {means['named right']:.3f} {means['whose']:.3f} {means['rest']:.3f} {means['trivial']:.3f}   "
            + " ".join(f"{means[name]:<10.3f}" for name in BOUNDS)
            + f" {means['reached'] / best:.3f}; above trivial {above:.3f}"
        )


def print_comparison(rows: Sequence[Scored], others: Sequence[Scored]) -> None:
    """The first rows against the others, of the same sets under another model, paired; cases of hard sets each."""
    if [row[:4] for row in rows] != [row[:4] for row in others]:
        raise SystemExit("the two caches do not hold the same sets: fill both with the same --sets or --hard")
    groups: dict[str, Callable[[Scored], bool]] = {
        "subjects": lambda row: row.kind == "subject",
        "places": lambda row: row.kind != "subject",
    }
    for case in CASES:
        groups[f"subjects: {case.title}"] = lambda row, name=case.name: (  # type: ignore[misc]
            row.kind == "subject" and row.set_name.split("-", 1)[1].rpartition("-")[0] == name
        )
    for title, belongs in groups.items():
        both = [pair for pair in zip(rows, others, strict=True) if belongs(pair[0])]
        if both:
            ious = [[pair[which].iou for pair in both] for which in (0, 1)]
            gain = paired_cluster_bootstrap(*ious, [row.set_name for row, _ in both])
            print(
                f"{title:<48} {len(both):>4}  {np.mean(ious[0]):.3f} against {np.mean(ious[1]):.3f}:"
                f" {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            )


def cached(folder: Path) -> Scorer:
    """A scorer of all pictures of a cache."""
    return Scorer([read(path) for path in sorted(folder.glob("*.safetensors"))])


def pairs(items: Sequence[str]) -> list[tuple[str, Any]]:
    """KEY=JSON arguments."""
    return [(key, json.loads(value)) for key, value in (item.split("=", 1) for item in items)]


def main() -> None:
    """Fill a cache, or score it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("cache")
    filling.add_argument("--out", type=Path, required=True)
    filling.add_argument("--sets", type=int, default=40)
    filling.add_argument("--hard", type=int, default=0, metavar="N")
    filling.add_argument("--model", default="builtin")
    filling.add_argument("--rows", type=Path)
    scoring = commands.add_parser("score")
    scoring.add_argument("cache", type=Path)
    scoring.add_argument("--against", type=Path, metavar="CACHE")
    scoring.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    scoring.add_argument("--vary", action="append", default=[], metavar="KEY=[JSON, ...]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "cache":
        cases = [case for case in CASES if case.name != "random"]
        benchmark = (
            hard_benchmark("dev", arguments.hard, cases=cases)
            if arguments.hard
            else builtin_benchmark("dev", arguments.sets)
        )
        backbone = load_backbone(arguments.model, device="cpu")
        fill(backbone, arguments.out, benchmark.sets, arguments.rows)
        return
    scorer = cached(arguments.cache)
    changes, varied = dict(pairs(arguments.set)), dict(pairs(arguments.vary))
    base = list(LADDER.values())[-1]
    if arguments.against is not None:
        print_comparison(scorer.ious(base), cached(arguments.against).ious(base))
        return
    if not changes and not varied:
        print_table(scorer, LADDER)
        print_bounds(scorer, base)
        return
    options = {"last rung": base}
    for values in product(*varied.values()):
        change = {**changes, **dict(zip(varied, values, strict=True))}
        if isinstance(change.get("crf"), dict):
            change["crf"] = {**base["crf"], **change["crf"]}
        options[", ".join(f"{key}={value}" for key, value in change.items())] = {**base, **change}
    print_table(scorer, options)


if __name__ == "__main__":
    main()
