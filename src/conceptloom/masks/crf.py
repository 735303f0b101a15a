"""Fully connected CRF (DenseCRF) over a picture's pixels, by mean-field inference.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (2011), with Potts
compatibility, symmetrically normalised kernels and the self-message kept, as in their own code. Axis legend: K
concepts, L labels, H W pixels, N = H W, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from conceptloom.errors import ConfigError
from conceptloom.masks.lattice import FloatArray, PermutohedralLattice, build_lattice


@dataclass(frozen=True)
class CRFConfig:
    """The DenseCRF's numbers, those of CutLER by default.

    Standard deviations in space are pixels of a picture whose shorter side is `reference_side_px`; on another picture
    they grow with its shorter side.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 7.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    """In 8-bit sRGB steps."""
    bilateral_weight: float = 10.0
    scale: float = 1.0
    """Multiplies both spatial standard deviations."""
    reference_side_px: int = 512

    def __post_init__(self) -> None:
        """Raise `ConfigError` at a value without a meaning."""
        may_be_zero = ("iterations", "gaussian_weight", "bilateral_weight")
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
                least = "0 or more" if field.name in may_be_zero else "above 0"
                raise ConfigError(f"CRF setting '{field.name}' is {value}: choose a number {least}")


class DenseCRF:
    """The CRF of one picture. Its lattices are built once, here, and serve any number of inferences."""

    def __init__(self, image: npt.NDArray[np.uint8], config: CRFConfig | None = None) -> None:
        """Build the lattices of `image` (H, W, 3), uint8 sRGB.

        Raises:
            ValueError: for an image of another shape or type.
            ConfigError: for standard deviations too small to be represented.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
            raise ValueError(
                f"the CRF's image must be uint8 of shape (H, W, 3), got {image.dtype} {image.shape}"
            )
        self.config = config or CRFConfig()
        height, width = image.shape[:2]
        self.size = (height, width)
        sigma = self.config.scale * min(self.size) / self.config.reference_side_px
        row, column = np.indices(self.size, dtype=np.float32).reshape(2, -1)
        place = np.stack([column, row])  # (2, N)
        colour = image.reshape(-1, 3).T.astype(np.float32)  # (H, W, 3) -> (3, N)
        appearance = np.concatenate(
            [place / (sigma * self.config.bilateral_sxy), colour / self.config.bilateral_srgb],
            dtype=np.float32,
        )
        smoothness = (place / (sigma * self.config.gaussian_sxy)).astype(np.float32)
        self._kernels = tuple(
            _normalised_kernel(features, weight)
            for features, weight in (
                (smoothness, self.config.gaussian_weight),
                (appearance, self.config.bilateral_weight),
            )
            if weight > 0
        )

    def infer(self, unary: npt.NDArray[np.float32]) -> FloatArray:
        """Mean-field probabilities (L, H, W) of L >= 2 labels from their energies `unary` (L, H, W).

        Raises:
            ValueError: for a unary that does not fit the image or is not finite.
        """
        if unary.ndim != 3 or len(unary) < 2 or unary.shape[1:] != self.size:
            height, width = self.size
            raise ValueError(
                f"unary has shape {unary.shape}, the image needs (L, {height}, {width}) with L >= 2"
            )
        if len(unary) == 2:
            return self.infer_binary(unary[None]).reshape(unary.shape)
        _require_finite(unary)
        logits = self._mean_field(unary[-1] - unary[:-1], differences_to_last)
        probabilities: FloatArray = _softmax_with_last(logits).reshape(unary.shape)
        return probabilities

    def infer_binary(self, unaries: npt.NDArray[np.float32]) -> FloatArray:
        """Probabilities (K, 2, H, W) of K independent two-label CRFs from their energies `unaries` (K, 2, H, W).

        All K share every pass over the lattice, with one channel each.

        Raises:
            ValueError: for unaries that do not fit the image or are not finite.
        """
        if unaries.ndim != 4 or unaries.shape[1] != 2 or unaries.shape[2:] != self.size:
            height, width = self.size
            raise ValueError(f"unaries have shape {unaries.shape}, the image needs (K, 2, {height}, {width})")
        _require_finite(unaries)
        logits = self._mean_field(unaries[:, 0] - unaries[:, 1], _spin)
        spin = _spin(logits).reshape(len(unaries), *self.size)
        return np.stack([0.5 - 0.5 * spin, 0.5 + 0.5 * spin], axis=1)

    def _mean_field(
        self, unary_logits: FloatArray, difference: Callable[[FloatArray], FloatArray]
    ) -> FloatArray:
        """Logits (C, N) of labels against a reference label r after all iterations, from those of the unary (C, H, W).

        The update of label c is `u_r - u_c + sum_m w_m k_m (Q_c - Q_r)`: the filter is linear, so only differences of
        probabilities pass through it, one channel fewer than there are labels. `difference` gives them from logits.
        """
        unary_logits = unary_logits.reshape(len(unary_logits), math.prod(self.size)).astype(np.float32)
        logits = unary_logits
        for _ in range(self.config.iterations):
            message = np.ascontiguousarray(difference(logits).T)  # (C, N) -> (N, C), as the lattice wants it
            logits = unary_logits.copy()
            for kernel in self._kernels:
                logits += kernel.filter(message).T
        return logits


def _normalised_kernel(features: FloatArray, weight: float) -> PermutohedralLattice:
    """`weight n k n` for the kernel k of `features` (d, N), with `n = 1 / sqrt(k 1)`."""
    lattice = build_lattice(features)
    mass = lattice.filter(np.ones((features.shape[1], 1), dtype=np.float32))[:, 0]
    return lattice.scaled(np.sqrt(np.float32(weight) / mass))


def _spin(logits: FloatArray) -> FloatArray:
    """`Q_1 - Q_0` from the logits of label 1 against label 0."""
    spin: FloatArray = np.tanh(np.float32(0.5) * logits)
    return spin


def _softmax_with_last(logits: FloatArray) -> FloatArray:
    """Probabilities (L, N) from the logits (L-1, N) of all labels but the last against the last."""
    probabilities = np.zeros((len(logits) + 1, logits.shape[1]), dtype=np.float32)
    highest = np.maximum(logits.max(axis=0), 0.0)
    np.subtract(logits, highest, out=probabilities[:-1])
    np.negative(highest, out=probabilities[-1])
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=0)
    return probabilities


def differences_to_last(logits: FloatArray) -> FloatArray:
    """`Q_c - Q_last` (L-1, N) from the logits (L-1, N) against the last label."""
    probabilities = _softmax_with_last(logits)
    difference: FloatArray = probabilities[:-1] - probabilities[-1]
    return difference


def _require_finite(energies: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(energies).all():
        raise ValueError(f"unary of shape {energies.shape} holds NaN or infinity: energies must be finite")


def binary_unary(masks: npt.NDArray[np.bool_]) -> FloatArray:
    """Energies (K, 2, H, W) of masks (K, H, W), one two-label CRF a concept; label 0 is the rest, label 1 the concept.

    Minus the logarithm of the softmax of the stack of the two binary masks: probability 0.73 for the mask's label, 0.27
    for the other one.
    """
    masks = masks.astype(np.bool_)
    return _one_hot_energies(np.stack([~masks, masks], axis=1), label_axis=1)


def joint_unary(masks: npt.NDArray[np.bool_]) -> FloatArray:
    """Energies (K+1, H, W) of masks (K, H, W) for one CRF over all concepts; label 0 is the rest.

    Minus the logarithm of the softmax of the one-hot stack. Where masks overlap their labels tie; where there is none,
    the rest has the higher probability. The energy gap is 1 for any number of concepts.
    """
    masks = masks.astype(np.bool_)
    rest = ~masks.any(axis=0, keepdims=True)
    return _one_hot_energies(np.concatenate([rest, masks]), label_axis=0)


def soft_energies(evidence: FloatArray, temperature: float, label_axis: int) -> FloatArray:
    """`-log softmax(evidence / temperature)` over the labels of any stack; low temperatures decide more sharply.

    Raises:
        ValueError: for a temperature of 0 or less.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: expected a number above 0")
    scaled = evidence / np.float32(temperature)
    scaled -= scaled.max(axis=label_axis, keepdims=True)  # keeps the exponentials finite
    energies: FloatArray = np.log(np.exp(scaled).sum(axis=label_axis, keepdims=True)) - scaled
    return energies


def _one_hot_energies(stack: npt.NDArray[np.bool_], label_axis: int) -> FloatArray:
    """`-log softmax` of a 0/1 stack over its labels."""
    return soft_energies(stack.astype(np.float32), 1.0, label_axis)
