from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from toolkit import plugins, recipe
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.errors import UnknownName

NAMES = plugins.names("toolkit.dg.objectives")


@pytest.fixture
def batches() -> tuple[Batch, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        Batch(torch.randn(4, 3, 2, 2, generator=generator), torch.randint(5, (4,), generator=generator))
        for _ in range(3)
    )


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_returns_a_differentiable_loss_and_all_logits(
    name: str, model: nn.Module, batches: tuple[Batch, ...]
) -> None:
    loss, logits = objectives.build(recipe.Train(objective=name))(model, batches)
    torch.testing.assert_close(logits, model(torch.cat([batch.images for batch in batches])))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_erm_is_the_mean_cross_entropy_of_all_images(
    smoothing: float, model: nn.Module, batches: tuple[Batch, ...]
) -> None:
    settings = recipe.Train(objective="erm", label_smoothing=smoothing)
    loss, _ = objectives.build(settings)(model, batches)
    losses = [
        cross_entropy(model(batch.images), batch.labels, label_smoothing=smoothing, reduction="none")
        for batch in batches
    ]
    torch.testing.assert_close(loss, torch.cat(losses).mean())


def test_an_unknown_objective_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown objective 'erw'") as raised:
        objectives.build(recipe.Train(objective="erw"))
    assert "did you mean erm" in raised.value.hint
