"""Build the built-in model from its parts, keep its training state, and export what ships.

Training state lives in the user cache folder, ``autoencoder`` and ``denoiser`` under ``training_folder``. A build from
nothing begins with an autoencoder of its own and takes nothing that ships. When there is no state, ``resume``
warm-restarts from the shipped averaged weights, if of the same shape, with a fresh optimiser.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from conceptloom.basemodel.autoencoder import (
    AutoencoderConfig,
    load_averaged_autoencoder,
    standardise_latents,
    train_autoencoder,
)
from conceptloom.basemodel.denoiser import (
    Denoiser,
    DenoiserConfig,
    LatentBuffer,
    build_denoiser,
    load_averaged,
    train_denoiser,
)
from conceptloom.basemodel.training import (
    SceneStream,
    TrainProgress,
    fast_dtype,
    has_state,
    load_state,
    to_model_range,
)
from conceptloom.errors import DataError
from conceptloom.scenes.backgrounds import COLOURS, DRAWN, Photo, load_photos
from conceptloom.scenes.captions import vocabulary
from conceptloom.scenes.composer import SceneRules
from conceptloom.scenes.sprites import Sprite, load_sprites, nouns

VERSION = "builtin-6"  # the one in training
STREAM_SEED = 1
STANDARDISED_OVER = 256


@dataclass(frozen=True)
class BuildPlan:
    """Both trainings and how long each lasts, in crops and in pictures seen."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    autoencoder_samples: int = 70_000
    autoencoder_anneal: int = 14_000
    denoiser_samples: int = 3_000_000


def shipped_folder() -> Path:
    """The folder of the built-in model inside the package."""
    return Path(str(files("conceptloom") / "data" / "builtin"))


def continues_shipped(plan: BuildPlan) -> bool:
    """Whether the shipped model has the plan's shape, so that training can go on from its weights."""
    return _has_shape(plan, shipped_folder())


def _has_shape(plan: BuildPlan, folder: Path) -> bool:
    path = folder / "conceptloom.json"
    if not path.is_file():
        return False
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        autoencoder, denoiser = dict(meta["autoencoder"]), dict(meta["denoiser"])
    except (ValueError, TypeError, LookupError):
        return False
    planned = json.loads(
        json.dumps({"autoencoder": asdict(plan.autoencoder), "denoiser": asdict(plan.denoiser)})
    )
    shape = ("channels", "layers_per_block", "head_width", "text", "log_snr_shift")
    return bool(
        autoencoder == planned["autoencoder"]
        and all(denoiser.get(key) == planned["denoiser"][key] for key in shape)
    )


def require_start(plan: BuildPlan, folder: Path) -> None:
    """Raise ``DataError`` unless training can begin with the weights of ``folder``: same shape and latents as shipped.

    Concepts and caches depend on the autoencoder, so it must be the very one that ships.
    """
    weights = "diffusion_pytorch_model.safetensors"
    own, shipped = folder / "vae" / weights, shipped_folder() / "vae" / weights
    if not own.is_file() or own.read_bytes() != shipped.read_bytes() or not _has_shape(plan, folder):
        raise DataError(
            f"{folder} is no version of the built-in model with the shape and the autoencoder of the one that ships:"
            " name a folder that 'conceptloom basemodel export' wrote"
        )


def training_folder(cache: Path) -> Path:
    """Where the training of this ``VERSION`` keeps its state, log and sheets."""
    return cache / "training" / VERSION


def training_photos(cache: Path) -> tuple[Photo, ...]:
    """All training photographs, which only ``make sprites`` fetches."""
    folder = cache / "backgrounds"
    if not (folder / "backgrounds.json").is_file():
        raise DataError(f"training needs every photograph and {folder} is absent: run 'make sprites' first")
    return load_photos("train", folder)


def training_stream(plan: BuildPlan, cache: Path) -> SceneStream:
    """The endless stream of training scenes: ``train`` sprites and ``train`` photographs only."""
    rules = SceneRules(side_px=plan.autoencoder.side_px)
    return SceneStream(load_sprites("train"), training_photos(cache), rules, STREAM_SEED)


def curriculum_stream(plan: BuildPlan, cache: Path) -> SceneStream:
    """The same in the order in which the U-Net sees it: few nouns, easy scenes and lead drawings first."""
    stream, shares = training_stream(plan, cache), plan.denoiser
    return SceneStream(
        stream.sprites,
        stream.photos,
        stream.rules,
        STREAM_SEED,
        shares.easy_share,
        shares.lead_shares,
        shares.first_nouns,
        shares.doubling_scenes,
    )


def background_labels(photos: Sequence[Photo]) -> tuple[str, ...]:
    """Every word for a background that training captions hold."""
    plain = [f"{colour} background" for colour in COLOURS]
    return tuple(sorted({*(photo.label for photo in photos), *DRAWN, *plain}))


def caption_words(sprites: Sequence[Sprite], photos: Sequence[Photo]) -> tuple[str, ...]:
    """Every word the tokenizer must know whole."""
    class_words = sorted({sprite.class_word for sprite in sprites})
    return vocabulary(nouns(sprites), class_words, background_labels(photos))


def is_from_nothing(cache: Path) -> bool:
    """Whether the training in the cache has an autoencoder of its own, with which a build from nothing begins."""
    return has_state(training_folder(cache) / "autoencoder")


def build_autoencoder_stage(plan: BuildPlan, cache: Path) -> Iterator[TrainProgress]:
    """Train an autoencoder from nothing, or go on where an earlier build stopped.

    Raises:
        DataError: the cache holds a training that began with the shipped weights.
    """
    denoiser = training_folder(cache) / "denoiser"
    if has_state(denoiser) and not is_from_nothing(cache):
        raise DataError(
            f"{denoiser} holds a training that began with the shipped weights: go on with 'conceptloom basemodel"
            " resume', or move that folder away to build from nothing"
        )
    stream = training_stream(plan, cache)
    folder = training_folder(cache) / "autoencoder"
    yield from train_autoencoder(
        plan.autoencoder,
        stream,
        folder,
        plan.autoencoder_samples,
        anneal_samples=plan.autoencoder_anneal,
        dtype=fast_dtype(),
    )


def frozen_autoencoder(plan: BuildPlan, cache: Path) -> AutoencoderKL:
    """The settled autoencoder: that of a build from nothing where there is one, else the shipped one.

    Every cached latent and stored concept depends on it, so a shipped autoencoder is never trained on.

    Raises:
        DataError: it is not trained to its end, or there is none and the shipped one has another shape.
    """
    folder = training_folder(cache) / "autoencoder"
    if not is_from_nothing(cache):
        if not continues_shipped(plan):
            raise DataError(
                f"{VERSION} needs an autoencoder and {folder} holds none: run 'conceptloom basemodel build' first"
            )
        model: AutoencoderKL = AutoencoderKL.from_pretrained(shipped_folder() / "vae", local_files_only=True)
        return model.eval().requires_grad_(False)
    seen = int(str(load_state(folder, None)[1]["step"])) * plan.autoencoder.batch_size
    if seen < plan.autoencoder_samples:
        raise DataError(
            f"the autoencoder in {folder} has seen {seen} of {plan.autoencoder_samples} crops:"
            " run 'conceptloom basemodel build' until it has seen all"
        )
    model = load_averaged_autoencoder(plan.autoencoder, folder)
    stream = training_stream(plan, cache)
    pixels = np.stack([stream.scene(10_000_000 + index).pixels for index in range(STANDARDISED_OVER)])
    standardise_latents(model, to_model_range(pixels))
    return model


def build_denoiser_stage(
    plan: BuildPlan,
    cache: Path,
    seconds: float = float("inf"),
    anneal: bool = False,
    threads: int = 1,
    start: Path | None = None,
) -> Iterator[TrainProgress]:
    """Train U-Net and text encoder on the frozen autoencoder's latents; the state in the cache is used when there.

    Without it, weights start from those of the model folder ``start``, else of the shipped one if it has the same shape
    (fresh optimiser, short warm-up, lower rates), in a build from nothing at random.
    With ``anneal`` the rates fall towards nothing over ``seconds``: what is to ship ends so.
    """
    stream = curriculum_stream(plan, cache)
    autoencoder = frozen_autoencoder(plan, cache)
    denoiser = fresh_denoiser(plan, cache, autoencoder)
    folder = training_folder(cache) / "denoiser"
    seen = 0
    if start is not None:
        if has_state(folder) or is_from_nothing(cache):
            raise DataError(f"the training in {folder} has begun already: go on without --start")
        require_start(plan, start)
    if not has_state(folder) and not is_from_nothing(cache):
        seen = warm_start(denoiser, start or shipped_folder())
    dtype = fast_dtype()
    buffer = LatentBuffer(stream, autoencoder, plan.denoiser, dtype)
    yield from train_denoiser(
        plan.denoiser,
        denoiser,
        buffer,
        folder,
        plan.denoiser_samples,
        seconds,
        seen=seen,
        dtype=dtype,
        anneal=anneal,
        threads=threads,
    )


def fresh_denoiser(plan: BuildPlan, cache: Path, autoencoder: AutoencoderKL) -> Denoiser:
    """A denoiser of the plan's shape with random weights."""
    words = caption_words(load_sprites("train"), training_photos(cache))
    return build_denoiser(plan.denoiser, words, int(autoencoder.config["latent_channels"]))


def warm_start(denoiser: Denoiser, folder: Path) -> int:
    """Overwrite the denoiser's weights with those of an exported model of the same shape.

    Returns the pictures that these have seen.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True, dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, dtype=torch.float32)
    denoiser.unet.load_state_dict(unet.state_dict())
    denoiser.text_encoder.load_state_dict(text.state_dict())
    return int(json.loads((folder / "conceptloom.json").read_text(encoding="utf-8"))["samples_seen"])


def export_trained(plan: BuildPlan, cache: Path, folder: Path) -> int:
    """Write the averaged weights of the training in the cache as a model folder; returns the samples seen."""
    autoencoder = frozen_autoencoder(plan, cache)
    denoiser = fresh_denoiser(plan, cache, autoencoder)
    samples = load_averaged(plan.denoiser, denoiser, training_folder(cache) / "denoiser")
    backgrounds = background_labels(training_photos(cache))
    export_model(denoiser, autoencoder, plan, backgrounds, nouns(load_sprites("train")), samples, folder)
    return samples


def export_model(
    denoiser: Denoiser,
    autoencoder: AutoencoderKL,
    plan: BuildPlan,
    backgrounds: Sequence[str],
    taught: Sequence[str],
    samples: int,
    folder: Path,
) -> None:
    """Write a folder that ``StableDiffusionPipeline.from_pretrained`` loads, fp16, with ``conceptloom.json`` beside it.

    The folder is replaced only when the new one is complete.
    """
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=denoiser.tokenizer,
        unet=denoiser.unet,
        scheduler=DDIMScheduler.from_config(denoiser.scheduler.config),
        safety_checker=None,  # type: ignore[arg-type]  # optional, annotated as if not
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    scratch = folder.with_name(folder.name + ".new")
    if scratch.exists():
        shutil.rmtree(scratch)
    pipeline.to(dtype=torch.float16).save_pretrained(scratch, safe_serialization=True)
    pipeline.to(dtype=torch.float32)
    _write_vocabulary(denoiser.tokenizer, scratch / "tokenizer")
    for config in scratch.glob("*/config.json"):
        _forget_origin(config)
    meta = {
        "version": VERSION,
        "size": plan.autoencoder.side_px,
        "backgrounds": list(backgrounds),
        "nouns": list(taught),
        "samples_seen": samples,
        "autoencoder": asdict(plan.autoencoder),
        "denoiser": asdict(plan.denoiser),
    }
    (scratch / "conceptloom.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    scratch.rename(folder)


def _forget_origin(config: Path) -> None:
    """Take out where the part was loaded from: a folder of the machine that trained it."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` beside ``tokenizer.json``: what transformers 4 and other tools read."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(whole["vocab"], ensure_ascii=False), encoding="utf-8")
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
