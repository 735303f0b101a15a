"""From a set's folder and a prompt to images: what the command line and Python callers share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptloom.backbone import Backbone, dropped_tokens, load_backbone
from conceptloom.backbone.loading import BUILTIN
from conceptloom.concepts import ConceptSet
from conceptloom.errors import ConceptSetError
from conceptloom.generation.files import image_names, require_free, save_images
from conceptloom.generation.images import GeneratedImage, OnStep, check_request, generate_images
from conceptloom.generation.settings import SampleSettings, resolve_settings
from conceptloom.runs import expanded


@dataclass(frozen=True, eq=False)
class GenerateJob:
    """A checked request with everything loaded."""

    backbone: Backbone
    concept_set: ConceptSet
    prompts: tuple[str, ...]
    num: int
    seed: int
    settings: SampleSettings

    def images(self, on_step: OnStep | None = None) -> Iterator[GeneratedImage]:
        """Draw; see `generate_images`."""
        return generate_images(
            self.backbone,
            self.concept_set,
            self.prompts,
            num=self.num,
            seed=self.seed,
            settings=self.settings,
            on_step=on_step,
        )

    def names(self) -> list[str]:
        """File name of each image."""
        return image_names(self.prompts, self.seed, self.num)

    def dropped_tokens(self) -> dict[str, int]:
        """By prompt, the negative one too, how many tokens at its end are not read; see `dropped_tokens`."""
        texts = (*self.prompts, self.settings.negative_prompt)
        return dropped_tokens(self.backbone, texts, self.concept_set.placeholders)


def generate(
    concept_set: ConceptSet | str | Path,
    prompts: str | Sequence[str],
    *,
    num: int = 1,
    seed: int = 0,
    base_model: str | Path | Backbone = BUILTIN,
    device: str = "auto",
    dtype: str = "auto",
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    batch_size: int | None = None,
    negative_prompt: str = "",
    out: str | Path | None = None,
    on_step: OnStep | None = None,
) -> list[GeneratedImage]:
    """Generate images of learned concepts.

    >>> generate("my-set", "a <cat> riding a <car> on <beach>", num=8)  # doctest: +SKIP

    Args:
        concept_set: a set or its folder.
        prompts: one or several; each names at least one concept as ``<name>``. Words at the end that the base model
            has no room for (75 tokens for most) are not read, here as in `negative_prompt`; nothing tells of them but
            `GenerateJob.dropped_tokens`.
        num: images per prompt.
        seed: image i of a seed is the same whatever `num` and `batch_size` are.
        base_model: "builtin", a diffusers folder, or a loaded model; the one the set was learned on.
        device: "auto", "cpu", "cuda" or "mps"; not used with a loaded model.
        dtype: "auto", "float32", "bfloat16" or "float16"; not used with a loaded model.
        guidance_scale: 1 or more; left out, what suits the base model, as the next two.
        num_inference_steps: 1 or more.
        batch_size: images drawn at a time.
        negative_prompt: what to lead away from.
        out: folder for the images with their provenance and a contact sheet; None writes nothing.
        on_step: called with (denoising steps done, denoising steps in all).

    Returns:
        The images, prompt by prompt.

    Raises:
        ConceptloomError: something given can't be used; the message says what, and what to do.
    """
    out = None if out is None else expanded(out)
    job = prepare_job(
        concept_set,
        prompts,
        num=num,
        seed=seed,
        base_model=base_model,
        device=device,
        dtype=dtype,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        negative_prompt=negative_prompt,
        out=out,
    )
    if out is None:
        return list(job.images(on_step))
    return [image for _, image in save_images(job.images(on_step), out, job.names())]


def prepare_job(
    concept_set: ConceptSet | str | Path,
    prompts: str | Sequence[str],
    *,
    num: int = 1,
    seed: int = 0,
    base_model: str | Path | Backbone = BUILTIN,
    device: str = "auto",
    dtype: str = "auto",
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    batch_size: int | None = None,
    negative_prompt: str = "",
    out: str | Path | None = None,
) -> GenerateJob:
    """Load set and base model and check the request; arguments as for `generate`.

    What can be refused without the base model is refused before it is loaded.
    """
    if not isinstance(concept_set, ConceptSet):
        concept_set = ConceptSet.load(concept_set)
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    check_request(concept_set, prompts, num, seed)
    settings = resolve_settings(
        concept_set.base.version,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        negative_prompt=negative_prompt,
    )
    if out is not None:
        require_free(expanded(out), image_names(prompts, seed, num))
    if base_model == BUILTIN and concept_set.base.version is None and concept_set.base.name != BUILTIN:
        raise ConceptSetError(
            f"the set was learned on '{concept_set.base.name}', not on the built-in model:"
            " name the folder of that base model too"
        )
    backbone = base_model if isinstance(base_model, Backbone) else load_backbone(base_model, device, dtype)
    concept_set.check_base(backbone)
    return GenerateJob(backbone, concept_set, prompts, num, seed, settings)
