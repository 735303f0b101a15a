"""Masks alone, without learning."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone
from conceptloom.concepts import BaseModelRecord, Concept, ConceptSet
from conceptloom.errors import ConceptSetError, ConfigError, DeviceError
from conceptloom.learning import segment
from conceptloom.pictures import Picture, write_png
from tiny_models import out_of_memory

FEW = {"initial_timesteps": 4, "crf": {"iterations": 1}}
WORDS = {"cat": "cat", "dog": "dog", "beach": "beach"}


def _picture(name: str = "yard") -> Picture:
    return Picture(name, None, np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8))


def test_a_segment_has_its_pictures_size_and_a_confidence_within_0_and_1(tiny_backbone: Backbone) -> None:
    found = segment([_picture("a"), _picture("b")], WORDS, base_model=tiny_backbone, config=FEW)
    assert [(one.picture, one.concept) for one in found] == [(p, c) for p in "ab" for c in WORDS]
    for one in found:
        assert one.mask.shape == (70, 90)
        assert 0.0 <= one.confidence <= 1.0


def test_segments_of_words_that_point_at_one_thing_name_one_another(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("conceptloom.learning.segment")
    monkeypatch.setattr(module, "same_things", lambda *_: (("cat", "dog"),))
    found = segment([_picture()], WORDS, base_model=tiny_backbone, config=FEW)
    named = {one.concept: one.coincides_with for one in found}
    assert named == {"cat": ("dog",), "dog": ("cat",), "beach": ()}


def test_segmenting_twice_gives_the_same_masks_and_another_seed_another_confidence(
    tiny_backbone: Backbone,
) -> None:
    one, same, other = (
        segment([_picture()], WORDS, base_model=tiny_backbone, config=FEW, seed=seed) for seed in (0, 0, 1)
    )
    for first, second in zip(one, same, strict=True):
        np.testing.assert_array_equal(first.mask, second.mask)
        assert first.confidence == second.confidence
    assert [first.confidence for first in one] != [first.confidence for first in other]


def test_nothing_of_the_base_model_changes(tiny_backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in tiny_backbone.unet.state_dict().items()}
    segment([_picture()], WORDS, base_model=tiny_backbone, config=FEW)
    assert all(torch.equal(value, before[name]) for name, value in tiny_backbone.unet.state_dict().items())


def test_a_background_is_what_no_subject_wins(tiny_backbone: Backbone) -> None:
    side = tiny_backbone.size  # so that no mask is resized
    picture = Picture(
        "yard", None, np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    )
    found = segment([picture], WORDS, kinds={"beach": "background"}, base_model=tiny_backbone, config=FEW)
    cat, dog, beach = (one.mask for one in found)
    np.testing.assert_array_equal(beach, ~(cat | dog))


def test_a_box_is_held(tiny_backbone: Backbone) -> None:
    found = segment(
        [_picture()], WORDS, boxes={("yard", "cat"): (20, 10, 50, 40)}, base_model=tiny_backbone, config=FEW
    )
    outside = found[0].mask.copy()
    outside[8:42, 18:52] = False
    assert found[0].mask.any()
    assert not outside.any()


def test_learned_words_are_taken_from_a_set(tiny_backbone: Backbone) -> None:
    rows = {"cat": tiny_backbone.vocabulary_embeddings[7:8].clone()}
    base = BaseModelRecord(tiny_backbone.name, tiny_backbone.fingerprint, tiny_backbone.version)
    learned = ConceptSet((Concept("cat", "subject", None),), rows, base)
    with_set = segment([_picture()], concept_set=learned, base_model=tiny_backbone, config=FEW)
    without = segment([_picture()], {"cat": None}, base_model=tiny_backbone, config=FEW)
    assert [one.concept for one in with_set] == ["cat"]
    assert with_set[0].confidence != without[0].confidence


def test_a_set_of_another_base_model_is_refused(tiny_backbone: Backbone) -> None:
    rows = {"cat": torch.zeros(1, tiny_backbone.embedding_dim)}
    foreign = ConceptSet((Concept("cat", "subject", None),), rows, BaseModelRecord("other", "0" * 64, None))
    with pytest.raises(ConceptSetError):
        segment([_picture()], concept_set=foreign, base_model=tiny_backbone, config=FEW)


def test_running_out_of_memory_is_told_in_one_line(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_backbone, "predict", out_of_memory)
    with pytest.raises(DeviceError, match=r"^'cpu' ran out of memory at finding masks: free some or choose"):
        segment([_picture()], WORDS, base_model=tiny_backbone, config=FEW)


def test_looking_for_nothing_is_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    write_png(tmp_path / "yard.png", _picture().pixels)
    with pytest.raises(ConfigError, match="no concept to look for"):
        segment([tmp_path / "yard.png"], base_model=tiny_backbone)
