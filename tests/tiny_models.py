"""Tiny random models in the exact layout of Stable Diffusion 1.x: seconds to build, milliseconds to run.

Sizes: pictures 64 px, latents (4, 16, 16), 32 tokens of width 32, cross-attention at 16x16 and 8x8 in the down, mid
and up path. The cross-attention projections are enlarged, so that maps differ between tokens and cells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from conceptloom.basemodel.text import whole_word_merges

PICTURE_SIDE = 64
LATENT_SHAPE = (4, 16, 16)
MAX_TOKENS = 32
WIDTH = 32
CORPUS = (
    "a photo of a cat and a dog on the beach",
    "a photo of a penguin next to a red car on grass",
    "a picture of a bird, a fish, an apple and a pizza in the city",
    "a drawing of a house and a tree under the moon in the snow",
)
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def out_of_memory(*_: object, **__: object) -> NoReturn:
    """Stands in for whatever memory does not suffice for, in CUDA's two lines."""
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def tiny_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE that knows the words of `CORPUS`; every byte has a symbol, the two special tokens come last."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = whole_word_merges([word for line in CORPUS for word in line.replace(",", "").split()])
    symbols = [
        *alphabet,
        *(f"{byte}</w>" for byte in alphabet),
        *("".join(merge) for merge in merges),
        BEGIN,
        END,
    ]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 32."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=5.0,
    )
    return CLIPTextModel(config)


def tiny_unet() -> UNet2DConditionModel:
    """Two levels (16x16, 8x8), cross-attention everywhere."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1],
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_q" in name or "attn2.to_k" in name:
                parameter.mul_(3.0)
    return unet


def tiny_autoencoder() -> AutoencoderKL:
    """Factor 4, four latent channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=PICTURE_SIDE,
        scaling_factor=0.5,
    )


def stable_diffusion_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x: epsilon, scaled-linear betas, leading spacing."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def zero_terminal_snr_scheduler() -> DDIMScheduler:
    """The built-in model's kind: own betas ending in zero terminal SNR, v-prediction, trailing spacing."""
    rescaled = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    return DDIMScheduler(
        trained_betas=rescaled.betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def save_tiny_model(folder: Path, scheduler: DDIMScheduler, seed: int = 0) -> Path:
    """Write a random Stable Diffusion folder of safetensors; the global generator is left as it was."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {"vae": tiny_autoencoder(), "text_encoder": tiny_text_encoder(tokenizer), "unet": tiny_unet()}
    for name, part in {**parts, "tokenizer": tokenizer, "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2), encoding="utf-8")
    return folder
