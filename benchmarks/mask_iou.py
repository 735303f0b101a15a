"""Mask IoU on dev two-subject scenes: `fixed`, `paper`, `literal`, and the rows `oracle` and `trivial`.

    python benchmarks/mask_iou.py --scenes 40 --literal-scenes 6 --log RESULTS.jsonl [--set KEY=JSON ...]

`oracle` sends the true masks through the latent grid, the enlargement, the threshold at one half and the CRF.
`trivial` is the whole picture for a background and a centred disc of the median subject area for a subject.
Stage 4 is left out: it freezes the masks. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import ConceptScene, ResultLog, bootstrap, fresh_folder, two_subject_scene
from numpy.typing import NDArray

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.learning import CRFSettings, MasksUpdated, build_request, resolve_config, run
from conceptloom.masks import DenseCRF, area_to_grid, iou, update_masks

DISC_AREA = 0.09


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


def oracle_masks(backbone: Backbone, scene: ConceptScene, settings: CRFSettings) -> NDArray[np.bool_]:
    """True masks through the latent grid and back."""
    grid = area_to_grid(scene.masks, backbone.latent_shape[1:])
    crf = DenseCRF(scene.picture.pixels, settings.crf_config())
    return update_masks(grid, crf, 0.5, None, True).masks


def trivial_masks(scene: ConceptScene) -> NDArray[np.bool_]:
    """Centred discs for the subjects, the whole picture for the background."""
    side = scene.masks.shape[1]
    y, x = np.mgrid[0:side, 0:side] + 0.5
    disc = np.hypot(y - side / 2, x - side / 2) <= side * np.sqrt(DISC_AREA / np.pi)
    return np.stack([disc, disc, np.ones_like(disc)])


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
    for index in range(arguments.scenes):
        scene = two_subject_scene(index, backbone.size)
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
        for method, masks in (
            ("oracle", oracle_masks(backbone, scene, resolve_config("builtin", {"method": "fixed"}).crf)),
            ("trivial", trivial_masks(scene)),
        ):
            if not log.has(scene=index, method=method):
                values = [float(iou(a, b)) for a, b in zip(masks, scene.masks, strict=True)]
                log.add({"scene": index, "method": method, "start": values, "end": values})
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
