"""The base model's own methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from conceptloom.backbone import Backbone, Moments, load_backbone
from conceptloom.backbone.model import _attention_modules
from conceptloom.seeding import noise, numpy_generator
from tiny_models import LATENT_SHAPE, MAX_TOKENS, PICTURE_SIDE, WIDTH


def pictures(count: int) -> np.ndarray:
    return numpy_generator(0, "pictures").integers(
        0, 256, (count, PICTURE_SIDE, PICTURE_SIDE, 3), dtype=np.uint8
    )


def test_sizes_come_from_the_models_configuration(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.size == PICTURE_SIDE
    assert tiny_backbone.latent_shape == LATENT_SHAPE
    assert tiny_backbone.max_tokens == MAX_TOKENS
    assert tiny_backbone.embedding_dim == WIDTH
    assert tiny_backbone.num_train_timesteps == 1000


def test_the_sides_of_stable_diffusions_four_levels_are_those_of_its_queries() -> None:
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=2,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    layers = _attention_modules(unet, 32, "attn2")
    cells: dict[str, int] = {}
    for layer, module in layers:
        module.register_forward_pre_hook(
            lambda _, args, name=layer.name: cells.update({name: args[0].shape[1]}),
        )
    with torch.no_grad():
        unet(noise((1, 4, 32, 32), 0), 10, encoder_hidden_states=noise((1, 5, 8), 1))
    assert {layer.name: layer.side**2 for layer, _ in layers} == cells
    places = [layer.place for layer, _ in layers]
    assert places == ["down"] * 6 + ["mid"] + ["up"] * 9


def test_all_weights_are_frozen_and_in_evaluation_mode(tiny_backbone: Backbone) -> None:
    for model in (tiny_backbone.unet, tiny_backbone.text_encoder, tiny_backbone.vae):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_moments_are_the_autoencoders_scaled(tiny_backbone: Backbone, tiny_folder) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_folder / "vae").eval()
    pixels = pictures(2)
    signed = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(signed).latent_dist
    moments = tiny_backbone.encode_moments(pixels)
    torch.testing.assert_close(moments.mean, expected.mean * vae.config.scaling_factor)
    torch.testing.assert_close(moments.std, expected.std * vae.config.scaling_factor)


def test_a_sample_of_the_moments_is_mean_plus_std_times_noise() -> None:
    moments = Moments(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5))
    assert moments.sample(torch.full((1, 1, 1, 1), -3.0)).item() == 0.5


def test_decoding_undoes_scale_and_shift(tiny_folder) -> None:
    backbone = load_backbone(tiny_folder, "cpu", "float32")
    latents = noise((3, *LATENT_SHAPE), 0)
    plain = backbone.decode(latents)
    with torch.no_grad():
        signed = backbone.vae.decode(latents / 0.5).sample
    expected = ((signed / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert plain.dtype == np.uint8
    assert plain.shape == (3, PICTURE_SIDE, PICTURE_SIDE, 3)
    assert np.abs(plain - expected).max() <= 1


@pytest.mark.parametrize("count", [1, 3, 130])
def test_chunking_changes_no_picture(tiny_backbone: Backbone, count: int) -> None:
    """130 pictures of 64 px need two passes."""
    latents = noise((count, *LATENT_SHAPE), 0)
    together = tiny_backbone.decode(latents).astype(int)
    last = tiny_backbone.decode(latents[-1:]).astype(int)
    assert len(together) == count
    assert np.abs(together[-1:] - last).max() <= 1


def test_pictures_of_another_size_are_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(AssertionError, match="expected"):
        tiny_backbone.encode_moments(np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_the_target_is_noise_for_epsilon_and_velocity_for_v(
    tiny_backbone: Backbone, tiny_v_backbone: Backbone
) -> None:
    latents, eps = noise((2, *LATENT_SHAPE), 0), noise((2, *LATENT_SHAPE), 1)
    timesteps = torch.tensor([100, 999])
    assert torch.equal(tiny_backbone.target(latents, eps, timesteps), eps)
    velocity = tiny_v_backbone.target(latents, eps, timesteps)
    torch.testing.assert_close(
        velocity[1], -latents[1]
    )  # zero terminal SNR: all is noise at the last timestep
    assert not torch.allclose(velocity[0], -latents[0])


def test_at_zero_terminal_snr_the_noisy_latents_are_pure_noise(tiny_v_backbone: Backbone) -> None:
    latents, eps = noise((1, *LATENT_SHAPE), 0), noise((1, *LATENT_SHAPE), 1)
    assert torch.equal(tiny_v_backbone.add_noise(latents, eps, torch.tensor([999])), eps)


def test_log_snr_falls_with_the_timestep(tiny_backbone: Backbone) -> None:
    assert (tiny_backbone.log_snr(torch.arange(1000)).diff() < 0).all()


def test_bfloat16_on_the_cpu_keeps_weights_and_results_in_float32(
    tiny_folder, tiny_backbone: Backbone
) -> None:
    half = load_backbone(tiny_folder, "cpu", "bfloat16")
    latents, hidden_states = noise((1, *LATENT_SHAPE), 0), noise((1, MAX_TOKENS, WIDTH), 1)
    timesteps = torch.tensor([500])
    with torch.no_grad():
        coarse, fine = (model.predict(latents, timesteps, hidden_states) for model in (half, tiny_backbone))
    assert half.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float32}
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - fine).abs().max() < 0.05


def test_the_autoencoder_stays_in_float32_beside_a_unet_of_half_precision(
    tiny_folder, tiny_backbone: Backbone
) -> None:
    half = load_backbone(tiny_folder, "cpu", "bfloat16")
    assert {parameter.dtype for parameter in half.vae.parameters()} == {torch.float32}
    latents = noise((1, *LATENT_SHAPE), 0)
    assert (half.decode(latents.bfloat16()) == tiny_backbone.decode(latents.bfloat16().float())).all()
