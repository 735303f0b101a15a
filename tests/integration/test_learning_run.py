"""Whole runs of a few steps on a tiny random model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.concepts import Concept, ConceptSet
from conceptloom.errors import ConfigError, DeviceError, DivergedError, RunError
from conceptloom.learning import (
    CheckpointSaved,
    Finished,
    LearningPicture,
    LearnRequest,
    MasksUpdated,
    Noticed,
    Progress,
    Resumed,
    StepDone,
    e_step,
    estimate,
    resolve_config,
    run,
    trainer,
)
from conceptloom.learning.batches import Batch, Material
from conceptloom.learning.checkpoint import newest_checkpoint
from conceptloom.pictures import Picture, write_png
from tiny_models import out_of_memory

SHORT: dict[str, Any] = {
    "em_steps": 4,
    "joint_steps": 2,
    "batch_size": 2,
    "token_lr": 0.01,
    "joint_lr": 1e-3,
    "mask_update_every": 2,
    "initial_timesteps": 3,
    "e_step_timesteps": 2,
    "prior_images": 2,
    "sample_steps": 1,
    "preview_every": 0,
    "train": "tokens",
    "crf": {"iterations": 2},
}
AVERAGING: dict[str, Any] = {
    "e_step_source": "running_average",
    "mask_update_every": 1,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache of prior images for all tests of this module."""
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path_factory.getbasetemp() / "learning-cache"))


def picture(name: str, seed: int) -> Picture:
    """Two coloured squares on a noisy ground, larger than the model's side, with their true masks."""
    pixels = np.random.default_rng(seed).integers(90, 130, (80, 100, 3), dtype=np.uint8)
    masks = {name: np.zeros((80, 100), dtype=bool) for name in ("cat", "dog")}
    masks["cat"][10:45, 15:45] = True
    masks["dog"][35:75, 50:85] = True
    pixels[masks["cat"]], pixels[masks["dog"]] = (220, 60, 40), (40, 60, 220)
    return Picture(name, None, pixels, {**masks, "beach": ~masks["cat"] & ~masks["dog"]})


def request_for(start: ConceptSet | None = None, **overrides: Any) -> LearnRequest:
    """Three concepts in one picture, two of them in another."""
    return LearnRequest(
        (
            LearningPicture(picture("first", 0), ("cat", "dog", "beach")),
            LearningPicture(picture("second", 1), ("cat", "beach"), "a photo of <cat> asleep on the <beach>"),
        ),
        (
            Concept("cat", "subject", "cat"),
            Concept("dog", "subject", None, 2),
            Concept("beach", "background", "beach"),
        ),
        resolve_config("sd", {**SHORT, **overrides}),
        start,
    )


def finish(events: Iterator[Progress]) -> ConceptSet:
    """The set a run ends with."""
    (finished,) = [event for event in events if isinstance(event, Finished)]
    return finished.concept_set


def stop_after(events: Any, stage: str, step: int) -> None:
    """Close the run as a user does with Ctrl-C, at the first event of this step."""
    for event in events:
        if (event.stage, event.step) == (stage, step) and isinstance(event, StepDone | MasksUpdated):
            events.close()
            return
    raise AssertionError(f"the run never reached {stage} {step}")


def assert_same_set(one: ConceptSet, other: ConceptSet) -> None:
    """Bitwise the same rows, masks and weights."""
    for name, rows in one.embeddings.items():
        assert torch.equal(rows, other.embeddings[name]), name
    assert one.masks.keys() == other.masks.keys()
    for key, mask in one.masks.items():
        np.testing.assert_array_equal(mask, other.masks[key])
    assert (one.weights is None) == (other.weights is None)
    if one.weights is not None and other.weights is not None:
        for name, tensor in one.weights.tensors.items():
            assert torch.equal(tensor, other.weights.tensors[name]), name


def base_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Copies of all weights, under the names they have without adapters."""
    copies = {}
    for part in ("unet", "text_encoder", "vae"):
        for name, tensor in getattr(backbone, part).state_dict().items():
            if ".lora_" not in name:
                copies[f"{part}.{name.replace('.base_layer', '')}"] = tensor.clone()
    return copies


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


RESUMED = {
    "paper, full": {"method": "paper", "train": "full", "initializer": "inversion", "inversion_steps": 2},
    "running average, lora": {"method": "paper", "train": "lora", **AVERAGING},
    "soft joint masks along self-attention, lora": {
        "method": "paper",
        "train": "lora",
        **AVERAGING,
        "timestep_range": (0.2, 0.9),
        "propagation_steps": 1,
        "normalise": "range",
        "competition": True,
        "unary_temperature": 0.4,
        "crf_labels": "joint",
        "attention_targets": "probabilities",
    },
    "refined, kv": {"method": "refined", "train": "kv", "mask_update_every": 1},
    "literal, kv, alternate": {
        "method": "literal",
        "train": "kv",
        "weights": "alternate",
        "e_step_timesteps": "own",
    },
}


@pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED.keys())
def test_stopping_anywhere_and_resuming_gives_the_same_bits(
    overrides: dict[str, Any], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    request = request_for(**overrides)
    uninterrupted = finish(run(request, tiny_backbone, tmp_path / "whole"))
    stops = [("masks", 1), ("em", 1), ("em", 2), ("em", 4), ("joint", 1), ("joint", 2)]
    if request.config.initializer == "inversion":
        stops = [("tokens", 1), ("tokens", 2), *stops]
    folder = tmp_path / "stopped"
    for index, (stage, step) in enumerate(stops):
        stop_after(run(request, tiny_backbone, folder, resume=index > 0), stage, step)
    assert_same_set(finish(run(request, tiny_backbone, folder, resume=True)), uninterrupted)


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    request = request_for(checkpoint_every=1)
    uninterrupted = finish(run(request, tiny_backbone, tmp_path / "whole"))
    stop_after(run(request, tiny_backbone, tmp_path / "killed"), "em", 3)
    newest = sorted((tmp_path / "killed" / "checkpoints").iterdir())[-1]
    state = newest / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
    events = list(run(request, tiny_backbone, tmp_path / "killed", resume=True))
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert (resumed.stage, resumed.step) == ("em", 2)
    assert newest.name in resumed.skipped[0]
    assert_same_set(finish(iter(events)), uninterrupted)


def test_resuming_without_a_checkpoint_is_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        next(iter(run(request_for(), tiny_backbone, tmp_path / "run", resume=True)))


def test_an_unfinished_run_is_never_overwritten(tiny_backbone: Backbone, tmp_path: Path) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    with pytest.raises(RunError, match="add --resume"):
        next(iter(run(request_for(), tiny_backbone, tmp_path / "run")))


def test_a_checkpoint_of_another_configuration_is_refused_by_field(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    with pytest.raises(RunError, match=r"config\.token_lr was 0\.01, is 0\.02"):
        next(iter(run(request_for(token_lr=0.02), tiny_backbone, tmp_path / "run", resume=True)))


def test_a_checkpoint_of_other_pixels_is_refused_by_field(tiny_backbone: Backbone, tmp_path: Path) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    first, second = request_for().pictures
    other = replace(request_for(), pictures=(replace(first, picture=picture("first", 2)), second))
    with pytest.raises(RunError, match=r"\(pictures\.first\.pixels was \w{12}\.\.\., is \w{12}\.\.\.\)"):
        next(iter(run(other, tiny_backbone, tmp_path / "run", resume=True)))


def test_a_checkpoint_of_another_initializer_word_is_refused_by_field(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    cat, *others = request_for().concepts
    other = replace(request_for(), concepts=(replace(cat, initializer="penguin"), *others))
    with pytest.raises(RunError, match=r"\(concepts\.cat\.initializer was cat, is penguin\)"):
        next(iter(run(other, tiny_backbone, tmp_path / "run", resume=True)))


def test_a_checkpoint_of_another_base_model_is_refused_by_field(
    tiny_backbone: Backbone, tiny_v_backbone: Backbone, tmp_path: Path
) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    with pytest.raises(RunError, match=r"\(base_model was \w{12}\.\.\., is \w{12}\.\.\.\)"):
        next(iter(run(request_for(), tiny_v_backbone, tmp_path / "run", resume=True)))


def test_a_checkpoint_that_began_with_other_weights_is_refused_by_field(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    start = finish(run(request_for(train="lora"), tiny_backbone, tmp_path / "first"))
    assert start.weights is not None
    tensors = {name: 2 * tensor for name, tensor in start.weights.tensors.items()}
    other = replace(start, weights=replace(start.weights, tensors=tensors))
    stop_after(run(request_for(start), tiny_backbone, tmp_path / "run"), "em", 1)
    with pytest.raises(RunError, match=r"\(start_weights was \w{12}\.\.\., is \w{12}\.\.\.\)"):
        next(iter(run(request_for(other), tiny_backbone, tmp_path / "run", resume=True)))


def test_a_checkpoint_of_another_precision_is_refused(
    tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    other = load_backbone(tiny_folder, device="cpu", dtype="bfloat16")
    with pytest.raises(RunError, match="dtype was float32, is bfloat16"):
        next(iter(run(request_for(), other, tmp_path / "run", resume=True)))


def test_the_cadence_of_previews_may_change_on_resuming(tiny_backbone: Backbone, tmp_path: Path) -> None:
    uninterrupted = finish(run(request_for(), tiny_backbone, tmp_path / "whole"))
    stop_after(run(request_for(), tiny_backbone, tmp_path / "run"), "em", 1)
    changed = request_for(preview_every=1, checkpoint_every=1)
    learned = finish(run(changed, tiny_backbone, tmp_path / "run", resume=True))
    assert_same_set(learned, uninterrupted)


def test_paper_with_the_e_step_off_equals_fixed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    papers = {"layers": "up", "tau": 0.5, "crf": {"iterations": 2, "scale": 1.3}}
    off = request_for(method="paper", mask_update_every=None, **papers)
    assert_same_set(
        finish(run(off, tiny_backbone, tmp_path / "paper")),
        finish(
            run(
                request_for(method="fixed", mask_update_every=None, **papers),
                tiny_backbone,
                tmp_path / "fixed",
            )
        ),
    )


@pytest.mark.parametrize("schedule", [{"mask_update_every": 1}, AVERAGING], ids=["fresh", "running average"])
def test_switching_the_e_step_off_changes_no_other_draw(
    schedule: dict[str, Any], tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch] = []
    original = Material.batch

    def remember(self: Material, *args: Any) -> Batch:
        batches.append(original(self, *args))
        return batches[-1]

    monkeypatch.setattr(Material, "batch", remember)
    list(run(request_for(**schedule), tiny_backbone, tmp_path / "on"))
    on, batches[:] = list(batches), []
    list(run(request_for(mask_update_every=None), tiny_backbone, tmp_path / "off"))
    assert len(on) == len(batches) == SHORT["em_steps"]
    for with_e_step, without in zip(on, batches, strict=True):
        assert torch.equal(with_e_step.noisy_latents, without.noisy_latents)
        assert torch.equal(with_e_step.timesteps, without.timesteps)
        assert torch.equal(with_e_step.prompts.selector, without.prompts.selector)


def test_after_the_m_steps_only_placeholder_rows_changed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    before = base_weights(tiny_backbone)
    start = finish(run(request_for(em_steps=0), tiny_backbone, tmp_path / "start"))
    learned = finish(run(request_for(), tiny_backbone, tmp_path / "run"))
    assert_same_weights(before, base_weights(tiny_backbone))
    for name, rows in start.embeddings.items():
        assert not torch.equal(rows, learned.embeddings[name]), name


@pytest.mark.parametrize("train", ["lora", "kv", "full"])
def test_the_base_model_is_given_back_as_it_was(train: str, tiny_backbone: Backbone, tmp_path: Path) -> None:
    before = base_weights(tiny_backbone)
    events = run(request_for(train=train), tiny_backbone, tmp_path / "run")
    stop_after(events, "joint", 1)
    assert_same_weights(before, base_weights(tiny_backbone))
    learned = finish(run(request_for(train=train), tiny_backbone, tmp_path / "run", resume=True))
    assert_same_weights(before, base_weights(tiny_backbone))
    assert learned.weights is not None
    assert learned.weights.kind == train
    assert any(tensor.abs().max() > 0 for tensor in learned.weights.tensors.values())


def test_lora_leaves_base_weights_unchanged_while_it_trains(tiny_backbone: Backbone, tmp_path: Path) -> None:
    before = base_weights(tiny_backbone)
    for event in run(request_for(train="lora"), tiny_backbone, tmp_path / "run"):
        if event.stage == "joint":
            assert_same_weights(before, base_weights(tiny_backbone))


def test_gt_keeps_the_users_masks(tiny_backbone: Backbone, tmp_path: Path) -> None:
    request = request_for(method="gt", mask_update_every=None)
    learned = finish(run(request, tiny_backbone, tmp_path / "run"))
    inside = np.s_[:, 10:90]  # the centre square the model sees
    for entry in request.pictures:
        for name in entry.concepts:
            given, kept = entry.picture.masks[name][inside], learned.masks[entry.picture.name, name][inside]
            assert np.count_nonzero(given != kept) < 0.06 * given.sum()


def test_learning_further_and_adding_leaves_the_other_rows_bitwise_alone(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = finish(run(request_for(), tiny_backbone, tmp_path / "first"))
    second_picture = picture("third", 2)
    request = LearnRequest(
        (LearningPicture(second_picture, ("cat", "bird")),),
        (Concept("cat", "subject", "cat"), Concept("bird", "subject", "bird")),
        resolve_config("sd", SHORT),
        first,
    )
    second = finish(run(request, tiny_backbone, tmp_path / "second"))
    assert [concept.name for concept in second.concepts] == ["cat", "dog", "beach", "bird"]
    assert torch.equal(second.embeddings["dog"], first.embeddings["dog"])
    assert torch.equal(second.embeddings["beach"], first.embeddings["beach"])
    assert not torch.equal(second.embeddings["cat"], first.embeddings["cat"])
    np.testing.assert_array_equal(second.masks["first", "dog"], first.masks["first", "dog"])


def cat_alone(start: ConceptSet, **overrides: Any) -> LearnRequest:
    """The first picture's cat, learned further from a set that holds others too."""
    cat = Concept("cat", "subject", "cat")
    config = resolve_config("sd", {**SHORT, **overrides})
    return LearnRequest((LearningPicture(picture("first", 0), ("cat",)),), (cat,), config, start)


def test_that_weights_move_under_concepts_which_are_not_named_is_told(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    start = finish(run(request_for(), tiny_backbone, tmp_path / "first"))
    events = list(run(cat_alone(start, train="lora"), tiny_backbone, tmp_path / "second"))
    texts = [event.text for event in events if isinstance(event, Noticed)]
    assert [text for text in texts if text.startswith("the weights move under <dog> <beach> too")]


def test_where_weights_stay_nothing_is_told_of_concepts_which_are_not_named(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    start = finish(run(request_for(), tiny_backbone, tmp_path / "first"))
    events = list(run(cat_alone(start), tiny_backbone, tmp_path / "second"))
    assert not [event for event in events if isinstance(event, Noticed)]


def test_prior_images_are_of_the_class_words_of_every_concept_in_the_set(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    start = finish(run(request_for(), tiny_backbone, tmp_path / "first"))
    assert set(cat_alone(start).class_words) == {"cat", None, "beach"}


def test_learning_further_starts_from_the_sets_rows_and_weights(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = finish(run(request_for(train="lora"), tiny_backbone, tmp_path / "first"))
    nothing = request_for(first, train="lora", em_steps=0, joint_steps=0)
    second = finish(run(nothing, tiny_backbone, tmp_path / "second"))
    assert torch.equal(first.rows(), second.rows())
    assert first.weights is not None
    assert second.weights is not None
    for name, tensor in first.weights.tensors.items():
        assert torch.equal(tensor, second.weights.tensors[name])


def test_a_set_with_lora_is_not_learned_further_as_full_weights(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = finish(run(request_for(train="lora"), tiny_backbone, tmp_path / "first"))
    with pytest.raises(ConfigError, match="'train'"):
        list(run(request_for(first, train="full"), tiny_backbone, tmp_path / "second"))


def spoil(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Let the U-Net's passes of those numbers give NaN."""
    calls = itertools.count()
    original = backbone.predict

    def predict(*args: Any) -> Tensor:
        prediction = original(*args)
        return prediction * float("nan") if bad(next(calls)) else prediction

    monkeypatch.setattr(backbone, "predict", predict)


def test_a_step_that_is_not_finite_moves_nothing_is_told_and_counted(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two mask passes, two EM steps
    spoil(tiny_backbone, monkeypatch, lambda call: call == 4)
    rows: dict[tuple[str, int], Tensor] = {}
    events = []
    for event in run(request_for(checkpoint_every=1), tiny_backbone, tmp_path / "run"):
        events.append(event)
        if isinstance(event, CheckpointSaved):
            state = newest_checkpoint(tmp_path / "run" / "checkpoints").checkpoint
            assert state is not None
            rows[event.stage, event.step] = state.tensors["rows"]
    assert torch.equal(rows["em", 3], rows["em", 2])
    assert not torch.equal(rows["em", 4], rows["em", 3])
    (notice,) = [event for event in events if isinstance(event, Noticed)]
    assert notice.text == "loss or gradient is not finite at EM step 3: nothing moved, going on"
    (skipped,) = [event for event in events if isinstance(event, StepDone) and event.step == 3]
    assert "loss" not in skipped.losses
    assert finish(iter(events)).provenance["skipped_steps"] == 1


def test_four_steps_in_a_row_that_are_not_finite_stop_with_the_step_and_no_bad_checkpoint(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tiny_backbone, monkeypatch, lambda call: call >= 2)
    request = request_for(checkpoint_every=1, mask_update_every=None, method="fixed", em_steps=6)
    with pytest.raises(RunError, match="no longer finite at EM step 4, after 3 such steps"):
        list(run(request, tiny_backbone, tmp_path / "run"))
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints").checkpoint
    assert newest is not None
    assert newest.state["done"]["em"] == 3
    assert newest.tensors["rows"].isfinite().all()


def test_a_row_that_explodes_is_held_at_ten_times_the_longest_of_the_vocabulary(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    events = list(run(request_for(token_lr=1.0), tiny_backbone, tmp_path / "run"))
    longest = 10 * float(tiny_backbone.vocabulary_embeddings.norm(dim=1).max())
    learned = finish(iter(events))
    assert float(learned.rows().norm(dim=1).max()) == pytest.approx(longest)
    texts = [event.text for event in events if isinstance(event, Noticed)]
    assert [text for text in texts if text.startswith("the embedding of <cat> has grown to 10 times")]
    assert len(texts) == len(set(texts))
    assert learned.provenance["limited_rows"]["cat"] >= 1


def spoil_maps(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Let the attention maps of those numbers be NaN."""
    calls = itertools.count()
    original = e_step.average_layers

    def average(*args: Any) -> Tensor:
        return original(*args) * (float("nan") if bad(next(calls)) else 1.0)

    monkeypatch.setattr(e_step, "average_layers", average)


def test_masks_stay_where_the_attention_of_an_e_step_is_not_finite_and_that_is_told(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one pass for each picture at stage 2 and at each E-step
    spoil_maps(monkeypatch, lambda call: call == 2)
    events = list(run(request_for(method="paper"), tiny_backbone, tmp_path / "run"))
    texts = [event.text for event in events if isinstance(event, Noticed)]
    assert texts == ["attention to 'first' is not finite at EM step 2: its masks stay, going on"]
    updated = [(event.picture, event.step) for event in events if isinstance(event, MasksUpdated)]
    assert updated == [("first", 1), ("second", 2), ("second", 2), ("first", 4), ("second", 4)]


def test_attention_that_is_not_finite_at_the_start_is_told_in_one_line(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_maps(monkeypatch, lambda call: True)
    with pytest.raises(
        DivergedError, match=r"^the attention to 'first' is not finite .*: use --dtype float32$"
    ):
        list(run(request_for(), tiny_backbone, tmp_path / "run"))


def test_concepts_that_learned_the_same_meaning_are_told() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0], [-1.0, 1.0]])
    assert trainer.same_meanings(rows, ["ann", "bea", "cat", "cat"]) == [("ann", "bea")]


def test_a_run_whose_concepts_end_with_the_same_rows_says_so(tiny_backbone: Backbone, tmp_path: Path) -> None:
    first = finish(run(request_for(em_steps=0), tiny_backbone, tmp_path / "first"))
    equal = replace(first, embeddings={**first.embeddings, "beach": first.embeddings["cat"].clone()})
    events = list(run(request_for(equal, em_steps=0), tiny_backbone, tmp_path / "second"))
    assert [event.text for event in events if isinstance(event, Noticed)] == [
        "<cat> and <beach> have learned nearly the same meaning: show them in pictures apart"
    ]


class ShortOfMemory:
    """A U-Net that has room for one picture with gradients."""

    def __init__(self, backbone: Backbone) -> None:
        self.original, self.failures = backbone.predict, 0

    def __call__(self, noisy_latents: Tensor, *args: Any) -> Tensor:
        if torch.is_grad_enabled() and len(noisy_latents) > 1:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.original(noisy_latents, *args)


@pytest.mark.parametrize("train", ["tokens", "lora"])
def test_a_run_short_of_memory_goes_on_picture_by_picture_to_the_same_set_up_to_rounding(
    train: str, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(train=train)
    plenty = finish(run(request, tiny_backbone, tmp_path / "plenty"))
    predict = ShortOfMemory(tiny_backbone)
    monkeypatch.setattr(tiny_backbone, "predict", predict)
    events = list(run(request, tiny_backbone, tmp_path / "short"))
    learned = finish(iter(events))
    assert predict.failures == 1
    assert [event.text[:13] for event in events if isinstance(event, Noticed)] == ["out of memory"]
    assert learned.provenance["out_of_memory"] is True
    for name, rows in plenty.embeddings.items():
        torch.testing.assert_close(learned.embeddings[name], rows, rtol=0, atol=2e-4)
    if plenty.weights is not None:
        assert learned.weights is not None
        for name, tensor in plenty.weights.tensors.items():
            torch.testing.assert_close(learned.weights.tensors[name], tensor, rtol=0, atol=2e-4)
    assert not any(
        getattr(module, "gradient_checkpointing", False) for module in tiny_backbone.unet.modules()
    )


def test_a_run_short_of_memory_is_resumed_picture_by_picture_to_the_same_bits(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = ShortOfMemory(tiny_backbone)
    monkeypatch.setattr(tiny_backbone, "predict", predict)
    whole = finish(run(request_for(), tiny_backbone, tmp_path / "whole"))
    stop_after(run(request_for(), tiny_backbone, tmp_path / "stopped"), "em", 2)
    failures = predict.failures
    resumed = finish(run(request_for(), tiny_backbone, tmp_path / "stopped", resume=True))
    assert predict.failures == failures
    assert_same_set(resumed, whole)


def test_a_run_short_of_memory_is_estimated_as_it_will_go_on(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = ShortOfMemory(tiny_backbone)
    monkeypatch.setattr(tiny_backbone, "predict", predict)
    assert estimate(request_for(), tiny_backbone).total_seconds > 0
    assert predict.failures == 1
    assert not any(
        getattr(module, "gradient_checkpointing", False) for module in tiny_backbone.unet.modules()
    )


def test_drift_is_measured_image_by_image_where_memory_is_short(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = finish(run(request_for(train="lora"), tiny_backbone, tmp_path / "plenty"))
    original = tiny_backbone.predict

    def predict(noisy_latents: Tensor, *args: Any) -> Tensor:
        if len(noisy_latents) > 3:  # no batch and no mask pass is as large
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(noisy_latents, *args)

    monkeypatch.setattr(tiny_backbone, "predict", predict)
    learned = finish(run(request_for(train="lora"), tiny_backbone, tmp_path / "short"))
    assert learned.provenance["drift"]["before"] == pytest.approx(
        plenty.provenance["drift"]["before"], rel=1e-5
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(
    "work",
    [
        lambda backbone, folder: list(run(request_for(), backbone, folder)),
        lambda backbone, folder: estimate(request_for(), backbone),
    ],
    ids=["run", "estimate"],
)
def test_running_out_of_memory_is_told_in_one_line(
    error: Exception,
    work: Callable[[Backbone, Path], object],
    tiny_backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def predict(*args: Any) -> Tensor:
        raise error

    monkeypatch.setattr(tiny_backbone, "predict", predict)
    with pytest.raises(DeviceError, match=r"^'cpu' ran out of memory at batch_size 2: .* smaller batch_size"):
        work(tiny_backbone, tmp_path / "run")


def test_after_running_out_of_memory_for_good_the_run_goes_on_from_its_newest_checkpoint_to_the_same_bits(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(train="lora", checkpoint_every=1)
    whole = finish(run(request, tiny_backbone, tmp_path / "whole"))
    events = run(request, tiny_backbone, tmp_path / "short")
    saved = (event for event in events if isinstance(event, CheckpointSaved))
    assert any((event.stage, event.step) == ("em", 2) for event in saved)
    with monkeypatch.context() as patch:
        patch.setattr(tiny_backbone, "predict", out_of_memory)
        with pytest.raises(DeviceError, match="ran out of memory"):
            list(events)
    resumed = list(run(request, tiny_backbone, tmp_path / "short", resume=True))
    (start,) = [event for event in resumed if isinstance(event, Resumed)]
    assert (start.stage, start.step, start.skipped) == ("em", 2, ())
    assert_same_set(finish(iter(resumed)), whole)


def test_two_concepts_of_one_word_do_not_start_equal(tiny_backbone: Backbone) -> None:
    concepts = (Concept("ann", "subject", "cat"), Concept("bea", "subject", "cat"))
    rows = trainer.starting_rows(tiny_backbone, concepts, resolve_config("sd", SHORT))
    assert (rows[0] - rows[1]).abs().max() > 0.01


def test_prior_images_are_drawn_once_per_model_and_word(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    drawn: list[str] = []
    original = trainer.own_images.__globals__["draw_images"]

    def draw_images(backbone: Backbone, prompt: str, *args: Any) -> Any:
        drawn.append(prompt)
        return original(backbone, prompt, *args)

    monkeypatch.setitem(trainer.own_images.__globals__, "draw_images", draw_images)
    request = request_for(train="lora", em_steps=0, joint_steps=1)
    finish(run(request, tiny_backbone, tmp_path / "one"))
    assert sorted(drawn) == sorted(f"a photo of {word}" for word in ("cat", "beach", "dog", "car", "tree"))
    finish(run(request, tiny_backbone, tmp_path / "two"))
    assert len(drawn) == 5


@pytest.mark.parametrize("damage", ["cut", "another size"])
def test_a_damaged_image_of_the_cache_is_drawn_again(
    damage: str, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    request = request_for(train="lora", em_steps=0, joint_steps=1)
    sound = finish(run(request, tiny_backbone, tmp_path / "one"))
    images = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.png")}
    for path, content in images.items():
        if damage == "cut":
            path.write_bytes(content[:99])
        elif path.name == "0001.png":
            write_png(path, np.full((16, 16, 3), 99, np.uint8))
    assert_same_set(finish(run(request, tiny_backbone, tmp_path / "two")), sound)
    assert images == {path: path.read_bytes() for path in images}


def losses(events: Sequence[Progress], stage: str) -> list[float]:
    return [event.losses["loss"] for event in events if isinstance(event, StepDone) and event.stage == stage]


def test_every_loss_of_the_joint_stage_counts_the_prior(tiny_backbone: Backbone, tmp_path: Path) -> None:
    events = list(run(request_for(train="kv", prior_weight=2.0), tiny_backbone, tmp_path / "run"))
    for event in events:
        if isinstance(event, StepDone) and event.stage == "joint":
            parts = event.losses
            assert parts["loss"] == pytest.approx(
                parts["mask"] + 0.01 * parts["attention"] + 2.0 * parts["prior"]
            )
    assert len(losses(events, "joint")) == 2


def test_em_ends_early_once_masks_have_been_calm_for_long_enough(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """Masks are always calm for an IoU of next to nothing, so EM takes two E-steps."""
    calm = {"mask_update_every": 1, "stop_when_calm": 2, "calm_iou": 1e-9}
    request = request_for(method="paper", em_steps=4, train="tokens", **calm)
    steps = [event for event in run(request, tiny_backbone, tmp_path / "run") if isinstance(event, StepDone)]
    assert [event.step for event in steps if event.stage == "em"] == [1, 2]


def test_masks_that_keep_changing_take_all_steps(tiny_backbone: Backbone, tmp_path: Path) -> None:
    changing = {"mask_update_every": 1, "stop_when_calm": 1, "calm_iou": 1.0, "tau": 0.8}
    request = request_for(method="paper", em_steps=4, train="tokens", **changing)
    steps = [event for event in run(request, tiny_backbone, tmp_path / "run") if isinstance(event, StepDone)]
    assert [event.step for event in steps if event.stage == "em"] == [1, 2, 3, 4]


def test_a_run_that_ended_em_early_goes_on_to_the_same_bits(tiny_backbone: Backbone, tmp_path: Path) -> None:
    request = request_for(mask_update_every=1, stop_when_calm=2, calm_iou=1e-9, train="lora")
    uninterrupted = finish(run(request, tiny_backbone, tmp_path / "whole"))
    stop_after(run(request, tiny_backbone, tmp_path / "stopped"), "em", 2)
    stop_after(run(request, tiny_backbone, tmp_path / "stopped", resume=True), "joint", 1)
    assert_same_set(finish(run(request, tiny_backbone, tmp_path / "stopped", resume=True)), uninterrupted)
