"""Training the judges: targets, losses, scenes, resuming, and the plans' sizes. Numbers on very small shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptloom.basemodel.augment import AUGMENTATIONS
from conceptloom.basemodel.autoencoder import AutoencoderConfig, build_autoencoder
from conceptloom.basemodel.judge_scenes import (
    MOST_DRAWINGS,
    SHARD_SCENES,
    UNKNOWN,
    JudgedScenes,
    JudgeStream,
    build_reconstructions,
    load_reconstructions,
    mirrored,
    through_autoencoder,
)
from conceptloom.basemodel.judges import (
    PLANS,
    JudgeConfig,
    batch_of,
    edge_loss,
    heat_loss,
    heat_targets,
    judge_losses,
    judged_sprites,
    stray,
    train_judge,
    trained_judge,
    training_scenes,
    vocabulary_of,
)
from conceptloom.basemodel.training import load_state, to_model_range, unprefixed
from conceptloom.errors import DataError
from conceptloom.judges.detector import load_judge
from conceptloom.judges.networks import STRIDE, NetworkConfig, Vocabulary, build_network
from conceptloom.scenes.backgrounds import COLOURS, DRAWN
from conceptloom.scenes.sprites import ROLES, load_sprites

DEV = load_sprites("dev")
SMALL = JudgeConfig(
    NetworkConfig(
        "residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=32, embedding=16, side_px=48
    ),
    augmentations=("blur", "noise"),
    seed=3,
    samples=1_000,
    batch_size=4,
    damaged_share=0.0,
    warm_up_steps=5,
)


def stream(config: JudgeConfig = SMALL, sprites: int = 6) -> JudgeStream:
    return training_scenes(config, DEV[:sprites], (), seed=5)


def one_box(*box: float) -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.zeros(1, 2, 4)
    boxes[..., 2:] = 1
    boxes[0, 0] = torch.tensor(box)
    return boxes, torch.tensor([[True, False]])


# Plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_a_judge_takes_at_most_four_megabytes_in_half_precision(name: str) -> None:
    words = Vocabulary(tuple(sprite.key for sprite in judged_sprites()), tuple(map(str, range(64))))
    network = build_network(PLANS[name].network, words, 0)  # type: ignore[index]
    assert 2 * sum(value.numel() for value in network.state_dict().values()) <= 4_000_000


def test_the_judges_share_neither_architecture_nor_seed_nor_augmentations() -> None:
    examiner, selector = PLANS["examiner"], PLANS["selector"]
    assert examiner.network.architecture != selector.network.architecture
    assert examiner.seed != selector.seed
    assert sorted(examiner.augmentations + selector.augmentations) == sorted(AUGMENTATIONS)
    assert len(examiner.augmentations) == len(selector.augmentations)


def test_the_judges_know_every_drawing_of_the_three_roles_once() -> None:
    keys = [sprite.key for sprite in judged_sprites()]
    assert len(keys) == len(set(keys)) == sum(len(load_sprites(role)) for role in ROLES)


# Targets and losses -----------------------------------------------------------------------------------------------


def test_heat_is_one_in_the_cell_of_the_middle_and_nowhere_else() -> None:
    heat, _ = heat_targets(*one_box(8, 4, 28, 20), cells=12)  # the middle is (18, 12): cell (4, 3)
    assert torch.nonzero(heat >= 1).tolist() == [[0, 3, 4]]


def test_heat_falls_like_a_gaussian_of_a_tenth_of_the_size() -> None:
    heat, _ = heat_targets(*one_box(0, 0, 120, 80), cells=32)  # the middle: cell (15, 10)
    assert float(heat[0, 10, 18]) == pytest.approx(np.exp(-(3**2) / (2 * (0.1 * 120 / STRIDE) ** 2)))
    assert float(heat[0, 12, 15]) == pytest.approx(np.exp(-(2**2) / (2 * (0.1 * 80 / STRIDE) ** 2)))


def test_a_hot_cell_belongs_to_the_nearer_drawing() -> None:
    boxes = torch.tensor([[[0.0, 0, 16, 16], [24, 24, 48, 48]]])
    _, owner = heat_targets(boxes, torch.ones(1, 2, dtype=torch.bool), cells=12)
    assert (int(owner[0, 2, 2]), int(owner[0, 9, 9])) == (0, 1)


def test_a_perfect_heat_map_costs_next_to_nothing() -> None:
    heat, _ = heat_targets(*one_box(8, 4, 28, 20), cells=12)
    perfect = torch.where(heat >= 1, 12.0, -12.0)
    assert float(heat_loss(perfect, heat)) < 1e-6
    assert float(heat_loss(-perfect, heat)) > 10


def test_the_focal_loss_of_one_cell_is_its_closed_form() -> None:
    heat = torch.tensor([[[1.0, 0.5]]])
    logits = torch.tensor([[[0.0, 0.0]]])
    assert float(heat_loss(logits, heat)) == pytest.approx(np.log(2) * (0.25 + 0.25 * 0.5**4))


def test_exact_edges_cost_nothing() -> None:
    boxes, present = one_box(8, 4, 28, 20)
    heat, owner = heat_targets(boxes, present, cells=12)
    centres = (torch.arange(12) + 0.5) * STRIDE
    edges = torch.stack(
        [
            (centres - 8).expand(12, 12),
            (centres - 4)[:, None].expand(12, 12),
            (28 - centres).expand(12, 12),
            (20 - centres)[:, None].expand(12, 12),
        ]
    )[None]
    assert float(edge_loss(edges, boxes, heat, owner)) == pytest.approx(0, abs=1e-5)


def test_edges_of_half_the_width_cost_half() -> None:
    boxes, present = one_box(8, 8, 28, 28)
    heat, owner = heat_targets(boxes, present, cells=12)
    heat = torch.where(heat >= 1, heat, 0)  # only the cell whose middle is (18, 18)
    edges = torch.tensor([5.0, 10, 5, 10]).view(1, 4, 1, 1).expand(1, 4, 12, 12)
    assert float(edge_loss(edges, boxes, heat, owner)) == pytest.approx(0.5)


def test_a_damaged_drawing_teaches_no_name() -> None:
    config = replace(SMALL, damaged_share=1.0)
    source = stream(config)
    scenes = source.scenes(range(6))
    network = build_network(config.network, source.vocabulary, 0).requires_grad_(False)
    losses = judge_losses(network, to_model_range(scenes.pixels), scenes, torch.from_numpy(scenes.boxes))
    assert (scenes.drawings == UNKNOWN).all()
    assert float(losses["identity"]) == 0
    assert float(losses["intact"]) > 0


def test_stray_boxes_are_never_empty() -> None:
    boxes = torch.tensor([10.0, 10, 11, 12]).expand(50, 3, 4)
    moved = stray(boxes, 1.0, torch.Generator().manual_seed(0))
    assert float((moved[..., 2:] - moved[..., :2]).min()) >= 1 - 1e-5


def test_boxes_stray_by_the_asked_share_of_their_size() -> None:
    boxes = torch.tensor([10.0, 10, 50, 30]).expand(2_000, 1, 4)
    moved = stray(boxes, 0.05, torch.Generator().manual_seed(0)) - boxes
    # A Gaussian cut at two deviations has a deviation of 0.96 of it, with what was cut heaped at the ends.
    assert moved.std(0)[0].tolist() == pytest.approx([2.0, 1.0, 2.0, 1.0], rel=0.08)


# Scenes -----------------------------------------------------------------------------------------------------------


def test_a_scene_depends_on_its_number_alone() -> None:
    first, again = stream().scenes([7, 8]), stream().scenes([8])
    assert np.array_equal(first.pixels[1], again.pixels[0])
    assert np.array_equal(first.boxes[1], again.boxes[0])


def test_names_are_places_in_the_vocabulary_and_padding_has_none() -> None:
    scenes = stream().scenes(range(12))
    assert (scenes.drawings[scenes.present] >= 0).all()
    assert (scenes.drawings[scenes.present] < 6).all()
    assert (scenes.drawings[~scenes.present] == UNKNOWN).all()
    assert scenes.present.shape == (12, MOST_DRAWINGS)


def test_the_asked_share_of_drawings_is_damaged() -> None:
    scenes = stream(replace(SMALL, damaged_share=0.3), sprites=40).scenes(range(150))
    assert (scenes.drawings[scenes.present] == UNKNOWN).mean() == pytest.approx(0.3, abs=0.08)


def test_the_vocabulary_holds_every_drawn_and_plain_background() -> None:
    words = vocabulary_of(DEV[:3], ()).backgrounds
    assert set(words) == {*DRAWN, *(f"{colour} background" for colour in COLOURS)}


def test_a_mirrored_box_holds_the_same_pixels_mirrored() -> None:
    scenes = stream().scenes(range(4))
    flipped = mirrored(scenes, np.array([True, False, True, True]))
    left, top, right, bottom = scenes.boxes[2, 0].astype(int)
    own = scenes.pixels[2, top:bottom, left:right]
    left, top, right, bottom = flipped.boxes[2, 0].astype(int)
    assert np.array_equal(flipped.pixels[2, top:bottom, left:right], own[:, ::-1])
    assert np.array_equal(flipped.pixels[1], scenes.pixels[1])


def test_scenes_go_through_the_autoencoder_once(tmp_path: Path) -> None:
    autoencoder = build_autoencoder(AutoencoderConfig(side_px=48, channels=(8, 16))).eval()
    source = stream()
    assert list(build_reconstructions(tmp_path, source, autoencoder, SHARD_SCENES)) == [SHARD_SCENES]
    written = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    done = list(build_reconstructions(tmp_path, source, autoencoder, 2 * SHARD_SCENES))
    assert done == [SHARD_SCENES, 2 * SHARD_SCENES]
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == written
    scenes = load_reconstructions(tmp_path, 2 * SHARD_SCENES)
    fresh = source.scenes([70])
    assert np.array_equal(scenes.boxes[70], fresh.boxes[0])
    # Batches of other sizes may round a value the other way.
    redrawn = through_autoencoder(autoencoder, fresh.pixels)[0].astype(int)
    assert np.abs(scenes.pixels[70].astype(int) - redrawn).max() <= 1


def test_missing_reconstructions_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 files of reconstructed scenes are missing"):
        load_reconstructions(tmp_path, 3 * SHARD_SCENES)


def test_a_quarter_of_a_batch_comes_through_the_autoencoder() -> None:
    bank = replace_pixels(stream().scenes(range(8)), 77)
    batch = batch_of(replace(SMALL, batch_size=8, reconstructed_share=0.25), stream(), bank, step=3)
    assert [bool((picture == 77).all()) for picture in batch.pixels] == [False] * 6 + [True] * 2


def replace_pixels(scenes: JudgedScenes, value: int) -> JudgedScenes:
    return JudgedScenes(**(vars(scenes) | {"pixels": np.full_like(scenes.pixels, value)}))


# Training ---------------------------------------------------------------------------------------------------------


def test_two_drawings_are_told_apart_after_some_steps(tmp_path: Path) -> None:
    config = replace(SMALL, augmentations=(), samples=480, batch_size=8)
    source = stream(config, sprites=2)
    *_, last = train_judge(config, source, tmp_path)
    scenes = source.scenes(range(10_000, 10_016))
    losses = []
    for network in (
        build_network(config.network, source.vocabulary, config.seed),
        trained_judge(config, source.vocabulary, tmp_path).network,
    ):
        with torch.no_grad():
            found = judge_losses(
                network, to_model_range(scenes.pixels), scenes, torch.from_numpy(scenes.boxes)
            )
        losses.append({name: float(value) for name, value in found.items()})
    assert last.samples == 480
    assert losses[1]["identity"] < 0.6 * losses[0]["identity"]
    assert losses[1]["total"] < 0.8 * losses[0]["total"]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    list(train_judge(SMALL, stream(), tmp_path / "whole", until_samples=24))
    list(train_judge(SMALL, stream(), tmp_path / "parts", until_samples=12))
    list(train_judge(SMALL, stream(), tmp_path / "parts", until_samples=24))
    whole, parts = (load_state(tmp_path / name, None)[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_the_averaged_weights_are_those_that_judge(tmp_path: Path) -> None:
    source = stream()
    list(train_judge(SMALL, source, tmp_path, until_samples=8))
    judge = trained_judge(SMALL, source.vocabulary, tmp_path)
    tensors, _ = load_state(tmp_path, None)
    averaged = unprefixed("ema", tensors)
    own = judge.network.state_dict()
    assert own.keys() == averaged.keys()
    assert all(torch.equal(own[name], averaged[name]) for name in own)


def test_a_training_of_other_drawings_is_not_resumed(tmp_path: Path) -> None:
    list(train_judge(SMALL, stream(), tmp_path, until_samples=4))
    with pytest.raises(DataError, match="knows other drawings"):
        list(train_judge(SMALL, stream(sprites=5), tmp_path, until_samples=8))


def test_the_rates_fall_towards_nothing_over_the_last_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.basemodel import judges

    factors: list[float] = []
    monkeypatch.setattr(judges, "scale_rates", lambda _, factor: factors.append(factor))
    list(train_judge(replace(SMALL, samples=40, warm_up_steps=1), stream(), tmp_path))
    assert factors[:6] == [1.0] * 6
    assert factors[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_the_makers_verb_trains_exports_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from conceptloom.basemodel import judges
    from conceptloom.cli import build_app

    plan = replace(SMALL, samples=8, reconstructed_scenes=SHARD_SCENES)
    autoencoder = build_autoencoder(AutoencoderConfig(side_px=48, channels=(8, 16))).eval()
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path))
    monkeypatch.setitem(judges.PLANS, "selector", plan)
    monkeypatch.setattr(judges, "judged_sprites", lambda: DEV[:6])
    monkeypatch.setattr(judges, "judged_photos", lambda cache: ())
    monkeypatch.setattr(judges, "measured_photos", lambda: ())
    monkeypatch.setattr(judges, "base_autoencoder", lambda: autoencoder)
    small = partial(judges.measure_judge, redrawn=2, scenes=3, damaged=1)
    monkeypatch.setattr(judges, "measure_judge", small)
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(build_app(), ["basemodel", "judges", "--which", "selector"])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "right on clean renders, 6" in result.output
    folder = judges.judge_training_folder(tmp_path) / "selector" / "model"
    told = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    assert told["report"]["threshold"] == load_judge("selector", folder).thresholds.known
