"""Generators derived from one seed and a key, so that no random draw depends on another.

A run has one seed. Every stream of randomness (timesteps, noise, the E-step, a sample's starting noise) has a key
of its own; ``derive_seed`` hashes both. Switching one stream off, resuming in the middle or changing the batch
size therefore changes no other draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed for the stream ``key`` of ``seed``: stable over machines and versions."""
    text = "\x1f".join([f"i{seed}", *(f"{'i' if isinstance(part, int) else 's'}{part}" for part in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for the stream ``key``."""
    import torch

    return torch.Generator("cpu").manual_seed(derive_seed(seed, *key))


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A numpy generator for the stream ``key``."""
    return np.random.default_rng(derive_seed(seed, *key))


def noise(shape: Sequence[int], seed: int, *key: int | str) -> torch.Tensor:
    """Standard normal fp32 noise on the CPU: the same for the same (shape, seed, key) everywhere."""
    import torch

    return torch.randn(tuple(shape), generator=torch_generator(seed, *key))
