"""Noise schedule and its equations, against closed forms and diffusers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from conceptloom.backbone import NoiseSchedule
from conceptloom.backbone.schedule import add_noise, clean_and_noise, ddim_step, training_target
from conceptloom.errors import ConfigError
from conceptloom.seeding import noise
from tiny_models import stable_diffusion_scheduler, zero_terminal_snr_scheduler

PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


def schedule_of(scheduler: DDIMScheduler) -> NoiseSchedule:
    return NoiseSchedule(
        scheduler.alphas_cumprod,
        float(scheduler.final_alpha_cumprod),
        scheduler.config.prediction_type,
        scheduler.config.timestep_spacing,
        scheduler.config.steps_offset,
    )


def test_noisy_latents_and_velocity_are_those_of_diffusers() -> None:
    scheduler = stable_diffusion_scheduler()
    latents, eps = noise((4, 2, 3, 3), 0), noise((4, 2, 3, 3), 1)
    timesteps = torch.tensor([0, 10, 500, 999])
    alpha_bar = schedule_of(scheduler).alpha_bar(timesteps)
    torch.testing.assert_close(
        add_noise(latents, eps, alpha_bar), scheduler.add_noise(latents, eps, timesteps)
    )
    torch.testing.assert_close(
        training_target(latents, eps, alpha_bar, "v_prediction"),
        scheduler.get_velocity(latents, eps, timesteps),
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_gives_back_clean_latents_and_noise(prediction_type) -> None:
    latents, eps = noise((3, 2, 3, 3), 0).double(), noise((3, 2, 3, 3), 1).double()
    alpha_bar = torch.tensor([0.9, 0.5, 0.02], dtype=torch.float64).view(-1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * eps
    target = training_target(latents, eps, alpha_bar, prediction_type)
    clean, added = clean_and_noise(noisy, target.double(), alpha_bar, prediction_type)
    torch.testing.assert_close(clean, latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(added, eps, rtol=0, atol=1e-5)


def test_noise_is_added_in_float32_to_half_precision_latents() -> None:
    """In bfloat16 alpha_bar itself would lose its digits."""
    alpha_bar = schedule_of(stable_diffusion_scheduler()).alpha_bar(torch.tensor([1]))
    latents, eps = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)
    noisy = add_noise(latents, eps, alpha_bar)
    assert noisy.dtype == torch.bfloat16
    assert noisy.item() == alpha_bar.sqrt().bfloat16().item()


@pytest.mark.parametrize("num_inference_steps", [1, 4, 7, 10, 25, 30, 50, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_inference_timesteps_are_those_of_diffusers(spacing, num_inference_steps: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(num_inference_steps)
    ours = replace(schedule_of(scheduler), timestep_spacing=spacing).inference_timesteps(num_inference_steps)
    assert list(ours) == scheduler.timesteps.tolist()


def test_the_offset_of_leading_timesteps_never_leaves_the_schedule() -> None:
    schedule = schedule_of(stable_diffusion_scheduler())
    assert schedule.steps_offset == 1
    assert schedule.inference_timesteps(50)[-1] == 1
    assert max(schedule.inference_timesteps(1000)) == 999


@pytest.mark.parametrize("num_inference_steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(num_inference_steps: int) -> None:
    with pytest.raises(ConfigError, match="between 1 and 1000"):
        schedule_of(stable_diffusion_scheduler()).inference_timesteps(num_inference_steps)


def test_log_snr_is_the_logarithm_of_signal_over_noise() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.2, 0.0]), 1.0, "v_prediction")
    log_snr = schedule.log_snr(torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(log_snr[:3].exp(), torch.tensor([9.0, 1.0, 0.25]))
    assert log_snr[3] == -torch.inf


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddim_step_agrees_with_diffusers(prediction_type, eta: float) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
    )
    scheduler.set_timesteps(10)
    schedule = schedule_of(scheduler)
    latents, model_pred, added = (noise((2, 4, 3, 3), index) for index in range(3))
    timesteps = schedule.inference_timesteps(10)
    for index, timestep in enumerate(timesteps):
        expected = scheduler.step(
            model_pred, timestep, latents, eta=eta, variance_noise=added if eta else None
        )
        alpha_bar = schedule.alphas_cumprod[timestep]
        last = index + 1 == len(timesteps)
        following = (
            torch.tensor(schedule.final_alpha_cumprod)
            if last
            else schedule.alphas_cumprod[timesteps[index + 1]]
        )
        clean, eps = clean_and_noise(latents, model_pred, alpha_bar, prediction_type)
        ours = ddim_step(clean, eps, alpha_bar, following, eta, added if eta else None)
        torch.testing.assert_close(ours, expected.prev_sample, rtol=1e-5, atol=1e-5)


def test_ddim_with_eta_one_is_the_ddpm_posterior() -> None:
    scheduler = DDPMScheduler(variance_type="fixed_small", clip_sample=False)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, 1.0, "epsilon")
    latents, eps_pred, added = (noise((1, 4, 3, 3), index) for index in range(3))
    alpha_bar, following = schedule.alphas_cumprod[600], schedule.alphas_cumprod[599]
    clean, eps = clean_and_noise(latents, eps_pred, alpha_bar, "epsilon")
    ours = ddim_step(clean, eps, alpha_bar, following, 1.0, added)
    beta = 1 - alpha_bar / following
    mean = following.sqrt() * beta / (1 - alpha_bar) * clean
    mean = mean + (1 - beta).sqrt() * (1 - following) / (1 - alpha_bar) * latents
    expected = mean + ((1 - following) / (1 - alpha_bar) * beta).sqrt() * added
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_perfect_prediction_leads_from_pure_noise_to_the_clean_latents() -> None:
    """Zero terminal SNR: the first step starts where no signal is left."""
    schedule = schedule_of(zero_terminal_snr_scheduler())
    assert float(schedule.alphas_cumprod[-1]) == 0.0
    clean_latents, eps_start = noise((2, 4, 3, 3), 0), noise((2, 4, 3, 3), 1)
    latents = eps_start
    timesteps = schedule.inference_timesteps(8)
    assert timesteps[0] == 999
    for index, timestep in enumerate(timesteps):
        alpha_bar = schedule.alphas_cumprod[timestep]
        eps = (latents - alpha_bar.sqrt() * clean_latents) / (1 - alpha_bar).sqrt()
        velocity = training_target(clean_latents, eps, alpha_bar, "v_prediction")
        last = index + 1 == len(timesteps)
        following = (
            torch.tensor(schedule.final_alpha_cumprod)
            if last
            else schedule.alphas_cumprod[timesteps[index + 1]]
        )
        latents = ddim_step(
            *clean_and_noise(latents, velocity, alpha_bar, "v_prediction"), alpha_bar, following
        )
    torch.testing.assert_close(latents, clean_latents, rtol=0, atol=1e-4)
