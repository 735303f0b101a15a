"""The figures of ``conceptloom basemodel check``, with intervals, and the sheets behind them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptloom.backbone import Backbone
from conceptloom.basemodel.check import (
    LOG_SNR_BANDS,
    SUBJECT_THRESHOLD,
    NamedImage,
    SceneAttention,
    best_noun,
    gate_scenes,
    real_render_check,
    scene_attention,
)
from conceptloom.evaluation.statistics import cluster_bootstrap
from conceptloom.judges.names import NameCheck
from conceptloom.pictures import contact_sheet, write_webp
from conceptloom.runs import write_json_atomic
from conceptloom.scenes.backgrounds import load_photos
from conceptloom.scenes.sprites import load_sprites

REAL_RENDERS = 300


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % percentile bootstrap interval over independent units."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of ``values`` (one a scene, or one a noun) and its 95 % bootstrap interval, which has no width for one."""
    if len(values) == 1:
        value = float(values[0])
        return Interval(value, value, value)
    found = cluster_bootstrap(values, range(len(values)), seed=seed)
    return Interval(found.value, found.low, found.high)


@dataclass(frozen=True)
class AttentionReport:
    """The attention gate over all scenes; intervals resample scenes.

    ``pointing_chance`` is how often a peak anywhere would be right, ``iou_ceiling`` the IoU of the true masks after a
    way through the latent grid. Pointing can reach 1.
    """

    scenes: int
    seed: int
    pointing: Interval
    pointing_chance: float
    threshold_iou: Interval
    argmax_iou: Interval
    iou_ceiling: Interval
    swaps: Interval
    shares: dict[str, float]
    layers: dict[str, float]
    bands: dict[str, float]

    def text(self) -> str:
        """The report as a person reads it."""
        rows = [
            f"attention gate: {self.scenes} two-sprite scenes of train sprites, dev photographs, seed {self.seed}",
            f"  pointing                    {self.pointing}  (chance {self.pointing_chance:.3f})",
            f"  subject IoU (max > {SUBJECT_THRESHOLD:g})     {self.threshold_iou}",
            f"  subject IoU (argmax)        {self.argmax_iou}",
            f"  true masks through the grid {self.iou_ceiling}",
            f"  swaps                       {self.swaps}",
            "  shares of attention         "
            + ", ".join(f"{name} {value:.3f}" for name, value in self.shares.items()),
            "  pointing by layer:",
            *(f"    {name:<58} {value:.3f}" for name, value in self.layers.items()),
            "  pointing by log-SNR band:",
            *(f"    {name:<58} {value:.3f}" for name, value in self.bands.items()),
        ]
        return "\n".join(rows)


def check_attention(backbone: Backbone, scenes: int, seed: int) -> AttentionReport:
    """Run the attention gate: training sprites, since the words must be known; dev photographs behind them."""
    found = [
        scene_attention(backbone, scene, seed + index)
        for index, scene in enumerate(
            gate_scenes(load_sprites("train"), load_photos("dev"), scenes, backbone.size, seed)
        )
    ]
    return summarise_attention(found, seed)


def summarise_attention(found: Sequence[SceneAttention], seed: int) -> AttentionReport:
    """Means over scenes, each scene's two nouns averaged first."""

    def over(value: Callable[[SceneAttention], object]) -> Interval:
        return bootstrap([float(np.mean(value(scene))) for scene in found])  # type: ignore[call-overload]

    bands = {f"{low:g} to {high:g}" for low, high in LOG_SNR_BANDS}
    return AttentionReport(
        scenes=len(found),
        seed=seed,
        pointing=over(lambda scene: scene.pointed),
        pointing_chance=float(np.mean([scene.covered for scene in found])),
        threshold_iou=over(lambda scene: scene.threshold_iou),
        argmax_iou=over(lambda scene: scene.argmax_iou),
        iou_ceiling=over(lambda scene: scene.grid_iou),
        swaps=over(lambda scene: scene.swapped),
        shares={name: float(np.mean([scene.shares[name] for scene in found])) for name in found[0].shares},
        layers={
            name: float(np.mean([scene.layer_pointed[name] for scene in found]))
            for name in found[0].layer_pointed
        },
        bands={
            name: float(np.mean([scene.band_pointed[name] for scene in found if name in scene.band_pointed]))
            for name in sorted(bands)
            if any(name in scene.band_pointed for scene in found)
        },
    )


@dataclass(frozen=True)
class NamingReport:
    """The trainless name check; the interval resamples nouns. ``ceiling`` is the judge on real renders."""

    nouns: int
    per_noun: int
    right: Interval
    ceiling: Interval
    right_by_noun: dict[str, float]
    images: tuple[NamedImage, ...]

    def text(self) -> str:
        """The report as a person reads it."""
        ranked = sorted(self.right_by_noun, key=lambda noun: -self.right_by_noun[noun])
        return "\n".join(
            [
                f"name check: 'a NOUN on BACKGROUND', {self.nouns} nouns x {self.per_noun} fixed seeds",
                f"  right noun first among all  {self.right}",
                f"  the judge on real renders   {self.ceiling}  ({REAL_RENDERS} single-sprite scenes)",
                f"  best:  {', '.join(ranked[:12])}",
                f"  worst: {', '.join(ranked[-12:])}",
            ]
        )


def check_names(pictures: Sequence[tuple[str, str, NDArray[np.uint8]]]) -> NamingReport:
    """Let the trainless judge name pictures of one noun each: noun, background and pixels (H, W, 3) of every one."""
    judge = NameCheck(load_sprites("train"))
    images = tuple(
        NamedImage(noun, place, number, pixels, best_noun(judge, pixels))
        for number, (noun, place, pixels) in enumerate(pictures)
    )
    by_noun: dict[str, list[bool]] = defaultdict(list)
    for image in images:
        by_noun[image.noun].append(image.right)
    real = real_render_check(judge, load_photos("dev"), REAL_RENDERS, images[0].pixels.shape[0], 0)
    shares = {noun: float(np.mean(right)) for noun, right in by_noun.items()}
    return NamingReport(
        nouns=len(by_noun),
        per_noun=len(images) // len(by_noun),
        right=bootstrap(list(shares.values())),
        ceiling=bootstrap([float(image.right) for image in real]),
        right_by_noun=shares,
        images=images,
    )


def naming_sheet(images: Sequence[NamedImage]) -> NDArray[np.uint8]:
    """All generated pictures, 16 a row; the label says what was asked and, where wrong, what was seen."""
    labels = [image.noun if image.right else f"{image.noun} ({image.best_noun})" for image in images]
    return contact_sheet([image.pixels for image in images], columns=16, labels=labels)


def write_report(folder: Path, attention: AttentionReport, naming: NamingReport | None) -> list[Path]:
    """Write ``check.json`` and, with names, ``names.webp``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"attention": _plain(attention)}
    paths = [folder / "check.json"]
    if naming is not None:
        report["names"] = {key: value for key, value in _plain(naming).items() if key != "images"}
        paths.append(folder / "names.webp")
        write_webp(paths[-1], naming_sheet(naming.images))
    write_json_atomic(paths[0], report)
    return paths


def _plain(report: AttentionReport | NamingReport) -> dict[str, Any]:
    """A report as JSON values, intervals as mean, low, high."""
    return {
        name: vars(value) if isinstance(value, Interval) else value for name, value in vars(report).items()
    }
