"""What every training of the built-in model shares: state on disk, EMA, learning rate, the scene stream."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from conceptloom.concepts.storage import write_tensors
from conceptloom.errors import DataError
from conceptloom.runs import sync, sync_files
from conceptloom.scenes.backgrounds import Photo
from conceptloom.scenes.composer import Scene, SceneRules, random_scene
from conceptloom.scenes.sprites import Sprite
from conceptloom.seeding import numpy_generator


@dataclass(frozen=True)
class TrainProgress:
    """Where a training is: ``samples`` pictures seen in all, losses averaged since the last event, rate per second."""

    step: int
    samples: int
    losses: Mapping[str, float]
    samples_per_sec: float
    saved: bool


class Averaged:
    """Exponential moving average of a module's parameters: ``decay`` ramps up as (1 + step) / (10 + step)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.tensors)
        live = dict(module.named_parameters())
        torch._foreach_lerp_([self.tensors[n] for n in names], [live[n] for n in names], 1 - decay)


class SceneStream:
    """Scenes of the training distribution, endless and random-access: scene ``i`` depends on (seed, i) alone.

    With ``first_nouns`` the earliest scenes hold only so many nouns, twice as many after ``doubling_scenes`` and so on:
    how words bind is learned on few of them. A share ``easy_share`` of the scenes follows ``easy_rules``: large sprites
    before little, fully captioned. Shares ``lead_shares`` of the scenes of one, two and three sprites draw from one
    drawing a noun only, so that shapes are learned before styles.
    """

    def __init__(
        self,
        sprites: Sequence[Sprite],
        photos: Sequence[Photo],
        rules: SceneRules,
        seed: int,
        easy_share: float = 0.0,
        lead_shares: Sequence[float] = (0.0, 0.0, 0.0),
        first_nouns: int = 0,
        doubling_scenes: int = 1,
    ) -> None:
        if not sprites:
            raise DataError("a scene stream needs sprites, got none: run 'make sprites'")
        self.sprites, self.photos, self.rules, self.seed = tuple(sprites), photos, rules, seed
        self.easy_share, self.lead_shares = easy_share, tuple(lead_shares)
        self.first_nouns, self.doubling_scenes = first_nouns, doubling_scenes
        self.leads = lead_drawings(sprites)
        order = numpy_generator(seed, "nouns").permutation(len(self.leads))
        self.nouns = tuple(self.leads[int(place)].noun for place in order)

    def rules_of(self, index: int) -> SceneRules:
        """The rules that scene number ``index`` follows."""
        is_easy = numpy_generator(self.seed, "easy", index).random() < self.easy_share
        return easy_rules(self.rules.side_px) if is_easy else self.rules

    def count_of(self, index: int) -> int:
        """How many sprites scene number ``index`` holds."""
        return 1 + int(numpy_generator(self.seed, "count", index).choice(3, p=self.rules_of(index).counts))

    def drawings_of(self, index: int) -> tuple[Sprite, ...]:
        """The drawings that scene number ``index`` chooses from."""
        share = self.lead_shares[self.count_of(index) - 1]
        is_led = numpy_generator(self.seed, "lead", index).random() < share
        drawings = self.leads if is_led else self.sprites
        if not self.first_nouns:
            return drawings
        known = self.nouns[: int(self.first_nouns * 2 ** min(index / self.doubling_scenes, 32))]
        return tuple(sprite for sprite in drawings if sprite.noun in known)

    def is_lead(self, noun: str, family: str) -> bool:
        """Whether the lead drawing of ``noun`` is by ``family``."""
        return any((lead.noun, lead.family) == (noun, family) for lead in self.leads)

    def scene(self, index: int) -> Scene:
        """Scene number ``index``."""
        rng = numpy_generator(self.seed, "scene", index)
        drawings, count = self.drawings_of(index), self.count_of(index)
        return random_scene(drawings, self.photos, rng, self.rules_of(index), count)


def lead_drawings(sprites: Sequence[Sprite]) -> tuple[Sprite, ...]:
    """One drawing of each noun: that of the family which draws most of the nouns, else of the next."""
    by_size = [family for family, _ in Counter(sorted(sprite.family for sprite in sprites)).most_common()]
    leads: dict[str, Sprite] = {}
    for sprite in sorted(sprites, key=lambda sprite: by_size.index(sprite.family)):
        leads.setdefault(sprite.noun, sprite)
    return tuple(leads[noun] for noun in sorted(leads))


def easy_rules(side_px: int) -> SceneRules:
    """Scenes from which words are learned fastest: one or two large sprites in the middle, little behind (LOG.md)."""
    return SceneRules(
        side_px,
        counts=(0.45, 0.55, 0.0),
        backgrounds=(0.35, 0.4, 0.25),
        loose_captions=False,
        jitter=False,
        centred=True,
    )


def to_model_range(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def fast_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it faster than float32 (AMX), else float32; takes some milliseconds."""
    sec: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(768, 768, dtype=dtype)
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - begun)
        sec[dtype] = min(times)
    return min(sec, key=lambda dtype: sec[dtype])


def autocast(dtype: torch.dtype) -> torch.autocast:
    """The CPU's autocast to ``dtype``; none for float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32)


def warm_up(step: int, steps: int) -> float:
    """Factor of the learning rate: linear from 0 to 1 over the first ``steps`` steps, 1 afterwards."""
    return min(1.0, (step + 1) / max(steps, 1))


class RunningMeans:
    """Means of the last ``window`` values of each loss."""

    def __init__(self, window: int = 200) -> None:
        self.window = window
        self.values: dict[str, deque[float]] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        """Take one step's losses in."""
        for name, value in losses.items():
            self.values.setdefault(name, deque(maxlen=self.window)).append(value)

    def means(self) -> dict[str, float]:
        """The mean of each loss."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}


def save_state(
    folder: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, meta: Mapping[str, object]
) -> None:
    """Write weights, averages, optimiser state and counters as one folder; an older one stays until it is complete.

    Raises ``OSError`` where the disk refuses.
    """
    scratch = folder.with_name(folder.name + ".new")
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    flat = dict(tensors)
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            flat[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    write_tensors(scratch / "state.safetensors", flat)
    counters = {"group_steps": [group.get("step", 0) for group in optimizer.param_groups]}
    (scratch / "meta.json").write_text(json.dumps(dict(meta) | counters), encoding="utf-8")
    sync_files(scratch)
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        if old.exists():  # a save was cut short once the new one was complete
            shutil.rmtree(old)
        folder.rename(old)
    scratch.rename(folder)
    sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def load_state(
    folder: Path, optimizer: torch.optim.Optimizer | None
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read what ``save_state`` wrote; the optimiser, when given, is put back where it was."""
    if not folder.exists() and folder.with_name(folder.name + ".old").exists():
        folder = folder.with_name(folder.name + ".old")
    tensors = load_file(folder / "state.safetensors")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimizer.")]:
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = tensors.pop(name)
    if optimizer is not None:
        whole = optimizer.state_dict()
        whole["state"] = state
        optimizer.load_state_dict(whole)
        for group, steps in zip(optimizer.param_groups, meta["group_steps"], strict=True):
            group["step"] = steps
    return tensors, meta


def has_state(folder: Path) -> bool:
    """Whether ``load_state`` would find something."""
    old = folder.with_name(folder.name + ".old")
    return (folder / "meta.json").is_file() or (old / "meta.json").is_file()


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix, for storing several modules in one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``prefixed``: only what carries the prefix."""
    return {
        name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")
    }
