"""Every choice of layers, threshold and CRF scale for the first masks, scored on dev scenes from cached maps.

    python benchmarks/mask_grid.py --scenes 32 [--after-em] [--model FOLDER] --log RESULTS.jsonl

Maps are those of stage 2 (the starting words, nothing learned), one per cross-attention layer; with `--after-em` those
of the tokens that `paper` ends with. The scenes (seed 2) are not those on which `mask_iou.py` measures. Rows are sorted
by the mean IoU of all concepts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from dev_scenes import ConceptScene, ResultLog, fresh_folder, two_subject_scene
from numpy.typing import NDArray

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.learning import CRFSettings, Finished, build_request, resolve_config, run
from conceptloom.learning.e_step import initial_maps
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.trainer import prepare_material
from conceptloom.masks import DenseCRF, MaskRules, iou, update_masks

TAUS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
SCALES = (0.5, 1.0, 2.0, 4.0)
GROUPS = {
    "all": ("down", "mid", "up"),
    "up_down": ("down", "up"),
    "up": ("up",),
    "down": ("down",),
    "mid": ("mid",),
}


def layer_maps(
    backbone: Backbone, scene: ConceptScene, after_em: Path | None
) -> dict[str, NDArray[np.float32]]:
    """(K, h, w) maps by layer: of the starting words or, given a scratch folder, of what `paper` learns."""
    config = resolve_config(family_of(backbone.version), {"method": "fixed", "layers": "all"})
    request = build_request([scene.picture], scene.words, config, backgrounds=backbone.backgrounds)
    material = prepare_material(request, backbone)
    if after_em is None:
        rows = starting_rows(backbone, request.concepts, config, request.start)
    else:
        quiet = {"preview_every": 0, "checkpoint_every": 1_000_000}
        paper = resolve_config(family_of(backbone.version), {"method": "paper", "train": "tokens", **quiet})
        *_, last = run(replace(request, config=paper), backbone, after_em)
        assert isinstance(last, Finished)
        rows = last.concept_set.rows()
    return {
        name: initial_maps(replace(material, map_layers=frozenset({name})), rows, 0, config).maps
        for name in sorted(material.map_layers)
    }


def scores(
    scene: ConceptScene, maps: NDArray[np.float32], crfs: dict[float, DenseCRF]
) -> dict[tuple[float, float], list[float]]:
    """IoU of each concept by threshold and CRF scale."""
    found = {}
    for tau, scale in product(TAUS, SCALES):
        masks = update_masks(maps, crfs[scale], MaskRules(tau), None, True).masks
        found[tau, scale] = [float(iou(a, b)) for a, b in zip(masks, scene.masks, strict=True)]
    return found


def main() -> None:
    """Score what is missing from the log, then print the best rows and the start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--after-em", action="store_true")
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, device="cpu")
    log = ResultLog(arguments.log)
    for index in range(arguments.scenes):
        if log.has(scene=index):
            continue
        scene = two_subject_scene(index, backbone.size, seed=2)
        scratch = fresh_folder(arguments.log.with_suffix(".scratch") / f"{index}")
        by_layer = layer_maps(backbone, scene, scratch if arguments.after_em else None)
        crfs = {
            scale: DenseCRF(scene.picture.pixels, CRFSettings(scale=scale).crf_config()) for scale in SCALES
        }
        for group, parts in GROUPS.items():
            chosen = [value for name, value in by_layer.items() if name.split("_")[0] in parts]
            for (tau, scale), values in scores(scene, np.mean(chosen, axis=0), crfs).items():
                log.add({"scene": index, "layers": group, "tau": tau, "scale": scale, "iou": values})
    print_table(log)


def print_table(log: ResultLog) -> None:
    """The twelve best settings and the start, means over scenes."""
    by_setting: dict[tuple[str, float, float], list[list[float]]] = {}
    for row in log.rows:
        by_setting.setdefault((row["layers"], row["tau"], row["scale"]), []).append(row["iou"])
    means = {
        setting: (float(np.mean([v[:2] for v in values])), float(np.mean([v[2] for v in values])))
        for setting, values in by_setting.items()
    }
    ranked = sorted(means, key=lambda setting: -(2 * means[setting][0] + means[setting][1]))
    print(f"{'layers':<8} {'tau':>5} {'scale':>5}  subjects  background")
    for setting in [*ranked[:12], ("all", 0.4, 1.0)]:
        layers, tau, scale = setting
        subjects, background = means[setting]
        print(f"{layers:<8} {tau:5.2f} {scale:5.1f}  {subjects:8.3f}  {background:10.3f}")


if __name__ == "__main__":
    main()
