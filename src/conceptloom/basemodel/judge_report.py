"""What a judge is worth: how often it names drawings rightly, finds them, and refuses what is none.

Everything is measured on scenes of seeds that training never drew. Drawings and photographs are those it was trained
on: it must know what it judges. Damage comes in two kinds it never saw, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conceptloom.basemodel.damage import KINDS, damage
from conceptloom.basemodel.report import Interval, bootstrap
from conceptloom.judges.detector import Detections, Judge, box_iou
from conceptloom.judges.networks import Thresholds
from conceptloom.scenes.backgrounds import Photo
from conceptloom.scenes.composer import Scene, SceneRules, compose, random_background, random_scene
from conceptloom.scenes.sprites import ROLES, Sprite
from conceptloom.seeding import numpy_generator

Redraw = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""What the autoencoder makes of pictures (B, H, W, 3)."""

FALSE_REFUSALS = 0.02
"""Share of intact drawings, half of them through the autoencoder, that a judge may call unknown."""
SMALL_PX = 38
MATCH_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Render:
    """A picture of one drawing, or of a damaged one (then ``kind`` says how)."""

    pixels: NDArray[np.uint8]
    sprite: Sprite
    size_px: int
    kind: str | None = None


@dataclass(frozen=True)
class JudgeReport:
    """Shares with 95 % intervals; intervals of scenes resample scenes.

    ``clean`` and ``redrawn``: the surest detection names the one drawing in the picture, among all drawings; ``small``
    and ``large`` split ``clean`` at `SMALL_PX`, ``by_role`` by the roles. ``refused`` and ``refused_redrawn``:
    intact drawings called unknown or not found. ``damaged``: damaged ones called unknown or not found, by kind.
    ``recall`` and ``recall_redrawn``: drawings of scenes found under their name with an IoU of at least `MATCH_IOU`;
    ``false_alarms``: detections of a scene that lie on no drawing, a mean count; ``background``: the word is right.
    """

    renders: int
    scenes: int
    seed: int
    threshold: float
    clean: Interval
    small: Interval
    large: Interval
    by_role: dict[str, Interval]
    redrawn: Interval
    refused: Interval
    refused_redrawn: Interval
    damaged: dict[str, Interval]
    recall: Interval
    recall_redrawn: Interval
    false_alarms: Interval
    background: Interval

    def text(self) -> str:
        """The report as a person reads it."""
        rows = {
            f"right on clean renders, {self.renders}": self.clean,
            f"  under {SMALL_PX} px": self.small,
            f"  from {SMALL_PX} px": self.large,
            **{f"  {role} drawings": value for role, value in self.by_role.items()},
            "right through the autoencoder": self.redrawn,
            f"recall in scenes, {self.scenes}": self.recall,
            "recall in scenes through the autoencoder": self.recall_redrawn,
            "false alarms a scene": self.false_alarms,
            "intact but refused": self.refused,
            "intact but refused, through the autoencoder": self.refused_redrawn,
            **{f"{kind} and refused": value for kind, value in self.damaged.items()},
            "background right": self.background,
        }
        return "\n".join(f"{name:<44} {value}" for name, value in rows.items())

    def plain(self) -> dict[str, Any]:
        """The report as JSON values, intervals as mean, low, high."""

        def told(value: object) -> Any:
            if isinstance(value, dict):
                return {name: told(inner) for name, inner in value.items()}
            return vars(value) if isinstance(value, Interval) else value

        return {name: told(value) for name, value in vars(self).items()}


def calibrated(confidences: Sequence[float], false_refusals: float = FALSE_REFUSALS) -> float:
    """The highest threshold under which at most a share ``false_refusals`` of intact drawings' confidences lie."""
    ranked = sorted(confidences)
    return float(ranked[int(false_refusals * len(ranked))])


def calibrate_judge(
    judge: Judge,
    sprites: Sequence[Sprite],
    photos: Sequence[Photo],
    redraw: Redraw,
    seed: int = 0,
    each: int = 300,
) -> Judge:
    """The judge with its threshold for unknown set on ``each`` clean and as many redrawn renders of intact drawings."""
    rng = numpy_generator(seed, "calibrated drawings")
    chosen = [
        sprites[int(place)] for place in rng.choice(len(sprites), min(each, len(sprites)), replace=False)
    ]
    renders = clean_renders(chosen, photos, judge.side_px, seed, "calibration")
    pictures = [render.pixels for render in renders]
    seen = [judge.detect(pixels) for pixels in [*pictures, *redrawn_all(pictures, redraw)]]
    known = calibrated([_confidence(found) for found in seen])
    return Judge(judge.network, Thresholds(judge.thresholds.object, known))


def measure_judge(
    judge: Judge,
    sprites: Sequence[Sprite],
    photos: Sequence[Photo],
    redraw: Redraw,
    seed: int = 0,
    redrawn: int = 320,
    scenes: int = 300,
    damaged: int = 120,
) -> JudgeReport:
    """Measure on one clean render of every drawing, ``redrawn`` of them through the autoencoder, ``scenes`` scenes of
    one to three drawings (a third of them redrawn), and ``damaged`` renders of each kind of damage."""
    rng = numpy_generator(seed, "redrawn drawings")
    renders = clean_renders(sprites, photos, judge.side_px, seed, "clean")
    clean = [judge.detect(render.pixels) for render in renders]
    right = [named_rightly(found, render) for found, render in zip(clean, renders, strict=True)]
    subset = [renders[int(place)] for place in rng.permutation(len(renders))[:redrawn]]
    pictures = redrawn_all([render.pixels for render in subset], redraw)
    blurred = [judge.detect(pixels) for pixels in pictures]
    composed = [
        random_scene(
            sprites, photos, numpy_generator(seed, "measured scene", index), SceneRules(judge.side_px)
        )
        for index in range(scenes)
    ]
    seen = [judge.detect(scene.pixels) for scene in composed]
    some = composed[: max(1, scenes // 3)]
    seen_redrawn = [judge.detect(p) for p in redrawn_all([scene.pixels for scene in some], redraw)]
    words = [
        max(told, key=lambda word: told[word]) for told in (judge.background(s.pixels) for s in composed)
    ]
    refusals: dict[str, list[float]] = defaultdict(list)
    for render in damaged_renders(sprites, photos, judge.side_px, seed, damaged):
        refusals[str(render.kind)].append(is_refused(judge.detect(render.pixels)))
    return JudgeReport(
        renders=len(renders),
        scenes=scenes,
        seed=seed,
        threshold=judge.thresholds.known,
        clean=bootstrap(right),
        small=_over([r for r, render in zip(right, renders, strict=True) if render.size_px < SMALL_PX]),
        large=_over([r for r, render in zip(right, renders, strict=True) if render.size_px >= SMALL_PX]),
        by_role={
            role: _over([r for r, render in zip(right, renders, strict=True) if render.sprite.role == role])
            for role in ROLES
        },
        redrawn=bootstrap(
            [named_rightly(found, render) for found, render in zip(blurred, subset, strict=True)]
        ),
        refused=bootstrap([is_refused(found) for found in clean]),
        refused_redrawn=bootstrap([is_refused(found) for found in blurred]),
        damaged={kind: bootstrap(refusals[kind]) for kind in KINDS if refusals[kind]},
        recall=bootstrap([scene_recall(found, scene) for found, scene in zip(seen, composed, strict=True)]),
        recall_redrawn=bootstrap(
            [scene_recall(found, scene) for found, scene in zip(seen_redrawn, some, strict=True)]
        ),
        false_alarms=bootstrap([astray(found, scene) for found, scene in zip(seen, composed, strict=True)]),
        background=bootstrap(
            [float(word == scene.background) for word, scene in zip(words, composed, strict=True)]
        ),
    )


def clean_renders(
    sprites: Sequence[Sprite], photos: Sequence[Photo], side: int, seed: int, use: str
) -> list[Render]:
    """One picture of each drawing, alone, composed by the default rules."""
    return [_render(sprite, sprite, photos, side, seed, use, None) for sprite in sprites]


def damaged_renders(
    sprites: Sequence[Sprite], photos: Sequence[Photo], side: int, seed: int, each: int
) -> list[Render]:
    """``each`` pictures of every kind of damage, alone, of random drawings (fewer where damage does not show)."""
    renders = []
    for kind in KINDS:
        for index in range(each):
            rng = numpy_generator(seed, "damage", kind, index)
            sprite = sprites[int(rng.integers(len(sprites)))]
            broken = damage(sprite, sprites, kind, rng)
            if broken is not None:
                renders.append(_render(broken, sprite, photos, side, seed, f"damaged {index}", kind))
    return renders


def named_rightly(found: Detections, render: Render) -> float:
    """1 where the surest detection has the drawing's name, else 0."""
    return float(len(found) > 0 and found.sprites[int(found.scores[0].argmax())] == render.sprite.key)


def is_refused(found: Detections) -> float:
    """1 where nothing is found or the surest detection is called unknown, else 0."""
    return float(len(found) == 0 or found.unknown[0])


def astray(found: Detections, scene: Scene) -> float:
    """How many detections lie on no drawing."""
    return float((_overlaps(found, scene) < MATCH_IOU).all(1).sum())


def scene_recall(found: Detections, scene: Scene) -> float:
    """Share of a scene's drawings that are found under their name where they are."""
    matched = _overlaps(found, scene) >= MATCH_IOU  # (N, K)
    best = [found.sprites[int(place)] for place in found.scores.argmax(1)] if len(found) else []
    hits = []
    for column, thing in enumerate(scene.objects):
        key = f"{thing.noun}/{thing.family}"
        hits.append(any(matched[row, column] and name == key for row, name in enumerate(best)))
    return float(np.mean(hits))


def redrawn_all(pictures: Sequence[NDArray[np.uint8]], redraw: Redraw) -> list[NDArray[np.uint8]]:
    """All pictures through ``redraw``, eight at a time."""
    return [
        picture
        for first in range(0, len(pictures), 8)
        for picture in redraw(np.stack(pictures[first : first + 8]))
    ]


def _render(
    drawn: Sprite, sprite: Sprite, photos: Sequence[Photo], side: int, seed: int, use: str, kind: str | None
) -> Render:
    rng = numpy_generator(seed, "render", use, sprite.key)
    rules = SceneRules(side_px=side)
    label, background = random_background(photos, rng, rules)
    scene = compose([drawn], label, background, rng, rules)
    left, top, right, bottom = scene.objects[0].box
    return Render(scene.pixels, sprite, max(right - left, bottom - top), kind)


def _confidence(found: Detections) -> float:
    return float(found.confidence[0]) if len(found) else 0.0


def _overlaps(found: Detections, scene: Scene) -> NDArray[np.float32]:
    """IoU of every detection with every drawing: (N, K)."""
    true = torch.tensor([thing.box for thing in scene.objects], dtype=torch.float32)
    return np.asarray(box_iou(torch.from_numpy(found.boxes), true).numpy())


def _over(values: Sequence[float]) -> Interval:
    """`bootstrap`, or nothing known where there are no values."""
    return bootstrap(values) if values else Interval(0.0, 0.0, 1.0)
