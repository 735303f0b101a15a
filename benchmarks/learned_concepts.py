"""Learned concepts in new pictures: how often the trainless judge puts the asked drawing first among all dev sprites.

    python benchmarks/learned_concepts.py --sets 10 --log RESULTS.jsonl --sheet SHEET.webp [--set KEY=JSON ...]

A set is one picture of two subjects on a photograph. Three prompts (each subject alone on a new background, both on
another) x four seeds, for `gt`, `fixed`, `paper` and `words` (the base model with the starting words, nothing
learned). One concept: the asked drawing scores best. Both: the two asked drawings are the two best. Identical
scenes, prompts, seeds and starting noise for every method; intervals resample sets.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import ConceptScene, ResultLog, bootstrap, fresh_folder, two_subject_scene
from numpy.typing import NDArray
from PIL import Image

from conceptloom.backbone import Backbone, encode_prompts, family_of, load_backbone, sample, tokenize
from conceptloom.generation import generate
from conceptloom.judges.names import NameCheck
from conceptloom.learning import Finished, build_request, resolve_config, run
from conceptloom.pictures import contact_sheet, write_webp
from conceptloom.scenes.sprites import load_sprites

METHODS = ("gt", "fixed", "paper", "words")
PROMPTS = (("first",), ("second",), ("first", "second"))
PLACES = ("grass", "beach", "wood")
SEEDS = 4


def prompt_text(asked: tuple[str, ...], place: str, words: dict[str, str] | None) -> str:
    """The prompt with placeholders, or with class words where nothing is learned."""
    spoken = [f"<{name}>" if words is None else f"a {words[name]}" for name in asked]
    return f"a photo of {' and '.join(spoken)} on {place}"


def draw(
    backbone: Backbone, scene: ConceptScene, method: str, overrides: dict[str, Any], scratch: Path
) -> list[NDArray[np.uint8]]:
    """The set's pictures, prompt by prompt, seed by seed."""
    if method == "words":
        return _draw_words(backbone, scene)
    config = resolve_config(family_of(backbone.version), {"method": method, **overrides})
    request = build_request([scene.picture], scene.words, config, backgrounds=backbone.backgrounds)
    for event in run(request, backbone, scratch):
        if isinstance(event, Finished):
            learned = event.concept_set
    prompts = [prompt_text(asked, place, None) for asked, place in zip(PROMPTS, PLACES, strict=True)]
    return [image.pixels for image in generate(learned, prompts, num=SEEDS, seed=0, base_model=backbone)]


def _draw_words(backbone: Backbone, scene: ConceptScene) -> list[NDArray[np.uint8]]:
    from conceptloom.generation.settings import resolve_settings

    settings = resolve_settings(backbone.version)
    negative = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    images: list[NDArray[np.uint8]] = []
    for asked, place in zip(PROMPTS, PLACES, strict=True):
        prompt = tokenize(backbone, prompt_text(asked, place, scene.words), {})
        hidden = encode_prompts(backbone, [prompt], None).expand(SEEDS, -1, -1)
        latents = sample(
            backbone,
            hidden,
            negative,
            [(0, "generate", index) for index in range(SEEDS)],
            guidance_scale=settings.guidance_scale,
            num_inference_steps=settings.num_inference_steps,
        )
        images += list(backbone.decode(latents))
    return images


def verdicts(judge: NameCheck, scene: ConceptScene, images: list[NDArray[np.uint8]]) -> list[bool]:
    """For each picture, whether the asked drawings are the best."""
    keys = [sprite.key for sprite in judge.sprites]
    right = []
    for number, pixels in enumerate(images):
        asked = PROMPTS[number // SEEDS]
        wanted = {scene.sprites[("first", "second").index(name)].key for name in asked}
        best = np.argsort(-judge.scores(pixels))[: len(wanted)]
        right.append({keys[int(index)] for index in best} == wanted)
    return right


def main() -> None:
    """Run what is missing from the log, then print the table and write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, device="cpu")
    judge = NameCheck(load_sprites("dev"))
    log = ResultLog(arguments.log)
    extra = {key: json.loads(value) for key, value in (item.split("=", 1) for item in arguments.set)}
    overrides = {"seed": arguments.seed, "preview_every": 0, "checkpoint_every": 1_000_000, **extra}
    for index in range(arguments.sets):
        scene = two_subject_scene(index, backbone.size, seed=1)
        for method in arguments.methods.split(","):
            if log.has(set=index, method=method):
                continue
            scratch = fresh_folder(arguments.log.with_suffix(".scratch") / f"{method}-{index}")
            begun = time.perf_counter()
            images = draw(backbone, scene, method, overrides, scratch)
            row = {"set": index, "method": method, "right": verdicts(judge, scene, images)}
            log.add(
                {**row, "sec": time.perf_counter() - begun, "images": [_encode(pixels) for pixels in images]}
            )
    print_table(log)
    if arguments.sheet is not None:
        write_sheet(log, backbone.size, arguments.sheet)


def print_table(log: ResultLog) -> None:
    """Shares with 95 % bootstrap over sets, and `paper` minus `words` paired by set."""
    single: dict[str, dict[int, float]] = defaultdict(dict)
    both: dict[str, dict[int, float]] = defaultdict(dict)
    for row in log.rows:
        single[row["method"]][row["set"]] = float(np.mean(row["right"][: 2 * SEEDS]))
        both[row["method"]][row["set"]] = float(np.mean(row["right"][2 * SEEDS :]))
    print(f"{'method':<12} {'sets':>4}  one concept               both at once")
    for method in single:
        columns = [_interval(list(share[method].values())) for share in (single, both)]
        print(f"{method:<12} {len(single[method]):>4}  {columns[0]}   {columns[1]}")
    paired = sorted(set(single["paper"]) & set(single["words"]))
    if paired:
        columns = [
            _interval([share["paper"][i] - share["words"][i] for i in paired]) for share in (single, both)
        ]
        print(f"{'paper-words':<12} {len(paired):>4}  {columns[0]}   {columns[1]}")


def write_sheet(log: ResultLog, side: int, path: Path) -> None:
    """One row a set and method: the learned picture, then every generated one; a star marks a right one."""
    images, labels = [], []
    for row in sorted(log.rows, key=lambda row: (row["set"], METHODS.index(row["method"]))):
        scene = two_subject_scene(row["set"], side, seed=1)
        images.append(scene.picture.pixels)
        labels.append(f"{row['set']} {row['method']}")
        images += [_decode(text) for text in row["images"]]
        asked = [
            " + ".join(scene.sprites[("first", "second").index(n)].noun for n in PROMPTS[i // SEEDS])
            for i in range(12)
        ]
        labels += [f"{'* ' if right else ''}{text}" for right, text in zip(row["right"], asked, strict=True)]
    write_webp(path, contact_sheet(images, columns=1 + len(PROMPTS) * SEEDS, labels=labels))


def _encode(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _decode(text: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB"))


def _interval(values: list[float]) -> str:
    mean, low, high = bootstrap(values)
    return f"{mean:6.3f} [{low:6.3f}, {high:6.3f}]"


if __name__ == "__main__":
    main()
