"""Training the built-in model: schedule, tokenizer, resuming, and what is exported. Numbers on very small shapes."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from conceptloom.basemodel import build as build_module
from conceptloom.basemodel import denoiser as denoiser_module
from conceptloom.basemodel.autoencoder import (
    AutoencoderConfig,
    build_autoencoder,
    crop_batch,
    load_averaged_autoencoder,
    standardise_latents,
    train_autoencoder,
)
from conceptloom.basemodel.build import (
    BuildPlan,
    build_autoencoder_stage,
    build_denoiser_stage,
    caption_words,
    continues_shipped,
    export_model,
    fresh_denoiser,
    frozen_autoencoder,
    require_start,
    shipped_folder,
    warm_start,
)
from conceptloom.basemodel.denoiser import (
    DenoiserConfig,
    LatentBuffer,
    Workers,
    build_denoiser,
    build_scheduler,
    denoising_error,
    draw_timesteps,
    load_averaged,
    shifted_betas,
    token_ids,
    train_denoiser,
)
from conceptloom.basemodel.optimizer import build_optimizer, scale_rates
from conceptloom.basemodel.text import TextConfig, build_tokenizer, whole_word_merges
from conceptloom.basemodel.training import (
    Averaged,
    SceneStream,
    TrainProgress,
    lead_drawings,
    load_state,
    save_state,
    to_model_range,
    warm_up,
)
from conceptloom.basemodel.watch import log_progress, write_loss_curve
from conceptloom.cli import basemodel as basemodel_cli
from conceptloom.cli import build_app
from conceptloom.errors import DataError
from conceptloom.scenes.backgrounds import load_photos
from conceptloom.scenes.composer import SceneRules
from conceptloom.scenes.sprites import load_sprites, nouns

SMALL_AE = AutoencoderConfig(side_px=32, channels=(8, 16), latent_channels=4, crop_px=16, batch_size=4)
SMALL = DenoiserConfig(
    channels=(32, 64),
    text=TextConfig(width=32, layers=1, heads=2, max_tokens=16),
    batch_size=4,
    buffer_scenes=32,
)


@pytest.fixture
def stream() -> SceneStream:
    return SceneStream(load_sprites("dev")[:8], load_photos("dev")[:2], SceneRules(side_px=32), seed=1)


def small_denoiser():
    return build_denoiser(SMALL, ["cat", "dog", "on", "grass"], SMALL_AE.latent_channels)


@pytest.mark.parametrize("shift", [0.0, 2.8])
def test_the_schedule_is_stable_diffusions_shifted_in_log_snr_and_rescaled_to_zero_terminal_snr(
    shift: float,
) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)
    odds = signal / (1 - signal) * np.exp(shift)
    root = (odds / (1 + odds)).sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    ours = torch.cumprod(1 - torch.tensor(shifted_betas(shift), dtype=torch.float64), 0).sqrt()
    assert torch.allclose(ours, expected, atol=1e-9)


def test_the_last_timestep_holds_no_signal() -> None:
    assert float(build_scheduler(2.8).alphas_cumprod[-1]) == 0.0


def test_training_timesteps_have_the_asked_log_snr() -> None:
    config = replace(DenoiserConfig(), batch_size=4000, uniform_share=0.0, log_snr_mean=0.0, log_snr_std=1.0)
    scheduler = build_scheduler(2.8)
    timesteps = draw_timesteps(config, scheduler, torch.Generator().manual_seed(0))
    log_snr = torch.logit(scheduler.alphas_cumprod[timesteps].double())
    assert float(log_snr.mean()) == pytest.approx(0.0, abs=0.06)
    assert float(log_snr.std()) == pytest.approx(1.0, abs=0.06)


def test_a_batch_has_a_timestep_of_every_part_of_the_distribution() -> None:
    config = replace(DenoiserConfig(), batch_size=32, uniform_share=1.0)
    for seed in range(20):
        timesteps = draw_timesteps(config, build_scheduler(2.8), torch.Generator().manual_seed(seed))
        parts = [(part * 31.25 - 1, (part + 1) * 31.25) for part in range(32)]
        pairs = zip(sorted(timesteps.tolist()), parts, strict=True)
        assert all(first <= timestep < last for timestep, (first, last) in pairs)


def test_the_uniform_share_of_timesteps_covers_the_whole_schedule_evenly() -> None:
    config = replace(DenoiserConfig(), batch_size=8000, uniform_share=1.0)
    timesteps = draw_timesteps(config, build_scheduler(2.8), torch.Generator().manual_seed(0))
    shares = torch.histc(timesteps.float(), 10, 0, 1000) / len(timesteps)
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.02)


def test_a_noun_has_one_lead_drawing_of_the_largest_family_that_draws_it() -> None:
    sprites = load_sprites("train")
    leads = lead_drawings(sprites)
    assert [sprite.noun for sprite in leads] == list(nouns(sprites))
    sizes = Counter(sprite.family for sprite in sprites)
    for lead in leads:
        assert sizes[lead.family] == max(sizes[s.family] for s in sprites if s.noun == lead.noun)


def test_the_asked_share_of_scenes_of_a_count_holds_lead_drawings_only() -> None:
    sprites = load_sprites("train")
    stream = SceneStream(sprites, (), SceneRules(side_px=32), 1, lead_shares=(0.0, 1.0, 1.0))
    leads = {(sprite.noun, sprite.family) for sprite in stream.leads}
    scenes = [stream.scene(index) for index in range(80)]
    of_leads = [
        (len(scene.objects), all((o.noun, o.family) in leads for o in scene.objects)) for scene in scenes
    ]
    assert all(led for count, led in of_leads if count > 1)
    assert not all(led for count, led in of_leads if count == 1)


def test_the_vocabulary_doubles_from_the_first_nouns_to_all() -> None:
    sprites = load_sprites("dev")
    stream = SceneStream(sprites, (), SceneRules(side_px=32), seed=1, first_nouns=4, doubling_scenes=10)
    known = [{sprite.noun for sprite in stream.drawings_of(index)} for index in (0, 9, 10, 20, 10_000)]
    assert [len(words) for words in known[:4]] == [4, 7, 8, 16]
    assert known[0] < known[1] < known[2] < known[3] < known[4]
    assert known[4] == set(nouns(sprites))


def test_the_asked_share_of_scenes_is_easy_and_fully_captioned() -> None:
    stream = SceneStream(load_sprites("dev"), load_photos("dev"), SceneRules(side_px=32), 1, easy_share=0.6)
    easy = [index for index in range(400) if not stream.rules_of(index).loose_captions]
    assert len(easy) / 400 == pytest.approx(0.6, abs=0.07)
    scenes = [stream.scene(index) for index in easy[:60]]
    assert all(scene.background in scene.caption for scene in scenes if scene.caption)


def test_known_words_are_one_token_each() -> None:
    words = caption_words(load_sprites("train"), load_photos("train"))
    tokenizer = build_tokenizer(words, 32)
    assert [word for word in words if len(tokenizer(word)["input_ids"]) != 3] == []


def test_the_order_of_the_words_changes_no_token_id() -> None:
    words = list(caption_words(load_sprites("train"), load_photos("train")))
    forwards, backwards = (build_tokenizer(order, 32).get_vocab() for order in (words, words[::-1]))
    assert forwards == backwards


def test_merges_take_the_most_frequent_pair_and_ties_by_the_alphabet() -> None:
    assert whole_word_merges(["zbc", "zbd", "aa"])[:2] == [("z", "b"), ("a", "a</w>")]


def test_a_training_with_other_words_is_not_resumed(tmp_path: Path, stream: SceneStream) -> None:
    buffer = LatentBuffer(stream, build_autoencoder(SMALL_AE).eval().requires_grad_(False), SMALL)
    list(train_denoiser(SMALL, small_denoiser(), buffer, tmp_path, until_samples=4))
    other = build_denoiser(SMALL, ["cow", "dog", "on", "grass"], SMALL_AE.latent_channels)
    with pytest.raises(DataError, match="other words"):
        list(train_denoiser(SMALL, other, buffer, tmp_path, until_samples=8))


def test_unknown_text_is_spelled_not_dropped() -> None:
    tokenizer = build_tokenizer(["cat"], 32)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("zebra")["input_ids"])[1:-1]
    assert "".join(pieces).replace("</w>", "") == "zebra"


def test_padding_is_the_end_token() -> None:
    tokenizer = build_tokenizer(["cat"], 8)
    ids = token_ids(tokenizer, ["cat"])
    assert ids.shape == (1, 8)
    assert set(ids[0, 2:].tolist()) == {tokenizer.eos_token_id}


def test_a_scene_depends_on_its_number_alone(stream: SceneStream) -> None:
    later = stream.scene(7)
    assert np.array_equal(stream.scene(7).pixels, later.pixels)
    assert not np.array_equal(stream.scene(8).pixels, later.pixels)


def test_a_stream_without_sprites_says_what_to_do() -> None:
    with pytest.raises(DataError, match="make sprites"):
        SceneStream([], [], SceneRules(), 0)


def test_pixels_span_the_models_range() -> None:
    extremes = np.array([[[[0, 255, 127]]]], np.uint8)
    assert to_model_range(extremes).flatten().tolist() == pytest.approx([-1.0, 1.0, -1 / 255])


def test_the_average_of_a_constant_is_that_constant() -> None:
    module = nn.Linear(2, 2)
    average = Averaged(module, 0.9)
    for step in range(5):
        average.update(module, step)
    assert torch.allclose(average.tensors["weight"], module.weight)


def test_the_average_ramps_up_its_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = Averaged(module, 0.999)
    nn.init.ones_(module.weight)
    average.update(module, 1)
    assert float(average.tensors["weight"]) == pytest.approx(1 - 2 / 11)


def test_warm_up_rises_linearly_and_stays() -> None:
    assert [warm_up(step, 4) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]


def test_rates_scale_from_their_base_and_not_from_each_other() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), 0.02, 1e-3, 0.0)
    for factor in (0.5, 0.5):
        scale_rates(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 5e-4])


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 2, 3, 3)])
def test_a_step_goes_along_the_gradients_polar_factor_to_float32s_precision(shape: tuple[int, ...]) -> None:
    module = nn.ParameterList([torch.zeros(shape)])
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    module[0].grad = gradient.clone()
    build_optimizer(module, 0.02, 1e-3, 0.0).step()
    x = gradient.flatten(1).double()
    x /= x.norm()
    for _ in range(5):  # Newton-Schulz as Jordan et al. (2024) write it
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    moved = -module[0].detach().flatten(1).double()
    assert torch.allclose(moved / moved.norm(), x / x.norm(), atol=2e-5)


def test_a_saved_state_comes_back_whole(tmp_path: Path) -> None:
    module = nn.Linear(3, 3)
    optimizer = build_optimizer(module, 0.02, 1e-3, 0.0)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_state(tmp_path / "state", {"w": module.weight}, optimizer, {"step": 3})
    again = build_optimizer(nn.Linear(3, 3), 0.02, 1e-3, 0.0)
    tensors, meta = load_state(tmp_path / "state", again)
    assert torch.equal(tensors["w"], module.weight)
    assert meta["step"] == 3
    for old, new in zip(
        optimizer.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)
    assert [group["step"] for group in again.param_groups] == [1, 1]


def test_a_save_goes_on_after_one_that_was_killed_before_it_removed_the_old_state(tmp_path: Path) -> None:
    optimizer = build_optimizer(nn.Linear(3, 3), 0.02, 1e-3, 0.0)
    for step in (1, 2):
        save_state(tmp_path / "state", {"w": torch.ones(1)}, optimizer, {"step": step})
        shutil.copytree(tmp_path / "state", tmp_path / "state.old", dirs_exist_ok=True)
    assert load_state(tmp_path / "state", None)[1]["step"] == 2


def test_an_interrupted_autoencoder_equals_an_uninterrupted_one(tmp_path: Path, stream: SceneStream) -> None:
    list(train_autoencoder(SMALL_AE, stream, tmp_path / "whole", until_samples=16))
    list(train_autoencoder(SMALL_AE, stream, tmp_path / "parts", until_samples=8))
    list(train_autoencoder(SMALL_AE, stream, tmp_path / "parts", until_samples=16))
    whole, parts = (load_state(tmp_path / name, None)[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_crops_of_one_step_are_reproducible(stream: SceneStream) -> None:
    assert np.array_equal(crop_batch(stream, SMALL_AE, 3), crop_batch(stream, SMALL_AE, 3))


def test_standardised_latents_have_mean_zero_and_spread_one_per_channel(stream: SceneStream) -> None:
    model = build_autoencoder(SMALL_AE).eval()
    images = to_model_range(np.stack([stream.scene(index).pixels for index in range(8)]))
    with torch.no_grad():
        standardise_latents(model, images, floor=0.0)
        mean = model.encode(images).latent_dist.mean
    assert mean.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 4, abs=1e-4)
    assert mean.std((0, 2, 3)).tolist() == pytest.approx([1.0] * 4, abs=1e-4)


def test_standardising_latents_changes_no_reconstruction_and_no_signal_to_noise(stream: SceneStream) -> None:
    model = build_autoencoder(SMALL_AE).eval()
    images = to_model_range(np.stack([stream.scene(index).pixels for index in range(8)]))
    with torch.no_grad():
        before = model.encode(images).latent_dist
        drawn_before = model.decode(before.mean).sample
        snr_before = before.mean.std((0, 2, 3)) / before.std.mean((0, 2, 3))
        standardise_latents(model, images)
        after = model.encode(images).latent_dist
        drawn_after = model.decode(after.mean).sample
        snr_after = after.mean.std((0, 2, 3)) / after.std.mean((0, 2, 3))
    assert torch.allclose(drawn_before, drawn_after, atol=1e-4)
    assert torch.allclose(snr_before, snr_after, rtol=1e-3)


def test_captions_tell_the_style_of_every_drawing_but_a_nouns_lead(stream: SceneStream) -> None:
    every = SceneStream(load_sprites("train"), (), stream.rules, 1)
    buffer = LatentBuffer(every, build_autoencoder(SMALL_AE).eval().requires_grad_(False), SMALL)
    buffer.refill(0, 32)
    leads = {(sprite.noun, sprite.family) for sprite in lead_drawings(every.sprites)}
    mentions = [mention for scene in buffer.scenes for mention in scene.mentions]
    told = [(mention.noun, mention.family) not in leads for mention in mentions]
    assert [mention.style_is_told for mention in mentions] == told
    assert len(set(told)) == 2


def test_training_the_denoiser_lowers_its_error_on_a_fixed_batch(tmp_path: Path, stream: SceneStream) -> None:
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    denoiser = small_denoiser()
    buffer = LatentBuffer(stream, autoencoder, SMALL)
    buffer.refill(0, 16)
    latents, captions = buffer.batch(8, 0)
    timesteps = torch.arange(100, 900, 100)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = float(denoising_error(denoiser, latents, captions, timesteps, noise).mean())
    list(train_denoiser(replace(SMALL, warm_up_steps=1), denoiser, buffer, tmp_path, until_samples=120))
    with torch.no_grad():
        after = float(denoising_error(denoiser, latents, captions, timesteps, noise).mean())
    assert after < 0.9 * before


def test_two_workers_leave_the_gradient_of_one(stream: SceneStream) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(5, 4, 16, 16, generator=generator) for _ in range(2))
    captions = ["a cat", "a dog on grass", "cat", "", "a cat on grass"]
    timesteps = torch.tensor([10, 300, 500, 700, 999])
    gradients, losses = [], []
    for count in (1, 2):
        denoiser = small_denoiser()
        losses.append(Workers(denoiser, count).gradient(latents, captions, timesteps, noise, torch.float32))
        gradients.append([p.grad for p in denoiser.modules().parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(*gradients, strict=True))


def test_a_step_of_the_first_worker_moves_the_second() -> None:
    workers = Workers(small_denoiser(), 2)
    first, second = (next(member.unet.parameters()) for member in workers.members)
    with torch.no_grad():
        first += 1
    assert torch.equal(first, second)


def test_annealing_lets_the_rates_fall_over_the_time_given(
    tmp_path: Path, stream: SceneStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    monkeypatch.setattr(denoiser_module, "scale_rates", lambda _, factor: factors.append(factor))
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    config = replace(SMALL, warm_up_steps=1)
    buffer = LatentBuffer(stream, autoencoder, config)
    # A busy machine's own clock takes steps of any length.
    clock = SimpleNamespace(monotonic=itertools.count(step=0.02).__next__)
    monkeypatch.setattr(denoiser_module, "time", clock)
    list(train_denoiser(config, small_denoiser(), buffer, tmp_path, 10**9, seconds=1.0, anneal=True))
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > 0.9
    assert 0.02 <= factors[-1] < 0.3


def test_an_annealing_that_was_stopped_goes_on_from_its_rates(
    tmp_path: Path, stream: SceneStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    monkeypatch.setattr(denoiser_module, "scale_rates", lambda _, factor: factors.append(factor))
    config = replace(SMALL, warm_up_steps=1)
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    clock = SimpleNamespace(monotonic=itertools.count(step=0.02).__next__)
    monkeypatch.setattr(denoiser_module, "time", clock)
    for until in (20 * config.batch_size, 22 * config.batch_size):
        buffer = LatentBuffer(stream, autoencoder, config)
        list(train_denoiser(config, small_denoiser(), buffer, tmp_path, until, seconds=2.0, anneal=True))
    assert factors[19] < 0.8
    assert factors[20] <= factors[19]


def test_a_training_that_begins_with_trained_weights_keeps_to_lower_rates(
    tmp_path: Path, stream: SceneStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    monkeypatch.setattr(denoiser_module, "scale_rates", lambda _, factor: factors.append(factor))
    config = replace(SMALL, warm_up_steps=1, going_on=0.25)
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    seen = 10 * config.batch_size
    for until in (
        seen + 2 * config.batch_size,
        seen + 4 * config.batch_size,
    ):  # the second goes on from its state
        buffer = LatentBuffer(stream, autoencoder, config)
        list(train_denoiser(config, small_denoiser(), buffer, tmp_path, until, seen=seen))
    assert factors == [0.25] * 4


def test_a_resumed_training_goes_on_with_scenes_that_it_has_not_seen(
    tmp_path: Path, stream: SceneStream
) -> None:
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    seen: list[tuple[int, int]] = []

    class Watched(LatentBuffer):
        def refill(self, first: int, count: int) -> None:
            seen.append((first, first + count))
            super().refill(first, count)

    for until in (2 * SMALL.batch_size, 3 * SMALL.batch_size):
        list(train_denoiser(SMALL, small_denoiser(), Watched(stream, autoencoder, SMALL), tmp_path, until))
    assert [first for first, _ in seen[1:]] == [end for _, end in seen[:-1]]


@pytest.mark.parametrize("first", [0, 3])
def test_the_buffer_replaces_its_oldest_scene(first: int, stream: SceneStream) -> None:
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    buffer = LatentBuffer(stream, autoencoder, replace(SMALL, buffer_scenes=4))
    buffer.refill(first, 4)
    second = buffer.scenes[1]
    buffer.refill(first + 4, 1)
    assert len(buffer.scenes) == 4
    assert buffer.scenes[1] is second
    assert buffer.scenes[0].background == stream.scene(first + 4).background


def test_an_export_loads_as_a_stable_diffusion_pipeline_with_the_same_weights(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    denoiser, autoencoder = small_denoiser(), build_autoencoder(SMALL_AE)
    plan = BuildPlan(autoencoder=SMALL_AE, denoiser=SMALL)
    export_model(denoiser, autoencoder, plan, ["grass"], ["cat"], 7, tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert pipeline.vae.config.scaling_factor == 1.0
    for ours, theirs in zip(denoiser.unet.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(ours.half(), theirs.half())


def test_a_training_without_an_autoencoder_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "continues_shipped", lambda plan: False)
    with pytest.raises(DataError, match="basemodel build"):
        frozen_autoencoder(BuildPlan(), tmp_path)


def test_training_goes_on_from_the_shipped_model_only_in_the_same_shape() -> None:
    assert continues_shipped(BuildPlan())
    assert not continues_shipped(BuildPlan(denoiser=SMALL))
    assert not continues_shipped(BuildPlan(autoencoder=SMALL_AE))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildPlan:
    """Two steps of very small shapes; a model of these that has seen 4 pictures ships; no artwork is fetched."""
    small = BuildPlan(SMALL_AE, SMALL, autoencoder_samples=8, autoencoder_anneal=0, denoiser_samples=8)
    monkeypatch.setattr(build_module, "training_photos", lambda cache: load_photos("train"))
    monkeypatch.setattr(build_module, "shipped_folder", lambda: tmp_path / "shipped")
    autoencoder = build_autoencoder(replace(SMALL_AE, seed=9))
    other = fresh_denoiser(replace(small, denoiser=replace(SMALL, seed=9)), tmp_path, autoencoder)
    export_model(other, autoencoder, small, ["grass"], ["cat"], 4, tmp_path / "shipped")
    return small


def test_the_build_command_takes_nothing_that_ships(
    plan: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path))
    monkeypatch.setattr(build_module, "BuildPlan", lambda: plan)
    monkeypatch.setattr(basemodel_cli, "_use_threads", lambda threads: None)
    result = CliRunner().invoke(build_app(), ["basemodel", "build"])
    assert result.exit_code == 0, result.output
    folder = build_module.training_folder(tmp_path)
    steps = [int(load_state(folder / part, None)[1]["step"]) for part in ("autoencoder", "denoiser")]  # type: ignore[call-overload]
    assert steps == [2, 2]
    own = load_averaged_autoencoder(SMALL_AE, folder / "autoencoder").decoder.state_dict()
    kept = frozen_autoencoder(plan, tmp_path).decoder.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in own.items())


def test_resuming_without_a_state_goes_on_from_what_ships(plan: BuildPlan, tmp_path: Path) -> None:
    (progress,) = build_denoiser_stage(plan, tmp_path)
    assert (progress.step, progress.samples) == (1, 8)


def test_a_training_that_began_with_the_shipped_weights_is_not_built_over(
    plan: BuildPlan, tmp_path: Path
) -> None:
    list(build_denoiser_stage(plan, tmp_path))
    with pytest.raises(DataError, match="basemodel resume"):
        list(build_autoencoder_stage(plan, tmp_path))


def test_nothing_is_trained_on_an_autoencoder_that_is_not_done(plan: BuildPlan, tmp_path: Path) -> None:
    list(build_autoencoder_stage(replace(plan, autoencoder_samples=4), tmp_path))
    with pytest.raises(DataError, match="4 of 8 crops"):
        list(build_denoiser_stage(plan, tmp_path))


def test_a_line_of_the_log_that_a_crash_cut_short_does_not_stop_the_curve(tmp_path: Path) -> None:
    log_progress(tmp_path, "denoiser", TrainProgress(1, 32, {"denoising": 0.5}, 20.0, True))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"stage": "denoiser", "los')
    log_progress(tmp_path, "denoiser", TrainProgress(2, 64, {"denoising": 0.4}, 20.0, True))
    assert write_loss_curve(tmp_path, "denoiser").is_file()


def test_a_warm_start_takes_over_the_exported_weights(tmp_path: Path) -> None:
    denoiser, autoencoder = small_denoiser(), build_autoencoder(SMALL_AE)
    export_model(denoiser, autoencoder, BuildPlan(SMALL_AE, SMALL), ["grass"], ["cat"], 0, tmp_path / "model")
    fresh = build_denoiser(replace(SMALL, seed=9), ["cat", "dog", "on", "grass"], SMALL_AE.latent_channels)
    warm_start(fresh, tmp_path / "model")
    for ours, theirs in zip(denoiser.unet.parameters(), fresh.unet.parameters(), strict=True):
        assert torch.equal(ours.half(), theirs.half())


def test_training_begins_with_another_version_of_the_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(shipped_folder(), other)
    begun: list[Path] = []

    def begin(_: object, folder: Path) -> int:
        begun.append(folder)
        return 0

    monkeypatch.setattr(build_module, "warm_start", begin)
    monkeypatch.setattr(build_module, "curriculum_stream", lambda *_: None)
    monkeypatch.setattr(build_module, "fresh_denoiser", lambda *_: None)
    monkeypatch.setattr(build_module, "train_denoiser", lambda *_, **__: iter(()))
    list(build_denoiser_stage(BuildPlan(), tmp_path, start=other))
    assert begun == [other]


def test_training_does_not_begin_with_a_model_of_another_autoencoder(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(shipped_folder(), other)
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="autoencoder of the one that ships"):
        require_start(BuildPlan(), other)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"autoencoder": 1, "denoiser": 2}'])
def test_training_does_not_begin_with_a_model_that_does_not_say_what_it_is(tmp_path: Path, text: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(shipped_folder() / "vae", other / "vae")
    (other / "conceptloom.json").write_text(text)
    with pytest.raises(DataError, match="no version of the built-in model"):
        require_start(BuildPlan(), other)


def test_the_averaged_weights_are_what_is_loaded(tmp_path: Path, stream: SceneStream) -> None:
    autoencoder = build_autoencoder(SMALL_AE).eval().requires_grad_(False)
    denoiser = small_denoiser()
    buffer = LatentBuffer(stream, autoencoder, SMALL)
    list(train_denoiser(SMALL, denoiser, buffer, tmp_path, until_samples=8))
    other = small_denoiser()
    assert load_averaged(SMALL, other, tmp_path) == 8
    tensors, _ = load_state(tmp_path, None)
    assert torch.equal(
        dict(other.modules().named_parameters())["unet.conv_in.weight"], tensors["ema.unet.conv_in.weight"]
    )
