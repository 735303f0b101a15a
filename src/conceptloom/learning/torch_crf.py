"""The DenseCRF's mean field on a torch device, for models that run on a GPU.

Lattices are built once on the CPU, as `masks.DenseCRF` does; each iteration is then a few sparse products on the
device. Axis legend: L labels, K concepts, H W pixels, N = H W, C channels, M lattice vertices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.masks import CRFConfig, DenseCRF
from conceptloom.masks.crf import differences_to_last
from conceptloom.masks.lattice import PermutohedralLattice

FloatArray = npt.NDArray[np.float32]


def crf_on(device: torch.device, image: npt.NDArray[np.uint8], config: CRFConfig) -> DenseCRF:
    """The CRF of a picture (H, W, 3): on a CUDA device in torch, else in numpy."""
    return TorchCRF(image, config, device) if device.type == "cuda" else DenseCRF(image, config)


@dataclass(frozen=True, eq=False)
class TorchLattice:
    """`PermutohedralLattice` with its sparse matrices on a device."""

    splat: Tensor
    """(M, N)."""
    blurs: tuple[Tensor, ...]
    """(M, M) each."""
    slice: Tensor
    """(N, M)."""

    @classmethod
    def of(cls, lattice: PermutohedralLattice, device: torch.device) -> TorchLattice:
        """The same filter on `device`."""
        return cls(
            _csr(lattice.interpolation.T.tocsr(), device),
            tuple(_csr(blur, device) for blur in lattice.blurs),
            _csr(lattice.interpolation, device),
        )

    def filter(self, values: Tensor) -> Tensor:
        """Filter the channels of `values` (N, C); returns (N, C)."""
        on_vertices = self.splat @ values
        for blur in self.blurs:
            on_vertices = blur @ on_vertices
        return self.slice @ on_vertices


class TorchCRF(DenseCRF):
    """`DenseCRF` whose iterations run on a torch device; arrays go in and come out as there."""

    def __init__(
        self,
        image: npt.NDArray[np.uint8],
        config: CRFConfig | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Build the lattices of `image` (H, W, 3), uint8 sRGB, and bring them to `device` (the CPU unless given)."""
        super().__init__(image, config)
        self.device = device or torch.device("cpu")
        self._lattices = tuple(TorchLattice.of(kernel, self.device) for kernel in self._kernels)
        self._kernels = ()

    @torch.no_grad()
    def _mean_field(
        self, unary_logits: FloatArray, difference: Callable[[FloatArray], FloatArray]
    ) -> FloatArray:
        on_device = _differences_to_last if difference is differences_to_last else _spin
        unary = torch.from_numpy(np.ascontiguousarray(unary_logits, dtype=np.float32)).to(self.device)
        unary = unary.flatten(1)  # (C, H, W) -> (C, N)
        logits = unary
        for _ in range(self.config.iterations):
            message = on_device(logits).T.contiguous()  # (C, N) -> (N, C)
            logits = unary.clone()
            for lattice in self._lattices:
                logits += lattice.filter(message).T
        found: FloatArray = logits.cpu().numpy()
        return found


def _spin(logits: Tensor) -> Tensor:
    """`Q_1 - Q_0` from the logits of label 1 against label 0."""
    return torch.tanh(0.5 * logits)


def _differences_to_last(logits: Tensor) -> Tensor:
    """`Q_c - Q_last` (L-1, N) from the logits (L-1, N) against the last label."""
    probabilities = torch.cat([logits, torch.zeros_like(logits[:1])]).softmax(dim=0)
    return probabilities[:-1] - probabilities[-1]


def _csr(matrix: Any, device: torch.device) -> Tensor:
    matrix = matrix.copy()
    matrix.sum_duplicates()  # rows are padded with entries of no weight, which torch does not allow
    parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data.astype(np.float32))
    rows, columns, values = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            rows, columns, values, size=matrix.shape, device=device, check_invariants=True
        )
