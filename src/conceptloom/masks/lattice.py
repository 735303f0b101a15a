"""Gaussian filtering of scattered points on the permutohedral lattice.

After Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010): every point lies
in a simplex whose d+1 corners are lattice vertices; values are splatted on these with barycentric weights, blurred
along the d+1 lattice directions and sliced back with the same weights. Here each step is one sparse matrix with the
same number of entries in every row, which runs several times faster than rows of uneven length.

Axis legend: N points, d feature dimensions, M occupied lattice vertices, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from conceptloom.errors import ConfigError

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int32]
KeyArray: TypeAlias = npt.NDArray[np.int64]

KEY_BITS = 63
"""Bits of a non-negative 64-bit integer; they hold a vertex's coordinates together with a point's number."""


@dataclass(frozen=True, eq=False)
class PermutohedralLattice:
    """The filter `v -> W B W^T v`, about a Gaussian of standard deviation 1 in feature space."""

    interpolation: csr_array[np.float32]
    """W (N, M): the barycentric weights of a point's d+1 vertices, times the root of the filter's gain."""
    blurs: tuple[csr_array[np.float32], ...]
    """The d+1 factors of B, (M, M) each: (1/2, 1, 1/2) along one lattice direction; absent vertices count as zero."""

    def filter(self, values: FloatArray) -> FloatArray:
        """Filter the channels of `values` (N, C) in one pass; returns (N, C)."""
        on_vertices = self.interpolation.T @ values
        for blur in self.blurs:
            on_vertices = blur @ on_vertices
        filtered: FloatArray = self.interpolation @ on_vertices
        return filtered

    def scaled(self, factors: FloatArray) -> PermutohedralLattice:
        """The filter `v -> factors * filter(factors * v)`, for `factors` (N,)."""
        scaled = self.interpolation.copy()
        scaled.data *= np.repeat(factors, len(self.blurs))
        return PermutohedralLattice(scaled, self.blurs)


def build_lattice(features: FloatArray) -> PermutohedralLattice:
    """Lattice of the points with `features` (d, N), each row divided by its standard deviation.

    Raises:
        ConfigError: if the points span more cells than a 64-bit key can number. That takes standard deviations far
            below the features' own resolution.
    """
    d, num_points = features.shape
    position = _embed(features) / np.float32(d + 1)
    cell, rank = _enclosing_simplex(position)
    gain = 1.0 / (1.0 + 2.0**-d)
    weights = _barycentric(position - cell) * np.float32(np.sqrt(gain))
    keys = _KeySpace.around(cell[:d], num_points)
    vertices, indices = _number_vertices(keys, cell[:d], rank[:d])
    start = np.arange(0, (d + 1) * num_points + 1, d + 1, dtype=np.int32)
    num_vertices = sum(len(of_class) for of_class in vertices)
    # (d+1, N) -> (N, d+1) -> (N * (d+1),)
    interpolation = csr_array((weights.T.ravel(), indices.T.ravel(), start), shape=(num_points, num_vertices))
    return PermutohedralLattice(interpolation, tuple(_blur(keys, vertices, j) for j in range(d + 1)))


def _embed(features: FloatArray) -> FloatArray:
    """Features (d, N) as points (d+1, N) of the hyperplane sum(x) = 0 in which the lattice lies.

    Scaled so that splat, blur and slice together have variance 1: (d+1) sqrt(2/3) lattice units a feature unit.
    """
    d, num_points = features.shape
    embedded = np.empty((d + 1, num_points), dtype=np.float32)
    total = np.zeros(num_points, dtype=np.float32)
    for j in range(d, 0, -1):
        component = features[j - 1] * np.float32((d + 1) * np.sqrt(2.0 / 3.0) / np.sqrt(j * (j + 1)))
        embedded[j] = total - j * component
        total += component
    embedded[0] = total
    return embedded


def _enclosing_simplex(position: FloatArray) -> tuple[FloatArray, npt.NDArray[np.int8]]:
    """Nearest remainder-0 vertex of points (d+1, N) in units of d+1, and the rank of each offset from it.

    Vertex k of a point's simplex has coordinates `(d+1) q + k` with `q = cell - (rank > d - k)`.
    """
    size, num_points = position.shape
    cell = np.rint(position)
    offset = position - cell
    rank = np.zeros((size, num_points), dtype=np.int8)  # 0 for the largest offset
    for i in range(size):
        for j in range(i + 1, size):
            smaller = offset[i] < offset[j]
            rank[i] += smaller
            rank[j] += ~smaller
    # Rounding may leave the hyperplane; the coordinates with the most extreme offsets go one cell back.
    rank += cell.sum(axis=0).astype(np.int8)
    below, above = rank < 0, rank >= size
    cell += below
    cell -= above
    rank += np.int8(size) * below
    rank -= np.int8(size) * above
    return cell, rank


def _barycentric(offset: FloatArray) -> FloatArray:
    """Weights (d+1, N) of the vertices of remainder 0..d, for offsets (d+1, N) from the remainder-0 vertex."""
    ascending = np.sort(offset, axis=0)
    weights = np.empty_like(offset)
    weights[0] = 1.0 + ascending[0] - ascending[-1]
    np.subtract(ascending[1:], ascending[:-1], out=weights[1:])
    return weights


@dataclass(frozen=True)
class _KeySpace:
    """Numbers `q` of vertices as single integers, linear in `q`, so that a step on the lattice adds a constant."""

    lowest: tuple[int, ...]
    strides: tuple[int, ...]
    point_bits: int

    @classmethod
    def around(cls, cell: FloatArray, num_points: int) -> _KeySpace:
        lowest = cell.min(axis=1).astype(np.int64) - 2  # one cell for the vertices, one for their neighbours
        spans = cell.max(axis=1).astype(np.int64) - lowest + 2
        strides, total = [], 1
        for span in spans:
            strides.append(total)
            total *= int(span)
        point_bits = (num_points - 1).bit_length()
        bits = (total - 1).bit_length() + point_bits
        if bits > KEY_BITS:
            raise ConfigError(
                f"the CRF's standard deviations are too small for this picture: its lattice needs {bits}-bit keys"
                f" where {KEY_BITS} bits fit; use larger ones (bilateral_srgb is in 8-bit colour steps)"
            )
        return cls(tuple(int(low) for low in lowest), tuple(strides), point_bits)

    def keys(self, cell: FloatArray) -> KeyArray:
        """Keys (N,) of cells (d, N)."""
        keys = np.zeros(cell.shape[1], dtype=np.int64)
        for coordinate, low, stride in zip(cell, self.lowest, self.strides, strict=True):
            keys += (coordinate.astype(np.int64) - low) * stride
        return keys

    def step(self, remainder: int, direction: int) -> int:
        """What one step along `direction` adds to the key of a vertex of that remainder.

        The step adds 1 to every coordinate but subtracts d from coordinate `direction`.
        """
        wrap = sum(self.strides) if remainder == len(self.strides) else 0
        return wrap - (self.strides[direction] if direction < len(self.strides) else 0)


def _number_vertices(
    keys: _KeySpace, cell: FloatArray, rank: npt.NDArray[np.int8]
) -> tuple[list[KeyArray], IntArray]:
    """Sorted keys of the occupied vertices of every remainder, and each point's vertex numbers (d+1, N)."""
    d, num_points = cell.shape
    key = keys.keys(cell)
    point = np.arange(num_points, dtype=np.int64)
    indices = np.empty((d + 1, num_points), dtype=np.int32)
    vertices: list[KeyArray] = []
    first_number = 0
    for remainder in range(d + 1):
        if remainder:
            for i in range(d):
                key -= (rank[i] == d + 1 - remainder) * np.int64(keys.strides[i])
        # One sort of plain integers that carry their origin is far faster than an indirect sort.
        packed = (key << keys.point_bits) | point
        packed.sort()
        sorted_keys = packed >> keys.point_bits
        packed &= (1 << keys.point_bits) - 1
        is_first = np.empty(num_points, dtype=np.bool_)
        is_first[0] = True
        np.not_equal(sorted_keys[1:], sorted_keys[:-1], out=is_first[1:])
        indices[remainder, packed] = np.cumsum(is_first, dtype=np.int32) + np.int32(first_number - 1)
        vertices.append(sorted_keys[is_first])
        first_number += len(vertices[-1])
    return vertices, indices


def _blur(keys: _KeySpace, vertices: list[KeyArray], direction: int) -> csr_array[np.float32]:
    """The blur (M, M) along one lattice direction: each vertex, and half of its two neighbours where occupied."""
    starts = np.cumsum([0, *(len(of_class) for of_class in vertices)])
    num_vertices = int(starts[-1])
    columns = np.repeat(np.arange(num_vertices, dtype=np.int32), 3).reshape(num_vertices, 3)
    weights = np.zeros((num_vertices, 3), dtype=np.float32)
    weights[:, 0] = 1.0
    for remainder, of_class in enumerate(vertices):
        successor = (remainder + 1) % len(vertices)
        wanted = of_class + keys.step(remainder, direction)
        place = np.searchsorted(vertices[successor], wanted)
        place[place == len(vertices[successor])] = 0
        found = vertices[successor][place] == wanted
        here = starts[remainder] + np.flatnonzero(found)
        there = starts[successor] + place[found]
        columns[here, 1], columns[there, 2] = there, here
        weights[here, 1] = weights[there, 2] = 0.5
    start = np.arange(0, 3 * num_vertices + 1, 3, dtype=np.int32)
    return csr_array((weights.ravel(), columns.ravel(), start), shape=(num_vertices, num_vertices))
