"""What an evaluation will take, told before it starts: from units that are done, else from timing a few steps."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from conceptloom.backbone import Backbone, encode_prompts, family_of, sample, tokenize
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.methods import MethodName, learn_request, method_config
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.units import RECORD, UnitKey, read_record
from conceptloom.generation import resolve_settings
from conceptloom.learning import estimate

ROUNDS = 3
"""Of timing one denoising step and decoding."""


@dataclass(frozen=True)
class UnitCost:
    """Seconds of learning a unit, and of drawing one image (None where none was drawn)."""

    learn: float
    image: float | None


def plan_seconds(tasks: Sequence[Task], seconds_per_unit: Mapping[UnitKey, float], workers: int = 1) -> float:
    """Wall seconds of tasks run by so many workers: all of their work shared, but no less than the longest takes.

    Workers share the memory's bandwidth: seconds measured with one alone make this a lower bound for several.
    """
    seconds = [seconds_per_unit[task.key] for task in tasks]
    return max(sum(seconds) / workers, max(seconds, default=0.0))


def estimate_tasks(
    tasks: Sequence[Task], benchmark: Benchmark, backbone: Backbone, units: Path, *, threads: int = 1
) -> dict[UnitKey, float]:
    """Seconds of one worker's time that each task will take.

    Taken from the finished units of the same method and variant, medians of learning and of drawing an image. Where
    there is none, learning is estimated once for each method and its changed switches on a set of middling size
    (`learning.estimate`), and an image takes what other units' images took, else what timing a batch says. The base
    model's own images, drawn once and kept, are counted for every unit that would have to draw them now.

    Args:
        tasks: what is to run.
        benchmark: holds the tasks' sets.
        backbone: the base model; nothing of it is changed.
        units: folder of the finished units; it need not exist.
        threads: of a worker (`runner.worker_threads`): what is timed here is timed with as many.

    Raises:
        ConceptloomError: learning could not begin.
    """
    known = finished_costs(units)
    named = {task.key.set for task in tasks}
    typical = typical_set([one for one in benchmark.sets if one.name in named]) if named else None
    family = family_of(backbone.version)

    @cache
    def learning(method: MethodName, changed: str) -> float:
        assert typical is not None
        if method == "words":
            return 0.0
        config = method_config(family, method, 0, json.loads(changed))
        return estimate(learn_request(typical, backbone, config), backbone).total_seconds

    @cache
    def drawing() -> float:
        told = [cost.image for cost in known.values() if cost.image is not None]
        return median(told) if told else image_seconds(backbone)

    seconds = {}
    with _threads(threads):
        for task in tasks:
            key = task.key
            if (cost := known.get((key.method, key.variant))) is None:
                cost = UnitCost(learning(key.method, json.dumps(task.overrides, sort_keys=True)), None)
            seconds[key] = cost.learn
            if task.images:
                seconds[key] += task.images * (drawing() if cost.image is None else cost.image)
    return seconds


def finished_costs(units: Path) -> dict[tuple[str, str], UnitCost]:
    """By method and variant, what the finished units in a folder took, in medians; units that cannot be read or whose
    learning ended early are left out.
    """
    learn: dict[tuple[str, str], list[float]] = defaultdict(list)
    image: dict[tuple[str, str], list[float]] = defaultdict(list)
    for path in sorted(units.glob(f"[!.]*/{RECORD}")):
        try:
            record = read_record(path)
        except (OSError, ValueError):
            continue
        if record.diverged is not None:
            continue
        kind = record.unit.method, record.unit.variant
        learn[kind].append(record.seconds.learn)
        if record.images:
            image[kind].append(record.seconds.draw / len(record.images))
    return {
        kind: UnitCost(median(found), median(image[kind]) if image[kind] else None)
        for kind, found in learn.items()
    }


def typical_set(sets: Iterable[BenchmarkSet]) -> BenchmarkSet:
    """The one of middling size, by its pictures and then its concepts."""
    ordered = sorted(sets, key=lambda one: (one.num_pictures, len(one.concepts)))
    return ordered[len(ordered) // 2]


def image_seconds(backbone: Backbone) -> float:
    """Seconds of one image when a full batch is drawn: one denoising step is timed and taken as often as there are
    steps, and decoding is added. The pictures are thrown away.
    """
    settings = resolve_settings(backbone.version)
    count = settings.batch_size
    hidden = encode_prompts(backbone, [tokenize(backbone, "", {})], None)

    def step_and_decoding() -> tuple[float, float]:
        begun = perf_counter()
        latents = sample(
            backbone,
            hidden.expand(count, -1, -1),
            hidden,
            [(0, "cost", index) for index in range(count)],
            guidance_scale=settings.guidance_scale,
            num_inference_steps=1,
        )
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        stepped = perf_counter()
        backbone.decode(latents)
        return stepped - begun, perf_counter() - stepped

    step_and_decoding()  # the first one also pays for what libraries prepare once
    timed = [step_and_decoding() for _ in range(ROUNDS)]
    step, decoding = median(step for step, _ in timed), median(decoding for _, decoding in timed)
    return (settings.num_inference_steps * step + decoding) / count


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
