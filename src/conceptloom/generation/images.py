"""The loop from prompts and seeds to images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone import (
    Backbone,
    TokenizedPrompt,
    WeightsDelta,
    applied_weights,
    encode_prompts,
    refuse_stray_brackets,
    sample,
    telling_of_memory,
    tokenize,
)
from conceptloom.concepts import ConceptSet
from conceptloom.errors import ConfigError, DeviceError, PromptError
from conceptloom.generation.prompts import check_prompt
from conceptloom.generation.settings import SampleSettings, resolve_settings
from conceptloom.runs import provenance

MAX_IMAGES = 10_000
"""Per prompt and call."""

OnStep = Callable[[int, int], None]
"""Called with (denoising steps done, denoising steps in all), both summed over the images asked for."""


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """One image, and all it takes to draw it again.

    Attributes:
        pixels: (H, W, 3) uint8 sRGB.
        prompt: as given.
        seed: as given.
        index: number of the image under its prompt and seed, from 0.
        provenance: plain data: the three above, base model, concepts, settings, versions.
    """

    pixels: npt.NDArray[np.uint8]
    prompt: str
    seed: int
    index: int
    provenance: Mapping[str, Any]


def generate_images(
    backbone: Backbone,
    concept_set: ConceptSet,
    prompts: Sequence[str],
    *,
    num: int = 1,
    seed: int = 0,
    settings: SampleSettings | None = None,
    on_step: OnStep | None = None,
    keep_blank: bool = False,
) -> Iterator[GeneratedImage]:
    """Draw `num` images of each prompt, prompt by prompt, and yield each one when its batch is done.

    Image i of a seed depends on prompt, seed and i alone: neither on `num` nor on the batch it is drawn in (on a CPU
    in float32 to 2/255). All prompts begin from the same noise, so they can be compared. The set's weights are lent
    to the base model for each batch: between two images it is as it was, bit for bit.

    Args:
        backbone: the model the set was learned on.
        concept_set: the concepts that prompts may name.
        prompts: each names at least one concept as ``<name>``.
        num: images per prompt.
        seed: of all noise.
        settings: None takes the defaults of the model's family.
        on_step: progress; an exception it raises stops the loop and leaves nothing behind.
        keep_blank: yield a black image, and one without finite values as black, for whoever measures what a set draws.

    Raises:
        PromptError: a prompt that names no concept or an unknown one, or has one cut off by the token limit.
        ConceptSetError: the set belongs to another base model.
        ConfigError: no images asked for, a negative seed, more steps than the model has.
        DeviceError: (while drawing) out of memory, or, without `keep_blank`, an image without finite values or black.
    """
    settings = settings or resolve_settings(backbone.version)
    check_request(concept_set, prompts, num, seed)
    concept_set.check_base(backbone)
    backbone.noise_scheduler.inference_timesteps(settings.num_inference_steps)
    placeholders = concept_set.placeholders
    texts = [tokenize(backbone, prompt, placeholders) for prompt in prompts]
    refuse_stray_brackets(settings.negative_prompt, ", ".join(placeholders))
    negative = tokenize(backbone, settings.negative_prompt, placeholders)
    return _drawn(backbone, concept_set, prompts, texts, negative, num, seed, settings, on_step, keep_blank)


def check_request(concept_set: ConceptSet, prompts: Sequence[str], num: int, seed: int) -> None:
    """Raise `PromptError` or `ConfigError` for what can be refused without the base model."""
    if not prompts:
        raise PromptError("no prompt is given: write one that names a concept as <name>")
    for prompt in prompts:
        check_prompt(prompt, concept_set.placeholders)
    if not 1 <= num <= MAX_IMAGES:
        raise ConfigError(f"the number of images is {num}: choose 1 to {MAX_IMAGES}")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}: choose 0 or more")


def _drawn(
    backbone: Backbone,
    concept_set: ConceptSet,
    prompts: Sequence[str],
    texts: Sequence[TokenizedPrompt],
    negative: TokenizedPrompt,
    num: int,
    seed: int,
    settings: SampleSettings,
    on_step: OnStep | None,
    keep_blank: bool,
) -> Iterator[GeneratedImage]:
    shared = _shared_provenance(backbone, concept_set, settings)
    total = len(prompts) * num
    for start in range(0, total, settings.batch_size):
        places = [divmod(place, num) for place in range(start, min(start + settings.batch_size, total))]
        latents, pictures = _draw_batch(
            backbone,
            concept_set,
            [texts[prompt] for prompt, _ in places],
            negative,
            [index for _, index in places],
            seed,
            settings,
            _overall(on_step, start, len(places), total),
        )
        finite = latents.isfinite().flatten(1).all(dim=1).tolist()
        for (prompt, index), pixels, is_finite in zip(places, pictures, finite, strict=True):
            if not is_finite or not pixels.any():
                if not keep_blank:
                    raise DeviceError(_blank_message(index, seed, backbone.dtype, is_finite))
                pixels = np.zeros_like(pixels)
            own = {"prompt": prompts[prompt], "seed": seed, "index": index}
            yield GeneratedImage(pixels, prompts[prompt], seed, index, {**own, **shared})


@torch.no_grad()
def _draw_batch(
    backbone: Backbone,
    concept_set: ConceptSet,
    texts: Sequence[TokenizedPrompt],
    negative: TokenizedPrompt,
    indices: Sequence[int],
    seed: int,
    settings: SampleSettings,
    on_step: OnStep | None,
) -> tuple[Tensor, npt.NDArray[np.uint8]]:
    """Latents (B, c, h, w) and pictures (B, H, W, 3) of one batch under the set's tokens and weights."""
    rows = concept_set.rows()
    advice = "choose a smaller batch size or another device"
    with telling_of_memory(backbone.device, f"{len(indices)} images a batch", advice):
        with applied_weights(backbone, concept_set.weights):
            latents = sample(
                backbone,
                encode_prompts(backbone, texts, rows),
                encode_prompts(backbone, [negative], rows),
                [(seed, "generate", index) for index in indices],
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
                on_step=on_step,
            )
        return latents, backbone.decode(latents)


def _overall(on_step: OnStep | None, images_before: int, images_now: int, images: int) -> OnStep | None:
    """A batch's own progress as progress over all images."""
    if on_step is None:
        return None

    def report(step: int, steps: int) -> None:
        on_step(images_before * steps + images_now * step, images * steps)

    return report


def _blank_message(index: int, seed: int, dtype: torch.dtype, is_finite: bool) -> str:
    fault = "is black all over" if is_finite else "has values that are not finite"
    advice = "a lower guidance scale" if dtype == torch.float32 else "dtype float32"
    return f"image {index} of seed {seed} {fault}: try {advice}, or learn the set again if all images do"


def _shared_provenance(
    backbone: Backbone, concept_set: ConceptSet, settings: SampleSettings
) -> dict[str, Any]:
    """What all images of a call have in common.

    No date, host, path or batch size: the same command writes the same bytes.
    """
    sampling = asdict(settings)
    del sampling["batch_size"]
    weights = concept_set.weights
    return {
        **sampling,
        "base_model": {
            "name": backbone.name,
            "version": backbone.version,
            "fingerprint": backbone.fingerprint,
        },
        "concepts": {
            concept.placeholder_token: {
                "kind": concept.kind,
                "initializer": concept.initializer,
                "sha256": _sha256({"": concept_set.embeddings[concept.name]}),
            }
            for concept in concept_set.concepts
        },
        "weights": None if weights is None else {"kind": weights.kind, "sha256": _weights_sha256(weights)},
        "device": backbone.device.type,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "software": {name: value for name, value in provenance().items() if name != "date"},
    }


def _weights_sha256(weights: WeightsDelta) -> str:
    scale = "" if weights.rank is None or weights.alpha is None else f"{weights.alpha / weights.rank}"
    return _sha256({f"{scale} {name}": tensor for name, tensor in weights.tensors.items()})


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
