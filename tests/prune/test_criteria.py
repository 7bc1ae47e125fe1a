"""Criteria: the protocol, and formulas against brute force on two blocks with uneven heads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit import plugins
from toolkit.dg.batches import Batch
from toolkit.errors import DataError, UnknownName
from toolkit.models.groups import Groups, Key, Scores
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import criterion
from toolkit.prune.gradients import mean_gradients, mean_squared_gradients

NAMES = plugins.names("toolkit.prune.criteria")


@pytest.fixture(scope="module")
def groups(model: Model) -> Groups:
    return model.groups


def test_available_criteria() -> None:
    assert NAMES == ["hessian", "lamp", "magnitude-l1", "magnitude-l2", "random", "taylor"]
    with pytest.raises(UnknownName, match="did you mean taylor"):
        criterion("tailor")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_satisfies_the_protocol(
    name: str, training: bool, model: Model, groups: Groups, calibration: Calibration
) -> None:
    module = model.module.train(training)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    scores = criterion(name).score(module, calibration, groups)
    again = criterion(name).score(module, calibration, groups)
    assert list(scores) == [group.key for group in groups]
    for group in groups:
        values = scores[group.key]
        assert values.shape == (group.units,)
        assert values.dtype == torch.float64
        assert bool((values.isfinite() & (values >= 0)).all())
        assert values.std() > 0
        assert torch.equal(values, again[group.key])
    assert all(part.training == training for part in module.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    module.eval()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_requested_groups_are_scored(
    name: str, model: Model, groups: Groups, calibration: Calibration
) -> None:
    scores = criterion(name).score(model.module, calibration, groups.along(("mlp",)))
    assert set(scores) == {("blocks.0.mlp", "mlp"), ("blocks.1.mlp", "mlp")}


def summed(groups: Groups, importance: dict[str, Tensor]) -> Scores:
    """Importance of each unit, summed weight by weight."""
    result = {}
    for group in groups:
        scores = torch.zeros(group.units, dtype=torch.float64)
        for piece in group.slices:
            for position, unit in zip(piece.positions.tolist(), piece.units.tolist(), strict=True):
                scores[unit] += importance[piece.parameter].select(piece.dim, position).double().sum()
        result[group.key] = scores
    return result


def assert_scores(actual: Scores, expected: Scores, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=tolerance, atol=0)


def per_sample_gradients(module: nn.Module, batches: list[Batch]) -> list[dict[str, Tensor]]:
    """Gradients from ordinary backpropagation, one image at a time."""
    gradients = []
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            loss = F.cross_entropy(module(image[None]), label[None])
            values = torch.autograd.grad(loss, list(module.parameters()))
            gradients.append(dict(zip(dict(module.named_parameters()), values, strict=True)))
    return gradients


def test_taylor_by_brute_force(model: Model, groups: Groups, calibration: Calibration, batches: list[Batch]) -> None:
    samples = per_sample_gradients(model.module, batches)
    importance = {
        name: (weight.detach() * sum(sample[name] for sample in samples) / len(samples)).abs()
        for name, weight in model.module.named_parameters()
    }
    actual = criterion("taylor").score(model.module, calibration, groups)
    assert_scores(actual, summed(groups, importance), 1e-3)


def test_hessian_by_brute_force(model: Model, groups: Groups, calibration: Calibration, batches: list[Batch]) -> None:
    samples = per_sample_gradients(model.module, batches)
    weights = {name: weight.detach() for name, weight in model.module.named_parameters()}

    def importance(over: list[dict[str, Tensor]], count: int) -> Scores:
        squares = {name: sum((sample[name].square() for sample in over), torch.zeros(())) / count for name in weights}
        return summed(groups, {name: 0.5 * weight.square() * squares[name] for name, weight in weights.items()})

    actual = criterion("hessian").score(model.module, calibration, groups)
    assert_scores(actual, importance(samples, len(samples)), 1e-3)
    last = importance(samples[-1:], 1)  # result if only the last sample were used
    key: Key = ("blocks.0.mlp", "mlp")
    assert not torch.equal(actual[key].argsort(), last[key].argsort())
    whole = mean_gradients(model.module, batches)  # result if a batch's gradient were squared
    squared = summed(groups, {name: 0.5 * (weight * whole[name]).square() for name, weight in weights.items()})
    assert actual[key].sum() > 1.2 * squared[key].sum()


def test_gradients_equal_finite_differences(model: Model, batches: list[Batch]) -> None:
    """Central differences of the loss in float64, at a few weights of every kind of parameter."""
    import copy

    module = copy.deepcopy(model.module).double()
    exact = [(images.double(), labels) for images, labels in batches]
    samples = [(images[i : i + 1], labels[i : i + 1]) for images, labels in exact for i in range(len(images))]
    mean, squared = mean_gradients(module, exact), mean_squared_gradients(module, exact)
    step, generator = 1e-5, torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        flat = parameter.detach().view(-1)
        for index in torch.randint(len(flat), (2,), generator=generator).tolist():
            losses = []
            for sign in (1, -1):
                flat[index] += sign * step
                with torch.no_grad():
                    losses.append(torch.stack([F.cross_entropy(module(image), label) for image, label in samples]))
                flat[index] -= sign * step
            slopes = (losses[0] - losses[1]) / (2 * step)  # [samples]
            torch.testing.assert_close(mean[name].view(-1)[index], slopes.mean(), rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(squared[name].view(-1)[index], slopes.square().mean(), rtol=1e-4, atol=1e-8)


def test_batch_size_and_vectorisation_do_not_change_gradients(
    model: Model, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [torch.cat(part) for part in zip(*batches, strict=True)]
    one_batch = [Batch(parts[0], parts[1])]
    expected = mean_squared_gradients(model.module, batches)
    monkeypatch.setattr("toolkit.prune.gradients.MAX_VECTORISED_SAMPLES", 2)
    for actual in (mean_squared_gradients(model.module, one_batch), mean_squared_gradients(model.module, batches)):
        for name, values in expected.items():
            torch.testing.assert_close(actual[name], values, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["taylor", "hessian"])
def test_no_calibration_images_is_an_error(name: str, model: Model, groups: Groups) -> None:
    with pytest.raises(DataError, match="no calibration images"):
        criterion(name).score(model.module, Calibration(lambda _: [], (), seed=0), groups)


@pytest.mark.parametrize("name", ["taylor", "hessian"])
def test_images_of_one_class_are_an_error(name: str, model: Model, groups: Groups, calibration: Calibration) -> None:
    one_class = [Batch(images, torch.ones_like(labels)) for images, labels in calibration.load()]
    with pytest.raises(DataError, match=r"all calibration images are of one class \(number 1\)") as raised:
        criterion(name).score(model.module, Calibration(lambda _: one_class, ("a",), seed=0), groups)
    assert "--criterion magnitude-l2" in raised.value.hint


@pytest.mark.parametrize("name", ["magnitude-l1", "magnitude-l2", "lamp", "random"])
def test_criteria_without_images_load_none(name: str, model: Model, groups: Groups) -> None:
    def load(domains: Sequence[str]) -> list[Batch]:
        raise AssertionError("images were loaded")

    assert criterion(name).score(model.module, Calibration(load, (), seed=0), groups)


def test_magnitudes_are_sums_over_coupled_weights(model: Model, groups: Groups, calibration: Calibration) -> None:
    weights = {name: weight.detach() for name, weight in model.module.named_parameters()}
    l1 = criterion("magnitude-l1").score(model.module, calibration, groups)
    assert_scores(l1, summed(groups, {name: weight.abs() for name, weight in weights.items()}))
    l2 = criterion("magnitude-l2").score(model.module, calibration, groups)
    squares = summed(groups, {name: weight.square() for name, weight in weights.items()})
    assert_scores(l2, {key: square.sqrt() for key, square in squares.items()})
    mlp = "blocks.0.mlp"
    by_hand = weights[f"{mlp}.fc1.weight"][3].abs().sum() + weights[f"{mlp}.fc1.bias"][3].abs()
    by_hand += weights[f"{mlp}.fc2.weight"][:, 3].abs().sum()
    assert l1[mlp, "mlp"][3].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_lamp_equals_its_definition(model: Model, groups: Groups, calibration: Calibration) -> None:
    weights = {name: weight.detach() for name, weight in model.module.named_parameters()}
    squares = summed(groups, {name: weight.square() for name, weight in weights.items()})
    expected = {
        key: torch.stack([square / values[values >= square].sum() for square in values])
        for key, values in squares.items()
    }
    actual = criterion("lamp").score(model.module, calibration, groups)
    assert_scores(actual, expected)
    assert all(scores.max() == 1 for scores in actual.values())


def test_lamp_of_all_zero_weights_is_zero() -> None:
    from toolkit.prune.criteria.lamp import relative_to_survivors

    assert relative_to_survivors(torch.zeros(3, dtype=torch.float64)).tolist() == [0, 0, 0]


def test_random_depends_on_the_seed_only(model: Model, groups: Groups, calibration: Calibration) -> None:
    scorer = criterion("random")
    key: Key = ("residual", "embed")
    first = scorer.score(model.module, calibration, groups)[key]
    torch.manual_seed(99)
    assert torch.equal(scorer.score(nn.Identity(), calibration, groups)[key], first)
    assert not torch.equal(scorer.score(model.module, Calibration(lambda _: [], (), seed=1), groups)[key], first)
