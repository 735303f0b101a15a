"""Equations 1, 3 and 4 on tensors made on the spot."""

import pytest
import torch

from conceptloom.learning.config import MaskLossNorm
from conceptloom.learning.losses import attention_loss, denoising_loss, masked_denoising_loss

NORMS: list[MaskLossNorm] = ["paper", "area"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
def test_all_ones_masks_make_eq3_equal_eq1(norm: MaskLossNorm) -> None:
    pred, target = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    torch.testing.assert_close(
        masked_denoising_loss(pred, target, torch.ones(3, 8, 8), norm), denoising_loss(pred, target)
    )


def disjoint_masks() -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.zeros(3, 8, 8, dtype=torch.bool), torch.zeros(3, 8, 8, dtype=torch.bool)
    first[:, :3] = True
    second[:, 5:, :2] = True
    return first, second


def test_eq3_of_disjoint_masks_adds_up_under_the_papers_norm() -> None:
    pred, target = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    first, second = disjoint_masks()
    parts = [masked_denoising_loss(pred, target, mask, "paper") for mask in (first, second)]
    torch.testing.assert_close(
        masked_denoising_loss(pred, target, first | second, "paper"), parts[0] + parts[1]
    )


def test_eq3_of_disjoint_masks_is_the_area_weighted_mean_under_the_area_norm() -> None:
    pred, target = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    first, second = disjoint_masks()
    losses = [masked_denoising_loss(pred, target, mask, "area") for mask in (first, second)]
    areas = [mask.sum(dim=(1, 2)) for mask in (first, second)]
    expected = (losses[0] * areas[0] + losses[1] * areas[1]) / (areas[0] + areas[1])
    torch.testing.assert_close(masked_denoising_loss(pred, target, first | second, "area"), expected)


def test_eq3_without_a_mask_is_eq1_whatever_the_masks() -> None:
    pred, target = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=1)
    for union in (*disjoint_masks(), torch.zeros(3, 8, 8), torch.ones(3, 8, 8)):
        assert torch.equal(masked_denoising_loss(pred, target, union, "none"), denoising_loss(pred, target))


def test_eq4_is_zero_when_the_map_is_the_mask_at_any_scale() -> None:
    masks = (random(2, 3, 16) > 0).float()
    assert attention_loss(0.07 * masks, masks, torch.ones(2, 3, dtype=torch.bool)).abs().max() == 0


def test_eq4_sums_over_present_concepts_only() -> None:
    maps, masks = random(1, 3, 16).abs(), (random(1, 3, 16, seed=1) > 0).float()
    alone = torch.ones(1, 1, dtype=torch.bool)
    single = [attention_loss(maps[:, k : k + 1], masks[:, k : k + 1], alone) for k in (0, 1)]
    both = attention_loss(maps, masks, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(both, single[0] + single[1])


def test_eq4_of_an_all_zero_map_is_finite() -> None:
    maps = torch.zeros(1, 1, 4, requires_grad=True)
    loss = attention_loss(maps, torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)).sum()
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss == 1
    assert torch.isfinite(gradient).all()


def assert_gradient_agrees(function: object, point: torch.Tensor, step: float = 1e-3) -> None:
    """Central differences in float64 steps on a float32 function: agreement to 1 % of the gradient's size."""
    assert callable(function)
    leaf = point.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    numeric = torch.zeros_like(point)
    for index in range(point.numel()):
        shift = torch.zeros(point.numel()).index_fill_(0, torch.tensor(index), step).view_as(point)
        numeric.view(-1)[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    torch.testing.assert_close(gradient, numeric, rtol=0.01, atol=0.01 * float(gradient.abs().max()))


@pytest.mark.parametrize("norm", NORMS)
def test_eq3_gradient_agrees_with_finite_differences(norm: MaskLossNorm) -> None:
    target, union = random(1, 2, 3, 3, seed=1), torch.eye(3, dtype=torch.bool)[None]
    assert_gradient_agrees(
        lambda pred: masked_denoising_loss(pred, target, union, norm).sum(), random(1, 2, 3, 3)
    )


def test_eq4_gradient_agrees_with_finite_differences_through_the_maximum_too() -> None:
    masks, present = (random(1, 2, 9, seed=1) > 0).float(), torch.ones(1, 2, dtype=torch.bool)
    assert_gradient_agrees(
        lambda maps: attention_loss(maps, masks, present).sum(), random(1, 2, 9).abs() + 0.1
    )
