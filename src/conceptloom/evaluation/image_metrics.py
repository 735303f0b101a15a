"""Metrics of generated images, as functions of embeddings and pictures.

Embeddings are unit vectors, so products are cosines. Axes: K concepts, N candidates in an image, R reference pictures
of a concept, C concepts of a benchmark, D embedding, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from conceptloom.pictures import square_frame
from conceptloom.pictures.colour import rgb_to_lab

FloatArray = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

UNMATCHED = -1
COPY_SIDE_PX = 32
COPY = 0.9
"""Least `copy_similarity` of a copy: the 99th percentile of what is likest and yet no copy, two compositions of the
same one to three `dev` drawings on the very same background (1,350 pairs, a third each on photographs, drawn scenes
and plain colours; median 0.37; 0.8 % reach it). On another crop of the same photograph none of 450 reaches it (greatest
0.81). Of the same pictures up to 10 % brighter or darker and with noise of 12 of 255, 99.9 % do; of 60 that went
through the built-in autoencoder, all do (least 0.93)."""


def match(similarity: Scores) -> npt.NDArray[np.intp]:
    """One-to-one matching of concepts with candidates that maximises the sum of similarities (Kuhn 1955).

    Args:
        similarity: (K, N).

    Returns:
        The candidate of each concept (K,); `UNMATCHED` for those left over where candidates are fewer.
    """
    matched = np.full(similarity.shape[0], UNMATCHED, np.intp)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    matched[rows] = columns
    return matched


def matched_values(values: Scores, matched: npt.NDArray[np.intp]) -> list[float]:
    """Each concept's value (K, N) at its matched candidate; 0 where it has none."""
    return [
        float(row[index]) if index != UNMATCHED else 0.0 for row, index in zip(values, matched, strict=True)
    ]


def similarities(references: Sequence[FloatArray], candidates: FloatArray) -> Scores:
    """Cosine (K, N) of each candidate (N, D) with each concept, the mean over its reference pictures (R, D)."""
    rows = [(reference @ candidates.T).mean(axis=0) for reference in references]
    return np.asarray(rows, np.float64).reshape(len(references), len(candidates))


def mean_cosine(generated: FloatArray, sources: FloatArray) -> float:
    """Mean cosine over all pairs of a generated (N, D) and a source (R, D).

    Of a concept drawn alone with its masked sources it is ConceptExpress's SIM^I, of whole images of all concepts with
    the whole source pictures its SIM^C (Hao et al., "ConceptExpress", 2024).

    Raises:
        ValueError: nothing generated, or no source.
    """
    if not (len(generated) and len(sources)):
        raise ValueError(
            f"{len(generated)} generated and {len(sources)} source embeddings: expected some of each"
        )
    return float((generated @ sources.T).mean())


def prototype_rank(embedding: FloatArray, prototypes: FloatArray, own: int) -> int:
    """How many other concepts' prototypes (C, D) are nearer to an embedding (D,) than its own; 0 is right."""
    similarity = prototypes @ embedding
    return int((np.delete(similarity, own) >= similarity[own]).sum())


def is_nearest(rank: int | None, k: int) -> bool:
    """Whether a generated concept's own prototype is among the nearest k; one that is not found (None) is wrong.

    The mean over concepts is ConceptExpress's ACC^k (k is 1 and 3), by the nearest prototype among all concepts of a
    benchmark.
    """
    return rank is not None and rank < k


def true_similarity(references: Sequence[FloatArray], usual: float) -> Scores:
    """How alike concepts are by themselves: S_GT (K, K), mean cosines of their reference pictures (R, D).

    No picture is compared with itself.

    Args:
        references: of each concept.
        usual: how alike two pictures of one thing usually are, for concepts of a single picture.
    """
    table = _mean_cosines(references)
    for row, one in enumerate(references):
        others = ~np.eye(len(one), dtype=np.bool_)
        table[row, row] = (one @ one.T)[others].mean() if len(one) > 1 else usual
    return table


def true_similarity_released(references: Sequence[FloatArray]) -> Scores:
    """`true_similarity` as MuDI's released code computes it: pictures are compared with themselves too, which makes
    the diagonal too large.
    """
    return _mean_cosines(references)


def detect_and_compare(detected: Scores, true: Scores) -> float:
    """MuDI's Detect-and-Compare with one-to-one matching: 1 is free of mixing, 0 a wrong number of things, or worse.

    1 less the Frobenius norm of S_DC - S_GT over the root of the number of concepts, not below 0: how far each detected
    thing is from being as like each of the concepts as the concept it stands for is. So normalised, sets of two and of
    three concepts have one scale: things that are like no concept score 1 less what the concepts are like themselves.
    MuDI's norm is not normalised (see `detect_and_compare_released`).

    Args:
        detected: (N, K) cosines of detected things with the concepts.
        true: (K, K) S_GT without self-pairs.

    Raises:
        ValueError: a table of another shape.
    """
    _require_square(detected, true)
    if len(detected) != len(true):
        return 0.0
    difference = detected[match(detected.T)] - true
    return max(0.0, 1 - float(np.linalg.norm(difference)) / math.sqrt(len(true)))


def detect_and_compare_released(detected: Scores, true: Scores) -> float:
    """Detect-and-Compare as MuDI's released code computes it (agwmon/MuDI, detect_and_compare/demo.ipynb).

    1 less the spectral norm of S_DC - S_GT, not normalised, so it can be negative; 0 for a wrong number. Concepts in
    their order take the likest thing that is left. `true` is `true_similarity_released`.

    Raises:
        ValueError: a table of another shape.
    """
    _require_square(detected, true)
    if len(detected) != len(true):
        return 0.0
    left = list(range(len(detected)))
    taken = []
    for concept in range(len(true)):
        best = max(left, key=lambda row: detected[row, concept])
        left.remove(best)
        taken.append(best)
    return 1 - float(np.linalg.norm(detected[taken] - true, ord=2))


def leakage(similarity: Scores, matched: npt.NDArray[np.intp]) -> Scores:
    """Cosine (K, K) of each concept's matched region (rows) with every concept's references; NaN where unmatched.

    Args:
        similarity: (K, N) as `similarities`.
        matched: (K,) as `match`.
    """
    table = np.full((len(matched), similarity.shape[0]), np.nan)
    found = matched != UNMATCHED
    table[found] = similarity[:, matched[found]].T
    return table


def distances_to_others(embeddings: FloatArray) -> list[float | None]:
    """Mean cosine distance of each image (N, D) of a prompt to the others; None where there is a single image.

    The mean over the images is that over all pairs: the prompt's diversity.
    """
    count = len(embeddings)
    if count < 2:
        return [None] * count
    cosines = (embeddings @ embeddings.T).astype(np.float64)
    return [float(1 - (row.sum() - row[index]) / (count - 1)) for index, row in enumerate(cosines)]


def copy_similarity(image: Pixels, pictures: Iterable[Pixels]) -> float:
    """Greatest normalised cross-correlation of an image (H, W, 3) with any of the pictures, either way round.

    Each is seen in its largest centred square, at `COPY_SIDE_PX`, in Lab, as differences from the mean colour. No
    judge takes part, so none can have been taught to agree. 1 is the same picture, from `COPY` on it is called a
    copy; a flat picture is like nothing (0).

    Raises:
        ValueError: for no pictures.
    """
    seen = _contrast(image)
    found = [
        float((seen * way).sum())
        for picture in pictures
        for own in [_contrast(picture)]
        for way in (own, own[:, ::-1])
    ]
    if not found:
        raise ValueError("no pictures to compare with: expected one or more")
    return max(found)


def _mean_cosines(references: Sequence[FloatArray]) -> Scores:
    return np.array([[(one @ other.T).mean() for other in references] for one in references], np.float64)


def _contrast(pixels: Pixels) -> Scores:
    """A small Lab picture (side, side, 3) of zero mean by channel and unit norm; zeros where it is flat."""
    lab = rgb_to_lab(square_frame(pixels, COPY_SIDE_PX)).astype(np.float64)
    lab -= lab.mean(axis=(0, 1))
    norm = np.linalg.norm(lab)
    return lab / norm if norm > 1e-6 * lab.size else np.zeros_like(lab)


def _require_square(detected: Scores, true: Scores) -> None:
    if true.ndim != 2 or true.shape[0] != true.shape[1] or detected.shape[1:] != true.shape[1:]:
        raise ValueError(f"tables {detected.shape} and {true.shape}: expected (N, K) and (K, K)")
