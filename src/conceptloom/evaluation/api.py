"""One evaluation from its request to its report: what the command line and Python callers share."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from conceptloom.backbone import Backbone, family_of
from conceptloom.errors import ConfigError, RunError
from conceptloom.evaluation.assembly import Findings, build_report
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.builtin_sets import BuiltinSplit, builtin_benchmark
from conceptloom.evaluation.coco_format import ANNOTATIONS, write_benchmark
from conceptloom.evaluation.coco_selection import coco_benchmark
from conceptloom.evaluation.folder_sets import folder_benchmark
from conceptloom.evaluation.image_findings import (
    Bench,
    judge_fingerprint,
    judge_images,
    parts_images,
    set_up_judge,
)
from conceptloom.evaluation.image_sanity import stranger
from conceptloom.evaluation.image_tables import Judged
from conceptloom.evaluation.margins import (
    BUILTIN,
    MARGINS,
    Margin,
    kept_margin,
    load_margin,
    margin_key,
    save_margin,
    shipped_margin,
)
from conceptloom.evaluation.methods import (
    BASELINE,
    METHODS,
    TRUTH,
    MethodName,
    finds_masks,
    method_config,
    our_method,
)
from conceptloom.evaluation.parts import PartRow, parts_plan, parts_table
from conceptloom.evaluation.plan import FULL, MASKS, SMOKE, STUDIES, Size, Task, comparison_plan
from conceptloom.evaluation.protocols import PROTOCOLS, Method
from conceptloom.evaluation.report import Report
from conceptloom.evaluation.runner import BaseModel, UnitDone, missing_tasks, run_tasks
from conceptloom.evaluation.study_bundle import export_study_bundle
from conceptloom.evaluation.study_export import POPULATION_SEED, study_comparisons
from conceptloom.evaluation.units import UnitResult, has_unit, load_unit
from conceptloom.evaluation.use_log import log_use, use_log
from conceptloom.judges.features import load_feature_judge
from conceptloom.runs import expanded, provenance, require_place, write_json_atomic

BenchmarkName = Literal["builtin", "coco", "folder"]
BENCHMARKS: tuple[BenchmarkName, ...] = get_args(BenchmarkName)
DEFAULT_METHODS: tuple[MethodName, ...] = ("gt", "fixed", "paper", "refined", "inversion", "words")
DESCRIPTION = "evaluation.json"
UNITS = "units"
SETS = "benchmark"
"""What was measured, in COCO format."""
FORCED_CHOICE = "Forced choice"
"""The fact that says why there is none."""


@dataclass(frozen=True)
class JudgeChoice:
    """Which judge looks at images, as `load_feature_judge` takes it."""

    name: str
    folder: Path | None = None


@dataclass(frozen=True, eq=False)
class EvaluationJob:
    """A checked request: what runs, where it is kept, and what is done already.

    Attributes:
        benchmark: the sets.
        methods: in the tables' order.
        size: how much runs.
        comparison: tasks of the comparison of methods.
        parts: tasks of the table "Parts"; those of `paper` are among the comparison's.
        base: the base model.
        backbone: the same, loaded.
        judge: who looks at the images; None where nobody does.
        margin: the neutral margin, where it was fixed before.
        out: folder of the evaluation.
        study: protocol of the study for people that it draws for, None where it draws for none.
    """

    benchmark: Benchmark
    methods: tuple[MethodName, ...]
    size: Size
    comparison: tuple[Task, ...]
    parts: tuple[Task, ...]
    base: BaseModel
    backbone: Backbone
    judge: JudgeChoice | None
    margin: Margin | None
    out: Path
    study: str | None = None

    @property
    def units(self) -> Path:
        """Folder of the finished units."""
        return self.out / UNITS

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, each once, in the order in which they run."""
        return tuple({task.key: task for task in (*self.comparison, *self.parts)}.values())

    @property
    def missing(self) -> tuple[Task, ...]:
        """Tasks that are not done."""
        return missing_tasks(self.tasks, self.units)

    @property
    def margin_tasks(self) -> tuple[Task, ...]:
        """Those whose images the neutral margin is measured on: our method's at both seeds."""
        ours = [
            task for task in self.comparison if task.key.method == our_method(self.methods) and task.images
        ]
        again = {task.key.set for task in ours if task.key.seed == 1}
        return tuple(task for task in ours if task.key.set in again)

    @property
    def missing_margin(self) -> str | None:
        """Why test images are not voted on, and what to run, in a line; None where the margin is there or not needed.

        It is told, not refused: everything else is measured without it, and once dev has given it, the same finished
        units are voted on.
        """
        where = (self.benchmark.name, self.benchmark.split)
        if where != (BUILTIN, "test") or self.judge is None or self.margin is not None:
            return None
        ours = our_method(self.methods)
        if ours is None:
            return None
        return (
            "not made (Table 1), for the neutral margin of this judge and base model has not been measured on dev: run"
            f" 'conceptloom evaluate --split dev --methods {ours} --seeds 1 --out DEV' with the two, then this command"
            f" again with --margins DEV/{MARGINS}"
        )

    @property
    def use_log(self) -> Path | None:
        """Where this use of the built-in test sets is written down; None of other sets."""
        return use_log(self.out) if (self.benchmark.name, self.benchmark.split) == (BUILTIN, "test") else None

    def events(self, workers: int) -> Generator[UnitDone, None, None]:
        """Run what is missing; see `run_tasks`."""
        return run_tasks(self.tasks, self.benchmark, self.base, self.units, workers)

    def results(self) -> tuple[UnitResult, ...]:
        """The comparison's finished units; in place of one still to draw, that of its masks alone where it is done."""
        keys = [(task.key, replace(task.key, variant=MASKS)) for task in self.comparison]
        done = [next((key for key in either if has_unit(key, self.units)), None) for either in keys]
        return tuple(load_unit(key, self.units) for key in done if key is not None)

    def report(self, facts: Mapping[str, str]) -> Report:
        """What the finished units show; a neutral margin that they measure on dev is left in `out`.

        It is measured once, when all runs that it takes are finished: the next report, and test, vote by the same.

        Raises:
            ConfigError: no unit is finished.
            DataError: a unit or the judge cannot be read.
        """
        results = self.results()
        if not results:
            raise ConfigError(f"nothing is finished in {self.units}: run the evaluation first")
        drew = any(unit.images for unit in results)
        bench = None
        if self.judge is not None and drew:
            bench = set_up_judge(self._drawing_sets(), self.judge.name, self.judge.folder)
        judged = None
        if bench is not None:
            judged = judge_images(bench, self.benchmark, self.size, results, self.margin)
            if self.margin is None:
                judged = self._with_own_margin(judged, bench)
        parts = tuple(self._parts_rows(bench))
        missing = len(self.missing)
        findings = Findings(
            self.benchmark, self.methods, self.size, results, judged, parts, missing, self.study
        )
        return build_report(findings, self.backbone, {**facts, **self.facts(results, bench, judged)})

    def export_study(self, name: str) -> tuple[Path, Path]:
        """Write a protocol's study for people and, in a file of its own, its key: folder and key file.

        Raises:
            ConfigError: an image has no counterpart, or none is there.
            RunError: the study is there already, or its folder would tell the methods apart by more than pictures.
        """
        seed = secrets.randbits(63)
        results = self.results()
        methods: Mapping[Method, str] = {"ours": our_method(self.methods) or "", "baseline": BASELINE}
        compared = [unit for unit in results if unit.key.method in methods.values() and unit.key.seed == 0]
        diverged = {unit.key.set for unit in compared if unit.diverged is not None}
        whole = [unit for unit in compared if unit.images and unit.key.set not in diverged]
        ours, baseline = ([unit for unit in whole if unit.key.method == name] for name in methods.values())
        protocol = PROTOCOLS[name]
        comparisons = study_comparisons(self.benchmark, ours, baseline, protocol, POPULATION_SEED)
        folder, key = self.out / f"study-{name}", self.out / f"study-{name}-key.json"
        export_study_bundle(comparisons, protocol, folder, key, methods=methods, seed=seed)
        return folder, key

    def facts(
        self, results: Sequence[UnitResult], bench: Bench | None, judged: Judged | None
    ) -> dict[str, str]:
        """How it was measured, a line each."""
        where = provenance()
        versions = {name: where[name] for name in ("conceptloom", "python", "torch")}
        judge = "none: images are shown, not measured" if self.size.image_sets else "none: nothing was drawn"
        if self.size.image_sets and self.benchmark.name != BUILTIN:
            judge += (
                "; the examiner knows drawings alone, so other pictures need --judge clip, dinov2 or siglip"
            )
        if bench is not None:
            margin = None if judged is None else judged.margin
            told = "no neutral margin" if margin is None else f"neutral margin {margin.value:.4f}"
            judge = f"{bench.fingerprint}; present from {bench.judge.present_from:.3f}; {told}"
            if not bench.composed:
                judge += "; the sets' own pictures, 'real', are compared with one another alone"
                if bench.knows_only_itself:
                    judge += (
                        ", and no subject is in two: presence was calibrated on each compared with itself, which asks"
                        " too much"
                    )
            if bench.unknown:
                rates = ", ".join(f"{share:.3f} of {kind}" for kind, share in bench.unknown.items())
                judge += f"; says unknown of no more than {rates} drawings"
        missing = self.missing_margin
        left = missing_tasks(self.margin_tasks, self.units)
        if missing is None and judged is not None and judged.margin is None and left:
            missing = (
                f"not made (Table 1) yet: the neutral margin is measured once, when the {len(self.margin_tasks)} runs"
                f" of {our_method(self.methods)} that draw at two seeds are finished; {len(left)} missing"
            )
        return {
            **({} if missing is None else {FORCED_CHOICE: missing}),
            "Benchmark": f"{self.benchmark.name}, split {self.benchmark.split}: {self._what_ran(results)}",
            "Base model": f"{self.backbone.version or self.backbone.name}, {self.backbone.fingerprint[:12]}",
            "Judge": judge,
            "Machine": machine(),
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "Date": str(where["date"])[:10],
        }

    def _what_ran(self, results: Sequence[UnitResult]) -> str:
        """How much is finished, and how much is missing."""
        learned = {unit.key.set for unit in results}
        seeds = {unit.key.seed for unit in results if unit.masks} & set(range(self.size.seeds))
        drew = {unit.key.set for unit in results if unit.images}
        prompts = max((len(one.prompts) for one in self.benchmark.sets if one.name in drew), default=0)
        told = f"{len(learned)} set{'s' * (len(learned) > 1)}"
        if seeds:
            told += f", masks over {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        if drew:
            prompts = min(prompts, self.size.prompts)
            told += (
                f", images of {len(drew)} set{'s' * (len(drew) > 1)} x {prompts} prompts x {self.size.images}"
            )
        if missing := len(self.missing):
            told += f"; {missing} of {len(self.tasks)} runs are missing"
        return told

    def _with_own_margin(self, judged: Judged, bench: Bench) -> Judged:
        """Without the margin that its units measure where some of them are missing; else it is kept for good.

        That of a smoke run is not kept.
        """
        if judged.margin is None or missing_tasks(self.margin_tasks, self.units):
            return replace(judged, margin=None)
        if self.size.smoke:
            return replace(judged, margin=judged.margin.model_copy(update={"smoke": True}))
        if judged.margin.is_of_dev:
            key = margin_key(bench.fingerprint, self.backbone.fingerprint)
            save_margin(key, judged.margin, self.out / MARGINS)
        return judged

    def _drawing_sets(self) -> Benchmark:
        """The sets that draw images."""
        drawing = self.benchmark.sets[: self.size.image_sets]
        return Benchmark(self.benchmark.name, self.benchmark.split, drawing)

    def _parts_rows(self, bench: Bench | None) -> list[PartRow]:
        if not self.parts:
            return []
        images = {} if bench is None else parts_images(bench, self.benchmark, self.size, self.units)
        config = method_config(family_of(self.backbone.version), "paper", 0)
        return parts_table(self.benchmark, self.size, self.units, config, images)


def _require_masks(sets: Sequence[BenchmarkSet]) -> None:
    for one in sets:
        for picture in one.pictures:
            for name in one.contains[picture.name]:
                if name not in picture.masks:
                    raise ConfigError(
                        f"method {TRUTH} needs a mask of every concept, and set '{one.name}' has none of '{name}' in"
                        f" '{picture.name}': add it, or name other methods with --methods"
                    )


def _size_asked(
    methods: Sequence[MethodName], quick: bool, study: str | None, seeds: int | None, masks_only: bool
) -> Size:
    size = SMOKE if quick else FULL
    if masks_only:
        if quick or study is not None:
            raise ConfigError(
                "masks alone are neither a smoke run nor a study: leave --quick and --study out"
            )
        if not any(finds_masks(method) for method in methods):
            raise ConfigError(f"no mask is found by {', '.join(methods)}: name another method with --methods")
        size = replace(size, image_sets=0, margin_sets=0)
    if study is not None:
        if quick or our_method(methods) is None or BASELINE not in methods:
            raise ConfigError(
                f"a study compares paper, or else refined, with {BASELINE}: name both methods, and leave --quick out"
            )
        size = STUDIES[study]
    return size if seeds is None else replace(size, seeds=seeds)


def _require_use_for(margins: str | Path | None, benchmark: BenchmarkName, judge: JudgeChoice | None) -> None:
    if margins is not None and judge is None:
        raise ConfigError("--margins is for images that a judge looks at: name one with --judge")
    if margins is not None and benchmark != BUILTIN:
        raise ConfigError(
            f"a margin of dev is not for benchmark '{benchmark}', which measures its own: leave --margins out"
        )


def _fixed_margin(key: str, benchmark: BenchmarkName, out: Path, margins: str | Path | None) -> Margin | None:
    """The margin that was fixed before: that of the file given, else what `out` holds, else what ships."""
    if margins is not None:
        return load_margin(key, expanded(margins))
    own = kept_margin(key, out / MARGINS) if benchmark == BUILTIN else None
    return own or shipped_margin(key)


def prepare_evaluation(
    benchmark: BenchmarkName,
    split: str,
    out: str | Path,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: int | None = None,
    quick: bool = False,
    masks_only: bool = False,
    parts: bool = False,
    data: str | Path | None = None,
    base: BaseModel | None = None,
    judge: JudgeChoice | None = None,
    margins: str | Path | None = None,
    study: str | None = None,
    command: str = "Python",
) -> EvaluationJob:
    """Check a request, load the base model, and claim or recognise the folder.

    It gets the sets in COCO format, unless they are the user's own, who has them.
    A use of the built-in test sets is written down (`EvaluationJob.use_log`).

    Args:
        benchmark: which.
        split: "dev" or "test" of the built-in benchmark; of the others whatever they are.
        out: folder of the evaluation; one of the same request goes on.
        methods: names of `METHODS`, in the tables' order.
        seeds: of the masks; None for three.
        quick: a smoke run: four sets, short runs.
        masks_only: nothing is drawn: the curves and tables of masks alone.
        parts: also the table "Parts", on `dev` of the built-in benchmark.
        data: folder of the COCO data or of the user's sets.
        base: the base model; None for the built-in one.
        judge: who looks at the images; None for the examiner on the built-in benchmark and base model, for nobody
            elsewhere.
        margins: file that an evaluation on dev with the same judge and base model left; None for what `out` holds
            already, or else ships.
        study: "random" or "coco" to draw as many images as that study of people needs.
        command: what asks, for the log of uses of the test sets.

    Raises:
        ConfigError: an unknown method or benchmark, a folder missing or in excess, parts of something else, margins
            of another judge or base model.
        RunError: `out` holds another evaluation, or the log is no text.
        DataError: the benchmark, the judge or the margins cannot be read.
    """
    chosen = parse_methods(methods)
    if parts and ((benchmark, split) != ("builtin", "dev") or quick or masks_only or "paper" not in chosen):
        raise ConfigError(
            "the table of parts is made on --benchmark builtin --split dev, with method paper, without --quick and"
            " --masks-only"
        )
    if masks_only and judge is not None:
        raise ConfigError(
            "masks alone have no images for a judge to look at: leave --judge or --masks-only out"
        )
    size = _size_asked(chosen, quick, study, seeds, masks_only)
    out = expanded(out)
    require_place(out / DESCRIPTION)
    base = base or BaseModel("builtin")
    backbone = base.load()
    sets = load_sets(benchmark, split, size, backbone, data)
    count = min(size.sets, len(sets.sets))
    size = replace(size, sets=count, image_sets=min(size.image_sets, count))
    if TRUTH in chosen:
        _require_masks(sets.sets[:count])
    if (
        judge is None
        and benchmark == BUILTIN
        and backbone.version is not None
        and count > 1
        and not masks_only
    ):
        judge = JudgeChoice("examiner")
    _require_use_for(margins, benchmark, judge)
    margin = None
    if judge is not None:
        # What cannot be judged is refused now, not when the report is built.
        load_feature_judge(judge.name, judge.folder)
        for position in range(size.image_sets):
            stranger(sets.sets[: size.image_sets], position)
        key = margin_key(judge_fingerprint(sets, judge.name, judge.folder), backbone.fingerprint)
        margin = _fixed_margin(key, benchmark, out, margins)
    job = EvaluationJob(
        sets,
        chosen,
        size,
        comparison_plan(sets, chosen, size),
        parts_plan(sets, size) if parts else (),
        base,
        backbone,
        judge,
        margin,
        out,
        study,
    )
    claim_folder(job)
    if benchmark != "folder" and not (out / SETS / ANNOTATIONS).is_file():
        write_benchmark(sets, out / SETS)
    if job.use_log is not None:
        model = f"{backbone.version or backbone.name} {backbone.fingerprint[:12]}"
        log_use(job.use_log, ", ".join(chosen), model, command)
    return job


def parse_methods(methods: Sequence[str]) -> tuple[MethodName, ...]:
    """Known methods, each once, in their order. Raises `ConfigError`."""
    known: dict[str, MethodName] = {name: name for name in METHODS}
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(f"there is no method '{unknown[0]}': choose from {', '.join(METHODS)}")
    if not methods:
        raise ConfigError(f"no method to evaluate: choose from {', '.join(METHODS)}")
    return tuple(dict.fromkeys(known[name] for name in methods))


def load_sets(
    benchmark: BenchmarkName, split: str, size: Size, backbone: Backbone, data: str | Path | None
) -> Benchmark:
    """The benchmark asked for; raises as `prepare_evaluation`."""
    if benchmark == "builtin":
        if data is not None:
            raise ConfigError("the built-in benchmark brings its pictures: leave --data out")
        splits: dict[str, BuiltinSplit] = {name: name for name in get_args(BuiltinSplit)}
        if split not in splits:
            raise ConfigError(f"the built-in benchmark has no split '{split}': choose dev or test")
        return builtin_benchmark(splits[split], size.sets, side_px=backbone.size)
    if data is None:
        raise ConfigError(f"benchmark '{benchmark}' needs the folder of its pictures: add --data FOLDER")
    if benchmark == "folder":
        return folder_benchmark(data)
    if benchmark == "coco":
        return coco_benchmark(data, concepts=2 * size.sets)
    raise ConfigError(f"there is no benchmark '{benchmark}': choose from {', '.join(BENCHMARKS)}")


def claim_folder(job: EvaluationJob) -> None:
    """Write what the folder holds, or raise `RunError` where it holds another evaluation."""
    family = family_of(job.backbone.version)
    described: dict[str, Any] = {
        "benchmark": job.benchmark.name,
        "split": job.benchmark.split,
        "sets": [one.name for one in job.benchmark.sets],
        "smoke": job.size.smoke,
        "images": [job.size.prompts, job.size.images, job.size.shown],
        "base_model": job.backbone.fingerprint,
        "dtype": str(job.backbone.dtype).removeprefix("torch."),
        "methods": {
            name: method_config(family, name, 0).model_dump(mode="json")
            for name in METHODS
            if name != "words"
        },
        "inputs": {one.name: one.digests for one in job.benchmark.sets},
    }
    path = job.out / DESCRIPTION
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: choose another --out, or delete the folder") from error
        found = found if isinstance(found, dict) else {}
        # Switches of methods that are not asked for may have changed since.
        for one in (described, found):
            if isinstance(methods := one.get("methods"), dict):
                one["methods"] = {name: methods.get(name) for name in job.methods}
        if different := [key for key, value in described.items() if found.get(key) != value]:
            what = f"another {different[0]}"
            if different[0] == "inputs":
                what = other_input(found.get("inputs"), described["inputs"])
            raise RunError(
                f"{job.out} holds an evaluation with {what}: choose another --out,"
                " or delete the folder to start again"
            )
        return
    if job.out.is_dir() and any(job.out.iterdir()):
        raise RunError(f"{job.out} is not empty and holds no evaluation: choose another --out")
    write_json_atomic(path, described)


def other_input(found: object, inputs: Mapping[str, Mapping[str, str]]) -> str:
    """What of the first set that changed is not as it was when the evaluation was begun, in words."""
    if not isinstance(found, dict):
        return "no note of its pictures, as earlier versions wrote"
    name = next((name for name, digests in inputs.items() if found.get(name) != digests), None)
    if name is None:
        return "more sets"
    digests, before = inputs[name], found.get(name)
    before = before if isinstance(before, dict) else {}
    changed = [what for what, digest in digests.items() if before.get(what) != digest]
    told = {"words": "concepts, captions or prompts"}
    return f"other {' and '.join(told.get(what, what) for what in changed)} of set '{name}'"


def machine() -> str:
    """Processor, cores and instruction set in a few words; no host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}{gpu}"
