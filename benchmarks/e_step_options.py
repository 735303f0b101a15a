"""Every E-step option on the dev sets of the built-in benchmark, scored in seconds from maps cached once.

    python benchmarks/e_step_options.py cache --out CACHE [--sets 40] [--model FOLDER] [--rows RUNS]
    python benchmarks/e_step_options.py score CACHE [--set KEY=JSON ...] [--vary KEY=JSON,JSON ...]

`cache` keeps, of every picture, 60 passes at timesteps spread evenly over the schedule, under the picture's full
prompt: the map of each concept in each cross-attention layer, and the up path's self-attention in bands of timesteps.
Tokens start from the sets' words; with `--rows` they are those of concept sets learned before (`RUNS/SETNAME`).
`score` prints the mask IoU of the ladder of parts, or of the last rung changed by `--set`, once for each value of
`--vary`. Masks are those of stage 2: nothing is learned. Intervals are paired 95 % bootstraps over sets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from conceptloom.backbone import Backbone, encode_prompts, load_backbone, record_affinity, record_attention
from conceptloom.concepts import ConceptSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.methods import learn_request
from conceptloom.evaluation.statistics import paired_cluster_bootstrap
from conceptloom.learning import LearnConfig, resolve_config
from conceptloom.learning.batches import Material, moments_of
from conceptloom.learning.e_step import MeanMaps, masks_from
from conceptloom.learning.example import LearningExample
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.presets import PRESETS
from conceptloom.learning.trainer import prepare_material
from conceptloom.masks import DenseCRF, iou, resize_maps
from conceptloom.pictures import square_frame, square_frame_mask
from conceptloom.seeding import noise

PASSES, BANDS = 60, 10
SOFT: dict[str, Any] = {
    "layers": "up_16",
    "crf": {"scale": 2.0},
    "normalise": "spread",
    "tau": 0.6,
    "crf_labels": "joint",
    "unary_temperature": 2.0,
}
REST: dict[str, Any] = SOFT | {"timestep_range": (0.3, 0.7), "background_is_rest": True}
FINE = REST | {"propagation_steps": 1, "crf": {"scale": 2.0, "bilateral_srgb": 8.0}}
LADDER: dict[str, Mapping[str, Any]] = {
    "paper's first masks": PRESETS["builtin"].masks["paper"],
    "fixed's first masks": PRESETS["builtin"].masks["fixed"],
    "+ spread, one CRF for all, soft unary": SOFT,
    "+ timesteps .3 to .7": SOFT | {"timestep_range": (0.3, 0.7)},
    "+ background is the rest": REST,
    "+ propagation": REST | {"propagation_steps": 1},
    "+ colour deviation 8": FINE,
    "+ pieces with half the peak": FINE | {"piece_peak": 0.5},
    "+ small holes filled": FINE | {"piece_peak": 0.5, "hole_share": 0.01},
}
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


def fill(backbone: Backbone, out: Path, sets: int, runs: Path | None) -> None:
    """Write what is missing of the cache."""
    out.mkdir(parents=True, exist_ok=True)
    config = resolve_config("builtin", {"method": "fixed", "layers": "all"})
    for one in builtin_benchmark("dev", sets).sets:
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


class Scorer:
    """IoU of every concept of every picture under any option."""

    def __init__(self, pictures: Sequence[CachedPicture]) -> None:
        self.pictures = pictures
        self.crf = cache(self._crf)

    def _crf(self, index: int, settings: str) -> DenseCRF:
        config = resolve_config("builtin", {"crf": json.loads(settings)})
        return DenseCRF(self.pictures[index].frame, config.crf.crf_config())

    def ious(self, option: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
        """(set, kind, split, IoU) of each concept in each picture."""
        config = resolve_config("builtin", {"method": "paper", **option})
        settings = config.crf.model_dump_json()
        rows = []
        for index, picture in enumerate(self.pictures):
            concepts = [SimpleNamespace(kind=kind) for kind in picture.kinds]
            example = SimpleNamespace(concepts=concepts, crf=self.crf(index, settings), held=None)
            update = masks_from(cast(LearningExample, example), picture.mean(config), config, None)
            for kind, split, mask, true in zip(
                picture.kinds, picture.splits, update.masks, picture.truth, strict=True
            ):
                rows.append((picture.set_name, kind, split, float(iou(mask, true))))
        return rows


def print_table(scorer: Scorer, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Means by kind, and the paired difference of subjects to the row before."""
    print(f"{'option':<44} subjects known novel  places  subjects against the row before")
    before: list[tuple[str, str, str, float]] | None = None
    for name, option in options.items():
        rows = scorer.ious(option)
        subjects = [row for row in rows if row[1] == "subject"]

        def mean(values: Sequence[tuple[str, str, str, float]]) -> float:
            return float(np.mean([row[3] for row in values])) if values else float("nan")

        known = [row for row in subjects if row[2] == "instance"]
        novel = [row for row in subjects if row[2] == "novel noun"]
        places = [row for row in rows if row[1] != "subject"]
        line = f"{name:<44} {mean(subjects):.3f}  {mean(known):.3f} {mean(novel):.3f} {mean(places):.3f}"
        if before is not None:
            pair = [[row[3] for row in rows_ if row[1] == "subject"] for rows_ in (rows, before)]
            difference = paired_cluster_bootstrap(pair[0], pair[1], [row[0] for row in subjects])
            line += f"  {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        print(line, flush=True)
        before = rows


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
    filling.add_argument("--model", default="builtin")
    filling.add_argument("--rows", type=Path)
    scoring = commands.add_parser("score")
    scoring.add_argument("cache", type=Path)
    scoring.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    scoring.add_argument("--vary", action="append", default=[], metavar="KEY=[JSON, ...]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "cache":
        fill(load_backbone(arguments.model, device="cpu"), arguments.out, arguments.sets, arguments.rows)
        return
    scorer = Scorer([read(path) for path in sorted(arguments.cache.glob("*.safetensors"))])
    changes, varied = dict(pairs(arguments.set)), dict(pairs(arguments.vary))
    if not changes and not varied:
        print_table(scorer, LADDER)
        return
    base = list(LADDER.values())[-1]
    options = {"last rung": base}
    for values in product(*varied.values()):
        change = {**changes, **dict(zip(varied, values, strict=True))}
        if isinstance(change.get("crf"), dict):
            change["crf"] = {**base["crf"], **change["crf"]}
        options[", ".join(f"{key}={value}" for key, value in change.items())] = {**base, **change}
    print_table(scorer, options)


if __name__ == "__main__":
    main()
