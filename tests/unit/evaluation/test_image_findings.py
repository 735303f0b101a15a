"""Setting up a judge, and judging a comparison's images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conceptloom.errors import DataError
from conceptloom.evaluation import calibration, image_findings
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.image_findings import (
    Bench,
    judge_fingerprint,
    judge_images,
    parts_images,
    set_up_judge,
)
from conceptloom.evaluation.image_references import prototypes, references
from conceptloom.evaluation.image_sanity import REAL, WRONG, identities, presence_threshold
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.evaluation.margins import Margin
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.parts import PARTS, part_task
from conceptloom.evaluation.plan import Size
from conceptloom.evaluation.units import UnitKey, UnitResult, save_unit
from conceptloom.judges.detector import Judge, Pixels, judge_folder
from conceptloom.judges.networks import (
    NetworkConfig,
    Thresholds,
    Vocabulary,
    build_network,
    load_network,
    save_network,
)
from conceptloom.pictures import Picture
from conceptloom.scenes.sprites import load_sprites
from tiny_judges import COLOURS, ColourFeatures, box_mask, paint

BENCHMARK = builtin_benchmark("dev", 3)
SEES_EVERYTHING = 0.001
"""Least heat of a detection: untrained, a judge is sure of nothing."""
SIZE = Size(sets=3, image_sets=3, prompts=2, images=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of random weights that knows the dev drawings."""
    vocabulary = Vocabulary(
        tuple(f"{sprite.noun}/{sprite.family}" for sprite in load_sprites("dev")), ("beach", "grass")
    )
    config = NetworkConfig("residual", (8, 8, 8), (1, 1, 1), 8, 2, 8, 8, 64)
    path = tmp_path_factory.mktemp("judge")
    save_network(path, build_network(config, vocabulary, 0), Thresholds(SEES_EVERYTHING), {})
    return path


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_findings, "CALIBRATION_PROMPTS", 2)
        patch.setattr(calibration, "CALIBRATION_PROMPTS", 2)
        patch.setattr(calibration, "CALIBRATION_SETS", 3)
        return set_up_judge(BENCHMARK, "examiner", folder)


def unit(name: str, method: MethodName, seed: int, grey: int, images: int = 2) -> UnitResult:
    rng = np.random.default_rng(grey)
    drawn = {
        (prompt, index): rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for prompt in (0, 1, 20)
        for index in range(images)
    }
    return UnitResult(UnitKey(name, method, seed), (), drawn, {})


def test_the_threshold_has_equal_error_rates_on_the_benchmarks_own_ceiling_and_floor(bench: Bench) -> None:
    # Calibrated on one composed picture a prompt, the first of those that are measured.
    first = [score for score in bench.sanity if score.index == 0]
    real, wrong = identities(first, REAL), identities(first, WRONG)
    assert bench.judge.usual_identity == float(np.median(real))
    assert bench.judge.present_from == presence_threshold(real, wrong)
    assert len({*real, *wrong}) > 10


def test_real_pictures_and_wrong_subjects_have_a_diversity(bench: Bench) -> None:
    for method in (REAL, WRONG):
        distances = [score.distance for score in bench.sanity if score.method == method]
        assert distances
        assert None not in distances


def test_the_examiner_that_ships_tells_how_often_it_says_unknown_of_spoiled_drawings(
    bench: Bench, folder: Path
) -> None:
    told = json.loads((judge_folder("examiner") / "judge.json").read_text(encoding="utf-8"))["report"][
        "damaged"
    ]
    rates = image_findings._unknown_rates(judge_folder("examiner"))
    assert rates == {kind: told[kind]["mean"] for kind in ("fused", "swirled", "crossfaded")}
    assert bench.unknown == {}  # the judge of random weights was never measured


@pytest.mark.parametrize("report", ["[]", '{"damaged": {"fused": 1}}', "1e999", "{}"])
def test_a_judge_that_does_not_tell_what_is_unknown_to_it_is_taken_all_the_same(
    report: str, tmp_path: Path
) -> None:
    (tmp_path / "judge.json").write_text(f'{{"report": {report}}}', encoding="utf-8")
    assert image_findings._unknown_rates(tmp_path) == {}


def test_the_judge_is_known_by_its_weights(bench: Bench, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-1])
    other = judge_fingerprint(BENCHMARK, "examiner", tmp_path)
    assert bench.fingerprint.startswith("examiner-")
    assert other != bench.fingerprint


def test_the_judge_of_test_is_the_judge_of_dev(bench: Bench, folder: Path) -> None:
    assert (
        judge_fingerprint(Benchmark("builtin", "test", BENCHMARK.sets), "examiner", folder)
        == bench.fingerprint
    )


def test_where_no_drawings_are_shown_no_detector_looks_and_the_judge_is_another(
    bench: Bench, folder: Path
) -> None:
    own = Benchmark("folder", "own", BENCHMARK.sets)
    found = set_up_judge(own, "examiner", folder)
    assert found.judge.looker is None
    assert found.fingerprint == f"{bench.fingerprint}-windows"
    assert (bench.composed, found.composed) == (True, False)


def test_a_folder_in_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    told = [set_up_judge(COLOURED, "examiner", path).fingerprint for path in (folder, f"~/{folder.name}")]
    assert told[0] == told[1]


def test_presence_on_test_is_what_it_is_on_dev(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_findings, "CALIBRATION_PROMPTS", 2)
    monkeypatch.setattr(calibration, "CALIBRATION_PROMPTS", 2)
    monkeypatch.setattr(calibration, "CALIBRATION_SETS", 3)
    found = set_up_judge(builtin_benchmark("test", 2), "examiner", folder)
    assert found.judge.present_from == bench.judge.present_from
    own = presence_threshold(identities(found.sanity, REAL), identities(found.sanity, WRONG))
    assert own != bench.judge.present_from
    assert {score.set for score in found.sanity} == {"test-000", "test-001"}


def test_features_that_detect_nothing_borrow_the_examiners_eyes_and_are_known_by_both(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(image_findings, "CALIBRATION_PROMPTS", 1)
    monkeypatch.setattr(calibration, "CALIBRATION_PROMPTS", 1)
    monkeypatch.setattr(calibration, "CALIBRATION_SETS", 2)
    monkeypatch.setattr(image_findings, "load_feature_judge", lambda name, where: ColourFeatures())
    monkeypatch.setattr(
        image_findings, "load_judge", lambda name: asked.append(name) or Judge(*load_network(folder))
    )
    told = []
    for weights in (b"these", b"others"):
        (tmp_path / "weights.safetensors").write_bytes(weights)
        monkeypatch.setattr(image_findings, "judge_folder", lambda name: tmp_path)
        found = set_up_judge(Benchmark("builtin", "dev", BENCHMARK.sets[:2]), "clip", folder)
        assert isinstance(found.judge.looker, Judge)
        told.append(found.fingerprint)
    assert asked == ["examiner", "examiner"]
    assert told[0] != told[1]


def test_one_set_alone_cannot_be_judged(folder: Path) -> None:
    with pytest.raises(DataError, match="holds one set"):
        set_up_judge(Benchmark("builtin", "dev", BENCHMARK.sets[:1]), "examiner", folder)


# Images of one colour, whose scores are cosines that can be told beforehand


def coloured_set(name: str, noun: str, colour: str) -> BenchmarkSet:
    """A subject of one colour, and three ways to ask for it alone."""
    box = (10, 10, 30, 30)
    concept = TrueConcept("thing", None, "subject", noun, None, "instance", "thing")
    picture = Picture("only", None, paint((colour, box)), {"thing": box_mask(box)})
    texts = ("a <thing>", "a photo of a <thing>", "my <thing>")
    prompts = tuple(TestPrompt(text, "context", ("thing",)) for text in texts)
    return BenchmarkSet(name, (picture,), (concept,), {"only": ("thing",)}, prompts, "none")


COLOURED = Benchmark("folder", "own", (coloured_set("a", "cat", "red"), coloured_set("b", "dog", "green")))
# Cosine with red, and the colour that has it.
MIXES = {0.0: COLOURS["green"], 0.6: (90, 120, 0), 0.8: (120, 90, 0), 1.0: COLOURS["red"]}


def plain(cosine: float) -> Pixels:
    return np.full((40, 40, 3), MIXES[cosine], np.uint8)


def reds(*cosines: float, seed: int = 0, method: MethodName = "paper", index: int = 0) -> UnitResult:
    """A unit of the red set: for each prompt in turn an image that is so much like red."""
    images = {(prompt, index): plain(cosine) for prompt, cosine in enumerate(cosines)}
    return UnitResult(UnitKey("a", method, seed), (), images, {"learn": 1.0, "draw": 1.0})


@pytest.fixture
def eye() -> Bench:
    """Looks at colours."""
    found = {one.name: references(one, ColourFeatures(), greyed=False) for one in COLOURED.sets}
    judge = ImageJudge(None, ColourFeatures(), prototypes(COLOURED, found), 0.5, 1.0)
    return Bench("colours", "colours-0-windows", judge, found, (), False)


def test_where_no_detector_looks_a_place_is_compared_with_whole_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_findings, "load_feature_judge", lambda name, where: ColourFeatures())
    monkeypatch.setattr(image_findings, "judge_fingerprint", lambda benchmark, name, where: "colours")
    place = TrueConcept("shore", None, "background", "beach", None, "place", "place")
    again = Picture("again", None, paint(("yellow", (5, 5, 20, 20)), ("blue", (20, 20, 30, 30))))
    sets = tuple(
        replace(
            one,
            pictures=(*one.pictures, again),
            concepts=(*one.concepts, place),
            contains={"only": ("thing", "shore"), "again": ("shore",)},
        )
        for one in COLOURED.sets
    )
    found = set_up_judge(Benchmark("folder", "own", sets), "colours")
    for one in sets:
        first, second = ColourFeatures().embed([picture.pixels for picture in one.pictures])
        assert found.found[one.name].places["shore"] == pytest.approx(np.stack([first, second]))
        own = [score for score in found.sanity if (score.method, score.set) == (REAL, one.name)]
        assert [score.place_likeness for score in own] == pytest.approx([float(first @ second)] * 2)


@pytest.mark.parametrize(("count", "usual"), [(1, 1.0), (2, 0.6)], ids=["itself", "another"])
def test_what_is_usual_of_real_pictures_is_of_others_and_of_each_with_itself_where_there_are_none(
    count: int, usual: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_findings, "load_feature_judge", lambda name, where: ColourFeatures())
    monkeypatch.setattr(image_findings, "judge_fingerprint", lambda benchmark, name, where: "colours")
    red, green = COLOURED.sets
    pictures = (*red.pictures, Picture("other", None, plain(0.6)))[:count]
    several = replace(red, pictures=pictures, contains={picture.name: ("thing",) for picture in pictures})
    found = set_up_judge(Benchmark("folder", "own", (several, green)), "colours")
    assert found.judge.usual_identity == pytest.approx(usual)
    assert found.knows_only_itself == (count == 1)


def test_scores_are_of_the_first_seed_by_method_and_of_ours_at_the_second(eye: Bench) -> None:
    results = [
        reds(0.6, 1.0),
        reds(0.0, method="fixed"),
        reds(0.8, seed=1),
        reds(1.0, seed=1, method="fixed"),
        UnitResult(UnitKey("b", "paper", 0, "masks"), (), {}, {}),
    ]
    found = judge_images(eye, COLOURED, SIZE, results, None)
    told = [(score.method, score.prompt, pytest.approx(score.overall, abs=1e-6)) for score in found.compared]
    assert told == [("paper", 0, 0.6), ("paper", 1, 1.0), ("fixed", 0, 0.0)]
    assert [(score.method, score.overall) for score in found.other_seed] == [("paper", pytest.approx(0.8))]


def test_subjects_of_all_sets_that_draw_are_told_apart(eye: Bench) -> None:
    assert judge_images(eye, COLOURED, SIZE, [reds(0.6)], None).subjects == 2


def test_the_margin_of_planted_scores_is_their_median_difference(eye: Bench) -> None:
    results = [reds(0.6, 1.0, 0.8), reds(0.8, 0.0, 0.8, seed=1)]  # differences .2, 1 and 0
    results.append(reds(0.0, 0.0, 0.0, method="fixed"))
    margin = judge_images(eye, COLOURED, SIZE, results, None).margin
    assert margin is not None
    assert margin.value == pytest.approx(0.2)
    assert (margin.sets, margin.pairs) == (1, 3)


def test_where_paper_is_not_compared_the_margin_is_between_two_seeds_of_refined(eye: Bench) -> None:
    results = [reds(0.6, 1.0, method="refined"), reds(0.8, 1.0, seed=1, method="refined")]
    margin = judge_images(eye, COLOURED, SIZE, results, None).margin
    assert margin is not None
    assert (margin.value, margin.method) == (pytest.approx(0.1), "refined")
    with_paper = judge_images(eye, COLOURED, SIZE, [*results, reds(0.0), reds(0.6, seed=1)], None).margin
    assert with_paper is not None
    assert (with_paper.value, with_paper.method) == (pytest.approx(0.6), "paper")


def test_a_margin_needs_two_images_of_one_number(eye: Bench) -> None:
    results = [reds(0.6), reds(0.8, seed=1, index=1)]
    assert judge_images(eye, COLOURED, replace(SIZE, images=2), results, None).margin is None


def test_two_seeds_give_a_margin_everywhere_but_on_test(eye: Bench) -> None:
    results = [reds(0.6), reds(0.8, seed=1)]
    found = [
        judge_images(eye, Benchmark(name, split, COLOURED.sets), SIZE, results, None).margin
        for name, split in (("folder", "own"), ("builtin", "dev"), ("builtin", "test"))
    ]
    told = [None if one is None else (one.benchmark, one.split, one.sets, one.pairs) for one in found]
    assert told == [("folder", "own", 1, 1), ("builtin", "dev", 1, 1), None]


def test_parts_are_scored_on_the_sets_and_images_that_count_where_they_are_done(
    eye: Bench, tmp_path: Path
) -> None:
    size = Size(sets=2, image_sets=1, prompts=2, images=1)
    drawn = {"paper": (0.6, 1.0), "joint-lora": (0.0, 0.8)}
    for part in PARTS:
        if part.name in drawn:
            whole = reds(*drawn[part.name])
            beyond = {(0, 1): plain(0.0)}
            task = part_task(part, COLOURED.sets[0], size)
            save_unit(replace(whole, key=task.key, images={**whole.images, **beyond}), tmp_path)
            save_unit(replace(whole, key=part_task(part, COLOURED.sets[1], size).key), tmp_path)
    found = parts_images(eye, COLOURED, size, tmp_path)
    means = {part: {metric: one.value for metric, one in row.items()} for part, row in found.items()}
    assert means == {
        "paper": {"identity": pytest.approx(0.8), "overall": pytest.approx(0.8)},
        "joint-lora": {"identity": pytest.approx(0.4), "overall": pytest.approx(0.4)},
    }


# Images of noise


def test_only_measured_prompts_and_images_are_scored(bench: Bench) -> None:
    found = judge_images(bench, BENCHMARK, SIZE, [unit("dev-000", "paper", 0, 1)], None)
    assert [(score.prompt, score.index) for score in found.compared] == [(0, 0), (1, 0)]


def test_the_margin_is_the_median_difference_between_two_seeds_of_our_method(bench: Bench) -> None:
    units = [unit("dev-000", "paper", 0, 1), unit("dev-000", "paper", 1, 2), unit("dev-000", "fixed", 0, 3)]
    found = judge_images(bench, BENCHMARK, SIZE, units, None)
    ours = [score.overall for score in found.compared if score.method == "paper"]
    again = [score.overall for score in found.other_seed]
    differences = [abs((a or 0) - (b or 0)) for a, b in zip(ours, again, strict=True)]
    assert found.margin is not None
    assert found.margin.value == pytest.approx(float(np.median(differences)))


def test_a_margin_fixed_before_is_not_measured_again(bench: Bench) -> None:
    units = [unit("dev-000", "paper", 0, 1), unit("dev-000", "paper", 1, 2)]
    fixed = Margin(value=0.25, benchmark="builtin", split="dev", sets=10, pairs=200)
    assert judge_images(bench, BENCHMARK, SIZE, units, fixed).margin == fixed


def test_one_seed_alone_has_no_margin(bench: Bench) -> None:
    assert judge_images(bench, BENCHMARK, SIZE, [unit("dev-000", "paper", 0, 1)], None).margin is None
