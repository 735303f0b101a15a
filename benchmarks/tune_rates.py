"""The grid behind the built-in preset's rates: `gt` masks (so that no E-step interferes), dev sets of seed 3.

    python benchmarks/tune_rates.py --sets 3 --token-lr 0.002,0.005,0.015 --log RESULTS.jsonl
    python benchmarks/tune_rates.py --sets 3 --token-lr 0.005 --joint-lr 2e-5,1e-4,3e-4 --log RESULTS.jsonl

Each set learns its tokens once per token rate and, from there, the joint stage once per joint rate. `right` is the
share of images in which the trainless judge puts what was asked first among all dev drawings; `margin` is the asked
drawing's score less the best other's (its lesser one where two are asked). The sets are not those on which
`learned_concepts.py` measures. Further keys: --set KEY=JSON.
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
from dev_scenes import ConceptScene, ResultLog, fresh_folder, two_subject_scene
from learned_concepts import PLACES, PROMPTS, SEEDS, prompt_text, verdicts
from numpy.typing import NDArray

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.concepts import ConceptSet
from conceptloom.generation import generate
from conceptloom.judges.names import NameCheck
from conceptloom.learning import Finished, build_request, resolve_config, run
from conceptloom.pictures import contact_sheet, write_webp
from conceptloom.scenes.sprites import load_sprites

QUIET = {"method": "gt", "preview_every": 0, "checkpoint_every": 1_000_000}


def learned(
    backbone: Backbone,
    scene: ConceptScene,
    overrides: dict[str, Any],
    start: ConceptSet | None,
    scratch: Path,
) -> ConceptSet:
    """The set that a run ends with."""
    config = resolve_config(family_of(backbone.version), {**QUIET, **overrides})
    words: dict[str, str | None] = {name: word for name, word in scene.words.items()}
    request = build_request([scene.picture], words, config, backgrounds=backbone.backgrounds, start=start)
    *_, last = run(request, backbone, scratch)
    assert isinstance(last, Finished)
    return last.concept_set


def margins(judge: NameCheck, scene: ConceptScene, images: list[NDArray[np.uint8]]) -> list[float]:
    """Asked drawing's score less the best other drawing's, one an image."""
    keys = [sprite.key for sprite in judge.sprites]
    found = []
    for number, pixels in enumerate(images):
        wanted = [
            keys.index(scene.sprites[("first", "second").index(n)].key) for n in PROMPTS[number // SEEDS]
        ]
        scores = judge.scores(pixels)
        found.append(float(scores[wanted].min() - np.delete(scores, wanted).max()))
    return found


def main() -> None:
    """Run what is missing from the log, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--token-lr", default="0.005")
    parser.add_argument("--joint-lr", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="Also draw each row's images (webp) into this folder.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, device="cpu")
    judge = NameCheck(load_sprites("dev"))
    log = ResultLog(arguments.log)
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in arguments.set)}
    prompts = [prompt_text(asked, place, None) for asked, place in zip(PROMPTS, PLACES, strict=True)]
    joint_rates = [None, *(float(text) for text in arguments.joint_lr.split(",") if text)]
    for index in range(arguments.sets):
        scene = two_subject_scene(index, backbone.size, seed=3)
        for token_lr in (float(text) for text in arguments.token_lr.split(",")):
            tokens: ConceptSet | None = None
            for joint_lr in joint_rates:
                key = {"set": index, "token_lr": token_lr, "joint_lr": joint_lr, "extra": extra}
                if log.has(**key):
                    continue
                scratch = fresh_folder(arguments.log.with_suffix(".scratch") / f"{len(log.rows)}")
                begun = time.perf_counter()
                if tokens is None:
                    only_tokens = {**extra, "token_lr": token_lr, "train": "tokens", "joint_steps": 0}
                    tokens = learned(backbone, scene, only_tokens, None, scratch / "tokens")
                result = tokens
                if joint_lr is not None:
                    joint = {**extra, "em_steps": 0, "joint_lr": joint_lr}
                    result = learned(backbone, scene, joint, tokens, scratch / "joint")
                images = [i.pixels for i in generate(result, prompts, num=SEEDS, seed=0, base_model=backbone)]
                row = {"right": verdicts(judge, scene, images), "margin": margins(judge, scene, images)}
                log.add({**key, **row, "sec": time.perf_counter() - begun})
                if arguments.sheet is not None:
                    sheet = contact_sheet([scene.picture.pixels, *images], columns=1 + len(images))
                    write_webp(arguments.sheet / f"{len(log.rows):03d}.webp", sheet)
    print_table(log)


def print_table(log: ResultLog) -> None:
    """Means over sets and images."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in log.rows:
        groups[f"{row['token_lr']:g} {row['joint_lr']} {json.dumps(row['extra'])}"].append(row)
    print(f"{'token_lr joint_lr further':<44} sets  one right  both right  margin one  margin both")
    for name, rows in groups.items():
        cut = 2 * SEEDS
        values = [
            np.mean([part for row in rows for part in row[what][where]])
            for what in ("right", "margin")
            for where in (slice(cut), slice(cut, None))
        ]
        print(f"{name:<44} {len(rows):>4}  " + "  ".join(f"{value:9.3f}" for value in values))


if __name__ == "__main__":
    main()
