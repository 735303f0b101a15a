"""The examiner's check of the built-in model: prompts, rules, distances, and a model that draws real pictures only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptloom.backbone import Backbone, load_backbone, tokenize
from conceptloom.basemodel import exam
from conceptloom.basemodel.exam import (
    SAMPLE,
    Ask,
    ExamReport,
    Pixels,
    Seen,
    Size,
    asked,
    boxes_of,
    composed,
    examine,
    frechet_distance,
    is_in_style,
    is_whole,
    mean_lab_error,
    names_it,
    shows_all,
    subject_psnr,
    write_exam,
)
from conceptloom.evaluation.relations import relation_chance
from conceptloom.judges.detector import load_judge
from conceptloom.scenes.captions import RELATIONS
from conceptloom.scenes.sprites import load_sprites, nouns

SMALL = Size(seeds=1, pairs=10, styled=10, per_relation=2, reconstructions=3)
PAIR = Ask(("pair", 0), "a cat and a dog on grass", ("cat", "dog"), "grass", "noto")


def seen(*names: str, known: Sequence[bool] = (True, True, True), families: Sequence[str] = ()) -> Seen:
    """What is seen in a picture with these drawings, beside one another."""
    boxes = tuple((10.0 * place, 0.0, 10.0 * place + 8.0, 8.0) for place in range(len(names)))
    styles = tuple(families) or ("noto",) * len(names)
    return Seen(names, styles, tuple(known[: len(names)]), boxes, "grass", np.zeros(3, np.float32))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The built-in model."""
    return load_backbone("builtin", "cpu")


def test_every_training_noun_is_asked_for_with_every_seed() -> None:
    asks = asked(Size(), 0)["nouns"]
    words = nouns(load_sprites("train"))
    assert len({ask.key for ask in asks}) == len(asks) == 4 * len(words)
    assert {ask.nouns[0] for ask in asks} == set(words)


def test_every_prompt_holds_only_words_that_the_model_was_taught(backbone: Backbone) -> None:
    unknown = backbone.tokenizer.unk_token_id
    for asks in asked(SMALL, 3).values():
        for ask in asks:
            assert unknown not in tokenize(backbone, ask.prompt, {}).ids[: len(ask.prompt.split()) + 1]


def test_the_two_nouns_of_a_pair_differ() -> None:
    groups = asked(Size(), 1)
    assert all(len(set(ask.nouns)) == 2 for ask in groups["pairs"] + groups["relations"])


def test_prompts_follow_from_the_seed() -> None:
    assert asked(SMALL, 1) == asked(SMALL, 1)
    assert asked(SMALL, 1)["pairs"] != asked(SMALL, 2)["pairs"]


def test_a_samples_prompts_are_among_the_whole_exams() -> None:
    whole = {ask for asks in asked(Size(), 5).values() for ask in asks}
    sample = [ask for asks in asked(SAMPLE, 5).values() for ask in asks]
    assert whole.issuperset(sample)
    assert len(sample) == 298


def test_a_real_picture_stands_in_the_asked_relation() -> None:
    asks = asked(Size(per_relation=4), 0)["relations"]
    stands = [composed(ask, 0, 64).relation == ask.relation for ask in asks]
    assert np.mean(stands) > 0.95


def test_only_the_surest_drawing_decides_about_a_single_noun() -> None:
    ask = Ask(("noun", "cat", 0), "a cat on grass", ("cat",), "grass")
    assert names_it(ask, seen("cat", "dog"))
    assert not names_it(ask, seen("dog", "cat"))
    assert not names_it(ask, seen())


def test_a_pair_needs_both_nouns_in_any_order() -> None:
    assert shows_all(PAIR, seen("owl", "dog", "cat"))
    assert not shows_all(PAIR, seen("cat", "cat"))


def test_a_damaged_drawing_is_found_but_not_whole() -> None:
    assert not is_whole(PAIR, seen("cat", "dog", known=(True, False)))
    assert is_whole(PAIR, seen("cat", "dog"))


def test_style_is_read_off_the_asked_noun() -> None:
    assert is_in_style(PAIR, seen("dog", "cat", families=("blob", "noto")))
    assert not is_in_style(PAIR, seen("cat", "dog", families=("blob", "noto")))
    assert not is_in_style(PAIR, seen())


def test_boxes_of_a_relation_are_the_subjects_and_then_the_objects() -> None:
    assert boxes_of(PAIR, seen("dog", "cat")) == ((10.0, 0.0, 18.0, 8.0), (0.0, 0.0, 8.0, 8.0))
    assert boxes_of(PAIR, seen("dog")) is None


def test_the_frechet_distance_of_a_sample_to_itself_is_zero() -> None:
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_a_shifted_and_stretched_sample_has_its_closed_form() -> None:
    features = np.random.default_rng(1).normal(size=(200, 4))
    shift = np.array([1.0, -2.0, 0.5, 0.0])
    spread = np.trace(np.cov(features, rowvar=False))
    assert frechet_distance(features, features + shift) == pytest.approx(shift @ shift)
    centred = features - features.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * spread)


def test_psnr_counts_the_subject_alone() -> None:
    pixels = np.full((4, 4, 3), 100, np.uint8)
    kept = pixels + np.uint8(10)
    kept[2:] = 255
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert subject_psnr(pixels, kept, mask) == pytest.approx(20 * np.log10(25.5))


def test_black_and_white_are_a_hundred_apart_in_lab() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert mean_lab_error(black, white) == pytest.approx(100, abs=0.1)


def test_relations_in_all_pictures_hold_by_chance_only_where_both_are_found() -> None:
    asks = [
        Ask((relation, number), "", ("cat", "dog"), "grass", relation=relation)
        for relation in ("left of", "above")
        for number in range(3)
    ]
    boxes = ((0.0, 0.0, 8.0, 8.0), (10.0, 0.0, 18.0, 8.0))
    own = [boxes, boxes, None, boxes, boxes, None]
    assert relation_chance("left of", [boxes, boxes]) == 1
    assert relation_chance("above", [boxes, boxes]) == 0
    rows = exam._relation_rows(asks, own, own)
    assert rows["relation, where both are found"].chance == pytest.approx(1 / 2)
    assert rows["relation, in all pictures"].chance == pytest.approx(2 / 6)


def test_a_measure_of_no_picture_is_told_as_that() -> None:
    ask = Ask(("above", 0), "", ("cat", "dog"), "grass", relation="above")
    row = exam._relation_rows([ask], [None], [None])["  above"]
    assert (row.measured, row.count) == (None, 0)
    line = ExamReport(0, {"above": row}).text().splitlines()[1]
    assert line.split() == ["above", "0", "-"]


def test_a_model_that_draws_real_pictures_reaches_every_ceiling(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def real(backbone: Backbone, asks: Sequence[Ask], seed: int) -> Iterator[Pixels]:
        return (exam._through(backbone, composed(ask, seed, backbone.size).pixels) for ask in asks)

    monkeypatch.setattr(exam, "drawn", real)
    monkeypatch.setattr(exam, "nouns", lambda sprites: nouns(sprites)[:12])
    *pictures, report = examine(backbone, load_judge("examiner"), 0, SMALL)
    assert isinstance(report, ExamReport)
    rows: dict[str, Any] = dict(report.rows)
    distance = rows.pop("Frechet distance")
    assert distance.measured.mean == pytest.approx(0, abs=1e-3)
    assert distance.ceiling.mean > 0.01
    kept = {name: rows.pop(name) for name in list(rows) if "autoencoder" in name}
    assert len(kept) == 3
    assert all(row.measured == row.ceiling for row in rows.values())
    assert rows["both of a pair"].measured.mean > 0.6
    told = report.text()
    assert all(relation in told for relation in RELATIONS)
    shown = [each for each in pictures if not isinstance(each, ExamReport)]
    paths = write_exam(tmp_path, report, shown)
    assert json.loads(paths[0].read_text())["rows"]["style"]["count"] == SMALL.styled
    assert [path.name for path in paths[1:3]] == ["pairs.webp", "styles.webp"]
