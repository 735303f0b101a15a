"""The optimiser."""

import pytest
import torch
from torch.nn import Parameter

from conceptloom.errors import RunError
from conceptloom.learning.optimisation import Descent


def test_one_step_is_adamws_own() -> None:
    mine, reference = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    Descent([mine], [], 0.1, 100.0, torch.float32).descend(mine.square().sum(), "step")
    optimizer = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.0)
    reference.square().sum().backward()
    optimizer.step()
    assert torch.equal(mine, reference)


def test_rows_do_not_decay_and_weights_do() -> None:
    row, weight = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    descent = Descent([row], [weight], 0.1, 1.0, torch.float32)
    descent.descend((0.0 * row).sum() + (0.0 * weight).sum(), "step")
    assert torch.equal(row, torch.ones(2))
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.999))


def test_only_its_own_parameters_get_gradients() -> None:
    row, other = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    Descent([row], [], 0.1, 1.0, torch.float32).descend((row * other).sum(), "step")
    assert other.grad is None
    assert torch.equal(other, torch.ones(2))


def test_float16_models_get_a_scaled_loss_and_the_same_step() -> None:
    plain, scaled = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    Descent([plain], [], 0.1, 1.0, torch.float32).descend(plain.square().sum(), "step")
    Descent([scaled], [], 0.1, 1.0, torch.float16).descend(scaled.square().sum(), "step")
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step_and_changes_nothing(bad: float) -> None:
    row = Parameter(torch.ones(2))
    descent = Descent([row], [], 0.1, 1.0, torch.float32)
    with pytest.raises(RunError, match="EM step 37") as raised:
        descent.descend((row * bad).sum(), "EM step 37")
    assert torch.equal(row, torch.ones(2))
    assert descent.state() == {}
    assert "\n" not in str(raised.value)


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    row = Parameter(torch.zeros(1))
    with pytest.raises(RunError, match="gradient norm"):
        Descent([row], [], 0.1, 1.0, torch.float32).descend(row.sqrt().sum(), "step")


def test_its_state_carries_on_bit_by_bit() -> None:
    def loss(row: Parameter) -> torch.Tensor:
        return (row - torch.tensor([0.3, -0.1])).square().sum()

    whole = Parameter(torch.ones(2))
    first = Descent([whole], [], 0.1, 1.0, torch.float32)
    first.descend(loss(whole), "step")
    halved = Parameter(whole.detach().clone())
    second = Descent([halved], [], 0.1, 1.0, torch.float32)
    second.load(first.state())
    first.descend(loss(whole), "step")
    second.descend(loss(halved), "step")
    assert torch.equal(whole, halved)
