"""The DenseCRF in torch against the one in numpy, which is tested against pydensecrf2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.learning.torch_crf import TorchCRF, crf_on
from conceptloom.masks import CRFConfig, DenseCRF

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def _problem(labels: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2] = 128
    return image, generator.uniform(0, 4, (labels, height, width)).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@given(
    labels=st.integers(2, 5), height=st.integers(2, 20), width=st.integers(2, 20), seed=st.integers(0, 999)
)
@settings(max_examples=30, deadline=None)
def test_probabilities_agree_with_numpy_for_any_number_of_labels(
    device: str, labels: int, height: int, width: int, seed: int
) -> None:
    image, unary = _problem(labels, height, width, seed)
    ours = TorchCRF(image, CRFConfig(), torch.device(device)).infer(unary)
    np.testing.assert_allclose(ours, DenseCRF(image, CRFConfig()).infer(unary), atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_binary_crfs_of_several_concepts_agree_with_numpy(device: str) -> None:
    image, unary = _problem(6, 40, 60, 0)
    unaries = unary.reshape(3, 2, 40, 60)
    ours = TorchCRF(image, CRFConfig(scale=2.0), torch.device(device)).infer_binary(unaries)
    np.testing.assert_allclose(ours, DenseCRF(image, CRFConfig(scale=2.0)).infer_binary(unaries), atol=1e-4)


def test_a_cpu_keeps_numpys_crf() -> None:
    image, _ = _problem(2, 8, 8, 0)
    assert type(crf_on(torch.device("cpu"), image, CRFConfig())) is DenseCRF
