"""Mask IoU on dev two-subject scenes: `fixed`, `paper`, `literal`, and the rows `oracle` and `trivial`.

    python benchmarks/mask_iou.py --scenes 40 --literal-scenes 6 --log RESULTS.jsonl [--set KEY=JSON ...]

`oracle` and `trivial` are an evaluation's own (`conceptloom.evaluation.mask_references`): true masks through the latent
grid and the CRF; the whole picture for a background, a centred disc of the other scenes' median area for a subject.
Stage 4 is left out: it freezes the masks. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import ConceptScene, ResultLog, bootstrap, fresh_folder, two_subject_scene

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.mask_references import ORACLE, TRIVIAL, reference_masks
from conceptloom.learning import CRFSettings, MasksUpdated, build_request, resolve_config, run
from conceptloom.masks import iou

REFERENCES = (ORACLE, TRIVIAL)


def learned_masks(
    backbone: Backbone, scene: ConceptScene, overrides: dict[str, Any], scratch: Path
) -> dict[str, Any]:
    """Masks at the start and at the end of a run (3, H, W each), IoU by E-step, rescues, seconds."""
    config = resolve_config(family_of(backbone.version), overrides)
    request = build_request([scene.picture], scene.words, config, backgrounds=backbone.backgrounds)
    begun = time.perf_counter()
    curve: list[list[float]] = []
    rescues = 0
    for event in run(request, backbone, scratch):
        if isinstance(event, MasksUpdated):
            curve.append([float(iou(a, b)) for a, b in zip(event.masks, scene.masks, strict=True)])
            rescues += len(event.rescued)
    return {
        "start": curve[0],
        "end": curve[-1],
        "curve": curve,
        "rescues": rescues,
        "sec": time.perf_counter() - begun,
    }


def add_references(
    backbone: Backbone, scenes: Sequence[ConceptScene], settings: CRFSettings, log: ResultLog
) -> None:
    """The rows `oracle` and `trivial` of every scene, as an evaluation makes them."""
    ious: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    latent = (backbone.latent_shape[1], backbone.latent_shape[2])
    for mask in reference_masks(as_benchmark(scenes), backbone.size, latent, settings.crf_config()):
        ious[mask.method, mask.set][mask.concept.name] = mask.score.iou
    for index, scene in enumerate(scenes):
        for method in REFERENCES:
            if not log.has(scene=index, method=method):
                values = [ious[method, scene.name][name] for name in scene.words]
                log.add({"scene": index, "method": method, "start": values, "end": values})


def as_benchmark(scenes: Sequence[ConceptScene]) -> Benchmark:
    """The scenes as sets of one picture, without prompts."""
    sets = []
    for scene in scenes:
        first, second, place = scene.words
        concepts = (
            *(
                TrueConcept(
                    name,
                    scene.words[name],
                    "subject",
                    sprite.noun,
                    sprite.family,
                    "instance",
                    sprite.class_word,
                )
                for name, sprite in zip((first, second), scene.sprites, strict=True)
            ),
            TrueConcept(place, scene.words[place], "background", scene.words[place], None, "place", "place"),
        )
        contains = {scene.picture.name: tuple(scene.words)}
        sets.append(BenchmarkSet(scene.name, (scene.picture,), concepts, contains, (), "photo"))
    return Benchmark("two subjects", "dev", tuple(sets))


def main() -> None:
    """Run what is missing from the log, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--literal-scenes", type=int, default=6)
    parser.add_argument("--methods", default="fixed,paper,literal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, device="cpu")
    log = ResultLog(arguments.log)
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in arguments.set)}
    common = {
        "seed": arguments.seed,
        "train": "tokens",
        "preview_every": 0,
        "checkpoint_every": 1_000_000,
        **extra,
    }
    scenes = [two_subject_scene(index, backbone.size) for index in range(arguments.scenes)]
    for index, scene in enumerate(scenes):
        for method in arguments.methods.split(","):
            if log.has(scene=index, method=method) or (
                method == "literal" and index >= arguments.literal_scenes
            ):
                continue
            overrides = {"method": method, **common}
            if method == "fixed":
                overrides["em_steps"] = 0
            scratch = fresh_folder(arguments.log.with_suffix(".scratch") / f"{method}-{index}")
            log.add({"scene": index, "method": method, **learned_masks(backbone, scene, overrides, scratch)})
    if not all(log.has(scene=index, method=method) for index in range(len(scenes)) for method in REFERENCES):
        add_references(backbone, scenes, resolve_config("builtin", {"method": "fixed"}).crf, log)
    print_table(log)


def print_table(log: ResultLog) -> None:
    """Means with 95 % bootstrap over scenes; `paper` minus `fixed` paired by scene."""
    ends: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for row in log.rows:
        ends[row["method"]][row["scene"]] = row["end"]
    print(f"{'method':<10} {'scenes':>6}  subjects IoU             background IoU")
    for method, scenes in ends.items():
        subjects = bootstrap([float(np.mean(values[:2])) for values in scenes.values()])
        background = bootstrap([values[2] for values in scenes.values()])
        print(f"{method:<10} {len(scenes):>6}  {_interval(subjects)}   {_interval(background)}")
    both = sorted(set(ends["paper"]) & set(ends["fixed"]))
    if both:
        subjects = bootstrap(
            [float(np.mean(ends["paper"][i][:2]) - np.mean(ends["fixed"][i][:2])) for i in both]
        )
        background = bootstrap([ends["paper"][i][2] - ends["fixed"][i][2] for i in both])
        print(f"{'paper-fixed':<10} {len(both):>5}  {_interval(subjects)}   {_interval(background)}")


def _interval(values: tuple[float, float, float]) -> str:
    mean, low, high = values
    return f"{mean:6.3f} [{low:6.3f}, {high:6.3f}]"


if __name__ == "__main__":
    main()
