"""The optimiser."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch.nn import Parameter

from conceptloom.learning.optimisation import Descent, limit_norms


def test_one_step_is_adamws_own() -> None:
    mine, reference = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    Descent([mine], [], 0.1, 100.0, torch.float32).descend([mine.square().sum()])
    optimizer = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.0)
    reference.square().sum().backward()
    optimizer.step()
    assert torch.equal(mine, reference)


def test_rows_do_not_decay_and_weights_do() -> None:
    row, weight = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    descent = Descent([row], [weight], 0.1, 1.0, torch.float32)
    descent.descend([(0.0 * row).sum() + (0.0 * weight).sum()])
    assert torch.equal(row, torch.ones(2))
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.999))


def test_only_its_own_parameters_get_gradients() -> None:
    row, other = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    Descent([row], [], 0.1, 1.0, torch.float32).descend([(row * other).sum()])
    assert other.grad is None
    assert torch.equal(other, torch.ones(2))


def test_float16_models_get_a_scaled_loss_and_the_same_step() -> None:
    plain, scaled = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    Descent([plain], [], 0.1, 1.0, torch.float32).descend([plain.square().sum()])
    Descent([scaled], [], 0.1, 1.0, torch.float16).descend([scaled.square().sum()])
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing_and_says_so(bad: float) -> None:
    row = Parameter(torch.ones(2))
    descent = Descent([row], [], 0.1, 1.0, torch.float32)
    assert math.isnan(descent.descend([(row * bad).sum()]))
    assert torch.equal(row, torch.ones(2))
    assert descent.state() == {}


def test_a_gradient_that_is_not_finite_moves_nothing_either() -> None:
    row = Parameter(torch.zeros(1))
    assert math.isnan(Descent([row], [], 0.1, 1.0, torch.float32).descend([row.sqrt().sum()]))
    assert torch.equal(row, torch.zeros(1))


def test_losses_descended_together_are_descended_as_their_sum() -> None:
    apart, together = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    norm = Descent([apart], [], 0.1, 1.0, torch.float32).descend(
        factor * apart.square().sum() for factor in (0.25, 0.5, 0.25)
    )
    assert norm == pytest.approx(2 * 5**0.5)
    Descent([together], [], 0.1, 1.0, torch.float32).descend([together.square().sum()])
    torch.testing.assert_close(apart, together)


def test_a_step_that_memory_cut_short_leaves_nothing_for_the_next() -> None:
    row, fresh = Parameter(torch.ones(1)), Parameter(torch.ones(1))

    def losses() -> Iterator[torch.Tensor]:
        yield (100 * row).sum()
        raise MemoryError

    descent = Descent([row], [], 0.1, 1000.0, torch.float32)
    with pytest.raises(MemoryError):
        descent.descend(losses())
    assert descent.descend([row.sum()]) == Descent([fresh], [], 0.1, 1000.0, torch.float32).descend(
        [fresh.sum()]
    )
    assert torch.equal(row, fresh)


def test_rows_longer_than_the_limit_are_shortened_to_it_and_others_stay() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [-30.0, 40.0]])
    assert limit_norms(rows, 5.0) == [2]
    torch.testing.assert_close(rows, torch.tensor([[3.0, 4.0], [0.3, 0.4], [-3.0, 4.0]]))


def test_its_state_carries_on_bit_by_bit() -> None:
    def loss(row: Parameter) -> torch.Tensor:
        return (row - torch.tensor([0.3, -0.1])).square().sum()

    whole = Parameter(torch.ones(2))
    first = Descent([whole], [], 0.1, 1.0, torch.float32)
    first.descend([loss(whole)])
    halved = Parameter(whole.detach().clone())
    second = Descent([halved], [], 0.1, 1.0, torch.float32)
    second.load(first.state())
    first.descend([loss(whole)])
    second.descend([loss(halved)])
    assert torch.equal(whole, halved)
