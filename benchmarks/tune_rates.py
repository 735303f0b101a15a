"""How far to learn: rates and lengths of tokens and joint stage, judged by the examiner on images of dev sets.

    python benchmarks/tune_rates.py OUT --tokens NAME=JSON ... --joint NAME=JSON ... [--sets 20] [--method gt]

Each set learns its tokens once for every `--tokens`, a table of switches of `LearnConfig`, and from there the joint
stage once for every `--joint`; it draws after both ("none" is no joint stage). Sets are those of the built-in benchmark
from number 20 on, which an evaluation learns masks of and draws no images: what is compared there is not what was
tuned on. By default masks are the true ones (`gt`), so that no E-step interferes. Finished runs stay in OUT and are not
repeated; sets with a fixed number, as `--only 1/2`, are shared out between two processes. `--table` only prints, with
every run less that of the first `--tokens` and `--joint` on the same images. Intervals are 95 % bootstraps over nouns,
or over sets where an image counts as a whole.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import fresh_folder

from conceptloom.backbone import Backbone, family_of, load_backbone
from conceptloom.concepts import ConceptSet
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_findings import set_up_judge
from conceptloom.evaluation.image_rows import drift_rows, image_rows, paired_rows
from conceptloom.evaluation.image_scores import ImageScore, score_images
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, load_unit, save_unit
from conceptloom.generation import generate_images
from conceptloom.learning import DriftMeasured, Finished, build_request, resolve_config, run
from conceptloom.pictures import contact_sheet, write_webp

FIRST_SET = 20
"""Sets before are those of which an evaluation draws images."""
QUIET = {"preview_every": 0, "checkpoint_every": 1_000_000}
TOLD = (
    "identity",
    "present",
    "style kept",
    "learned place right",
    "known place right",
    "known thing",
    "relation true",
    "mixing",
    "diversity",
    "copy similarity",
    "overall",
)
Options = Mapping[str, Mapping[str, Any]]


def learned(
    backbone: Backbone,
    one: BenchmarkSet,
    overrides: Mapping[str, Any],
    start: ConceptSet | None,
    scratch: Path,
) -> tuple[ConceptSet, tuple[float, float] | None]:
    """What a run ends with, and its drift."""
    request = build_request(
        one.pictures,
        one.words,
        resolve_config(family_of(backbone.version), {**QUIET, **overrides}),
        contains=one.contains,
        prompts=one.captions,
        kinds=one.kinds,
        backgrounds=backbone.backgrounds,
        start=start,
    )
    drift = None
    for event in run(request, backbone, fresh_folder(scratch)):
        if isinstance(event, DriftMeasured):
            drift = (event.before, event.after)
    assert isinstance(event, Finished)
    return event.concept_set, drift


def fill(
    backbone: Backbone,
    one: BenchmarkSet,
    method: MethodName,
    tokens: Options,
    joints: Options,
    prompts: int,
    out: Path,
) -> None:
    """Run what is missing of one set."""
    scratch = out / f".{one.name}.scratch"
    for name, switches in tokens.items():
        keys = {joint: UnitKey(one.name, method, 0, f"{name}-{joint}") for joint in ("none", *joints)}
        missing = {joint: key for joint, key in keys.items() if not has_unit(key, out)}
        if not missing:
            continue
        begun = time.perf_counter()
        common = {"method": method, **switches}
        start, _ = learned(
            backbone, one, {**common, "train": "tokens", "joint_steps": 0}, None, scratch / "tokens"
        )
        took = time.perf_counter() - begun
        for joint, key in missing.items():
            begun, found, drift = time.perf_counter(), start, None
            if joint != "none":
                further = {**common, "em_steps": 0, **joints[joint]}
                found, drift = learned(backbone, one, further, start, scratch / "joint")
            middle = time.perf_counter()
            images = {
                (number, index): image.pixels
                for number in range(prompts)
                for index, image in enumerate(
                    generate_images(backbone, found, [one.prompt(number).text], num=2, seed=0)
                )
            }
            seconds = {"learn": took + middle - begun, "draw": time.perf_counter() - middle}
            save_unit(UnitResult(key, (), images, seconds, drift), out)
            print(key.folder_name, {what: round(value) for what, value in seconds.items()}, flush=True)


def print_table(benchmark: Benchmark, out: Path, runs: list[tuple[MethodName, str]]) -> None:
    """Means of what the examiner says of every run's images, and the difference to the first run's."""
    units = {
        (run_, one.name): load_unit(key, out)
        for run_ in runs
        for one in benchmark.sets[FIRST_SET:]
        if has_unit(key := UnitKey(one.name, run_[0], 0, run_[1]), out)
    }
    done = [one for one in benchmark.sets[FIRST_SET:] if all((run_, one.name) in units for run_ in runs)]
    if len(done) < 2:
        raise SystemExit("fewer than two sets have all of these runs")
    bench = set_up_judge(benchmark)
    scores: dict[tuple[MethodName, str], list[ImageScore]] = defaultdict(list)
    for run_ in runs:
        for one in done:
            unit = units[run_, one.name]
            scores[run_] += score_images(one, unit, one.prompts, bench.found[one.name], bench.judge)
    print(f"{len(done)} sets; of all sets up to the last of them, real pictures and another set's subjects:")
    for name, row in image_rows(bench.sanity, lambda score, _: score.method).items():
        print(
            f"  {name:<14}", *(f"{what} {row[what].mean.value:.3f}" for what in TOLD if what in row), sep="  "
        )
    drifts = drift_rows(units[run_, one.name] for run_ in runs for one in done)
    for run_ in runs:
        rows = image_rows(scores[run_], lambda score, _: score.method)[run_[0]]
        changes = paired_rows(scores[run_], scores[runs[0]])
        seconds = np.mean([units[run_, one.name].seconds["learn"] for one in done])
        drift = drifts[run_].mean.value if run_ in drifts else 0.0
        print(f"\n{run_[0]} {run_[1]}: {seconds:.0f} s of learning a set, drift {drift:+.4f}")
        for what in TOLD:
            if what in rows:
                mean, change = rows[what].mean, changes[what].change.mean
                print(
                    f"  {what:<20} {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
                    f"   {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
                )


def print_sheets(benchmark: Benchmark, out: Path, runs: list[tuple[MethodName, str]], folder: Path) -> None:
    """A sheet a set: its pictures, then a row of its prompts' first images for each run."""
    for one in benchmark.sets[FIRST_SET:]:
        keys = [UnitKey(one.name, method, 0, variant) for method, variant in runs]
        if not all(has_unit(key, out) for key in keys):
            continue
        drawn = [load_unit(key, out).images for key in keys]
        columns = sum(index == 0 for _, index in drawn[0])
        own = [picture.pixels for picture in one.pictures]
        blank = [np.full_like(own[0], 255)] * (columns - len(own))
        rows = [image for images in drawn for (_, index), image in images.items() if index == 0]
        write_webp(folder / f"{one.name}.webp", contact_sheet([*own, *blank, *rows], columns=columns))


def options(texts: list[str]) -> dict[str, dict[str, Any]]:
    """NAME=JSON arguments."""
    return {name: json.loads(values) for name, _, values in (text.partition("=") for text in texts)}


def main() -> None:
    """Run what is missing in OUT, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", choices=["gt", "fixed", "paper", "refined"], default="gt")
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--only", default="1/1", metavar="PART/PARTS")
    parser.add_argument("--tokens", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--joint", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--sheets", type=Path, help="Also draw the images (webp) into this folder.")
    arguments = parser.parse_args()
    tokens, joints = options(arguments.tokens or ["preset={}"]), options(arguments.joint)
    benchmark = builtin_benchmark("dev", FIRST_SET + arguments.sets)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not arguments.table:
        backbone = load_backbone(arguments.model, device="cpu", dtype=arguments.dtype)
        part, parts = (int(number) for number in arguments.only.split("/"))
        for one in benchmark.sets[FIRST_SET:][part - 1 :: parts]:
            fill(backbone, one, arguments.method, tokens, joints, arguments.prompts, arguments.out)
    else:
        runs = [(arguments.method, f"{name}-{joint}") for name in tokens for joint in (*joints, "none")]
        print_table(benchmark, arguments.out, runs)
        if arguments.sheets is not None:
            print_sheets(benchmark, arguments.out, runs, arguments.sheets)


if __name__ == "__main__":
    main()
