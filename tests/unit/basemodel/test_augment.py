"""What happens to training pictures: each change does what it is called and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.basemodel.augment import AUGMENTATIONS, SHARE, augment

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=generator()) - 0.5


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_changes_the_picture_but_not_its_shape(name: str) -> None:
    changed = AUGMENTATIONS[name](pictures(), generator())
    assert changed.shape == (3, 3, 16, 16)
    assert float((changed - pictures()).abs().mean()) > 1e-3


@pytest.mark.parametrize("name", ["blur", "coarse", "contrast", "bleed", "hue"])
def test_a_plain_grey_picture_stays_as_it_is(name: str) -> None:
    grey = torch.full((2, 3, 16, 16), 0.25)
    assert torch.allclose(AUGMENTATIONS[name](grey, generator()), grey, atol=1e-5)


def test_a_turn_of_the_hue_keeps_the_luma() -> None:
    turned = AUGMENTATIONS["hue"](pictures(), generator())
    # Turning about the grey axis keeps the mean of the channels; its luma moves only as far as the small turn.
    assert torch.allclose(turned.std((1, 2, 3)), pictures().std((1, 2, 3)), rtol=0.25)
    assert float((turned - pictures()).mul(LUMA).sum(1).abs().mean()) < 0.05


def test_bleeding_keeps_every_pixels_mean_of_channels() -> None:
    bled = AUGMENTATIONS["bleed"](pictures(), generator())
    assert torch.allclose(bled.mean(1), pictures().mean(1), atol=1e-5)


def test_contrast_keeps_the_pictures_mean() -> None:
    changed = AUGMENTATIONS["contrast"](pictures(), generator())
    assert torch.allclose(changed.mean((1, 2, 3)), pictures().mean((1, 2, 3)), atol=1e-5)


def test_black_stays_black_however_bright() -> None:
    black = torch.full((2, 3, 8, 8), -1.0)
    assert torch.equal(AUGMENTATIONS["brightness"](black, generator()), black)


def test_the_asked_share_of_pictures_is_changed() -> None:
    before = pictures(400)
    after = augment(before, ["noise"], generator())
    share = (after != before).flatten(1).any(1).float().mean()
    assert float(share) == pytest.approx(SHARE, abs=0.08)


def test_augmented_pictures_stay_in_range() -> None:
    after = augment(2 * pictures(50), list(AUGMENTATIONS), generator())
    assert float(after.abs().max()) <= 1


def test_no_augmentation_leaves_the_pictures_alone() -> None:
    assert torch.equal(augment(pictures(), [], generator()), pictures())
