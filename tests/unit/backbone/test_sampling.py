"""The denoising loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from conceptloom.backbone import Backbone, encode_prompts, sample, tokenize
from conceptloom.backbone.sampling import _noise
from conceptloom.seeding import noise

SEEDS = [(7, "sample", index) for index in range(8)]


@pytest.fixture(params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest, tiny_backbone: Backbone, tiny_v_backbone: Backbone) -> Backbone:
    return tiny_backbone if request.param == "epsilon" else tiny_v_backbone


def hidden_states(backbone: Backbone, *prompts: str) -> Tensor:
    return encode_prompts(backbone, [tokenize(backbone, prompt, {}) for prompt in prompts], None)


def draw(backbone: Backbone, seeds: list, **options) -> Tensor:
    prompts = ["a cat", "a dog on the beach", "a red car"]
    conditional = hidden_states(backbone, *(prompts[key[-1] % 3] for key in seeds))
    options = {"guidance_scale": 3.0, "num_inference_steps": 4, **options}
    return sample(backbone, conditional, hidden_states(backbone, ""), seeds, **options)


@pytest.mark.parametrize("batch", [1, 3])
def test_starting_and_step_noise_are_bitwise_equal_at_any_batch_size(
    tiny_backbone: Backbone, batch: int
) -> None:
    for key in (("start",), ("step", 4)):
        together = _noise(tiny_backbone, SEEDS, *key)
        chunks = [_noise(tiny_backbone, SEEDS[i : i + batch], *key) for i in range(0, len(SEEDS), batch)]
        assert torch.equal(together, torch.cat(chunks))


def test_every_sample_and_step_has_noise_of_its_own(tiny_backbone: Backbone) -> None:
    drawn = torch.cat([_noise(tiny_backbone, SEEDS, *key) for key in (("start",), ("step", 0), ("step", 1))])
    assert len({tuple(row) for row in drawn.flatten(1).tolist()}) == len(drawn)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_images_agree_within_two_levels_at_any_batch_size(backbone: Backbone, batch: int, eta: float) -> None:
    together = backbone.decode(draw(backbone, SEEDS, eta=eta)).astype(int)
    chunks = [
        backbone.decode(draw(backbone, SEEDS[i : i + batch], eta=eta)) for i in range(0, len(SEEDS), batch)
    ]
    assert np.abs(np.concatenate(chunks).astype(int) - together).max() <= 2
    assert np.abs(together[0] - together[1]).max() > 20


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_loop_agrees_with_diffusers_on_the_same_noise(backbone: Backbone, eta: float) -> None:
    schedule = backbone.noise_scheduler
    alphas = schedule.alphas_cumprod.double()
    betas = 1 - alphas / torch.cat([torch.ones(1).double(), alphas[:-1]])
    scheduler = DDIMScheduler(
        trained_betas=betas.tolist(),
        prediction_type=backbone.prediction_type,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
        set_alpha_to_one=schedule.final_alpha_cumprod == 1.0,
        clip_sample=False,
    )
    scheduler.set_timesteps(10)
    seed = SEEDS[1]
    conditional, negative = hidden_states(backbone, "a dog on the beach"), hidden_states(backbone, "")
    latents = noise(backbone.latent_shape, *seed, "start")[None]
    with torch.no_grad():
        for index, timestep in enumerate(scheduler.timesteps):
            both = backbone.unet(
                torch.cat([latents, latents]),
                timestep,
                encoder_hidden_states=torch.cat([negative, conditional]),
            ).sample
            guided = both[:1] + 4.0 * (both[1:] - both[:1])
            added = noise(backbone.latent_shape, *seed, "step", index)[None] if eta else None
            latents = scheduler.step(guided, timestep, latents, eta=eta, variance_noise=added).prev_sample
    ours = sample(
        backbone, conditional, negative, [seed], guidance_scale=4.0, num_inference_steps=10, eta=eta
    )
    torch.testing.assert_close(ours, latents, rtol=1e-3, atol=1e-3)


def test_the_whole_way_agrees_with_the_pipeline_of_diffusers(
    backbone: Backbone, tiny_folder: Path, tiny_v_folder: Path
) -> None:
    """Prompt to picture, on the same starting noise."""
    from diffusers import StableDiffusionPipeline

    folder = tiny_folder if backbone.prediction_type == "epsilon" else tiny_v_folder
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a dog on the beach",
        guidance_scale=3.0,
        num_inference_steps=5,
        latents=noise(backbone.latent_shape, *SEEDS[1], "start")[None],
        output_type="np",
    ).images
    ours = backbone.decode(draw(backbone, SEEDS[1:2], num_inference_steps=5))
    assert np.abs(ours.astype(int) - (255 * expected).round().astype(int)).max() <= 2


def test_guidance_of_one_ignores_the_negative_prompt(tiny_backbone: Backbone) -> None:
    conditional = hidden_states(tiny_backbone, "a cat")
    options = {"guidance_scale": 1.0, "num_inference_steps": 3}
    first = sample(tiny_backbone, conditional, hidden_states(tiny_backbone, ""), SEEDS[:1], **options)
    second = sample(
        tiny_backbone, conditional, hidden_states(tiny_backbone, "a red car"), SEEDS[:1], **options
    )
    assert torch.equal(first, second)


def test_guidance_costs_one_pass_of_twice_the_batch(tiny_backbone: Backbone) -> None:
    batches: list[int] = []
    hook = tiny_backbone.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    draw(tiny_backbone, SEEDS[:3], num_inference_steps=2)
    draw(tiny_backbone, SEEDS[:3], num_inference_steps=2, guidance_scale=1.0)
    hook.remove()
    assert batches == [6, 6, 3, 3]


def test_full_guidance_rescale_gives_each_sample_the_unguided_spread(tiny_backbone: Backbone) -> None:
    """After one step of epsilon prediction the change of the latents shows the prediction's spread."""
    conditional = hidden_states(tiny_backbone, "a cat", "a dog on the beach")
    negative = hidden_states(tiny_backbone, "a red car on the beach")
    latents = _noise(tiny_backbone, SEEDS[:2], "start")
    timestep = torch.full((2,), tiny_backbone.noise_scheduler.inference_timesteps(1)[0])
    alpha_bar = tiny_backbone.noise_scheduler.alpha_bar(timestep)
    with torch.no_grad():
        prompted = tiny_backbone.predict(latents, timestep, conditional)
    ours = sample(
        tiny_backbone,
        conditional,
        negative,
        SEEDS[:2],
        guidance_scale=9.0,
        num_inference_steps=1,
        guidance_rescale=1.0,
    )
    final = tiny_backbone.noise_scheduler.final_alpha_cumprod
    coefficient = (1 - final) ** 0.5 - final**0.5 * ((1 - alpha_bar) / alpha_bar).sqrt()
    model_pred = (ours - final**0.5 / alpha_bar.sqrt() * latents) / coefficient
    torch.testing.assert_close(
        model_pred.flatten(1).std(dim=1), prompted.flatten(1).std(dim=1), rtol=1e-3, atol=0
    )


def test_every_step_is_reported(tiny_backbone: Backbone) -> None:
    reported: list[tuple[int, int]] = []
    draw(
        tiny_backbone,
        SEEDS[:1],
        num_inference_steps=4,
        on_step=lambda done, total: reported.append((done, total)),
    )
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.fixture
def room_for_one(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the memory suffice for one sample, with and without text, at a time; returns what was tried."""
    original, sizes = tiny_backbone.predict, []

    def predict(noisy_latents: Tensor, *args: Tensor) -> Tensor:
        sizes.append(len(noisy_latents))
        if len(noisy_latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(noisy_latents, *args)

    monkeypatch.setattr(tiny_backbone, "predict", predict)
    return sizes


def test_a_batch_short_of_memory_is_drawn_one_by_one_to_the_same_latents(
    tiny_backbone: Backbone, request: pytest.FixtureRequest
) -> None:
    together = draw(tiny_backbone, SEEDS[:3])
    sizes = request.getfixturevalue("room_for_one")
    alone = draw(tiny_backbone, SEEDS[:3])
    assert sizes == [6, *[2] * 12]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("room_for_one")
def test_progress_of_samples_drawn_one_by_one_runs_over_all_of_them(tiny_backbone: Backbone) -> None:
    reported: list[tuple[int, int]] = []
    draw(tiny_backbone, SEEDS[:2], on_step=lambda *step: reported.append(step))
    assert reported == [(0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (3, 4), (4, 4)]


def test_an_exception_in_the_report_cancels_the_loop(tiny_backbone: Backbone) -> None:
    class CancelledError(Exception):
        pass

    passes: list[int] = []

    def cancel(done: int, total: int) -> None:
        passes.append(done)
        if done == 2:
            raise CancelledError

    with pytest.raises(CancelledError):
        draw(tiny_backbone, SEEDS[:1], on_step=cancel)
    assert passes == [1, 2]


def test_sampling_leaves_the_global_generator_alone(tiny_backbone: Backbone) -> None:
    before = torch.random.get_rng_state()
    draw(tiny_backbone, SEEDS[:1], eta=1.0)
    assert torch.equal(before, torch.random.get_rng_state())
