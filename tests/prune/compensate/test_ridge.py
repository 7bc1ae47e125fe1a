"""The compensations `ridge` and `obs`: least squares on captured activations, over axes, families and domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.models.model import Model
from toolkit.models.surgery import Removal, remove
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.prune.compensate.repairing import Settings
from toolkit.prune.covariances import collect, input_of
from toolkit.prune.least_squares import damping_of
from toolkit.prune.methods import Job
from toolkit.prune.pruning import prune
from toolkit.records import Aggregate, Cut

MLP = Cut("blocks.1.mlp", "mlp", (0, 4, 5, 40))
V = Cut("blocks.0.attn", "v", (2, 3, 17))
HEAD = Cut("blocks.1.attn", "head", (1,))
EMBED = Cut("residual", "embed", (3,))
NAMES = ("ridge", "obs")


def logits(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = module.eval()(images)
    return result


def inputs_of(model: Model, name: str, batches: Sequence[Batch]) -> Tensor:
    """[tokens, inputs] float64 of a linear layer, over all images."""
    received: list[Tensor] = []
    hook = model.module.get_submodule(name).register_forward_hook(lambda _, inputs, output: received.append(inputs[0]))
    for batch in batches:
        logits(model.module, batch.images)
    hook.remove()
    return torch.cat([rows.flatten(0, 1) for rows in received]).double()


def literal(model: Model, removal: Removal, name: str, columns: Sequence[int], batches: Sequence[Batch]) -> Tensor:
    """[outputs, kept + 1]: weights and bias by numpy's least squares on activations, a column of ones, and damping."""
    layer = model.module.get_submodule(name)
    rows = list(removal.origin["residual", "embed"][1])
    weight = layer.get_parameter("weight").detach().double()[rows].numpy()
    bias = layer.get_parameter("bias").detach().double()[rows].numpy()
    x = inputs_of(model, name, batches).numpy()
    ((_, moments),) = collect(
        model.module, {name: input_of(name, model.module)}, Calibration(lambda _: batches, ("a",), 0)
    )
    lam = damping_of(moments.mixed(), 0.05)
    ones = np.ones((len(x), 1))
    left = np.concatenate([np.concatenate([x[:, columns], ones], 1) / np.sqrt(len(x)),
                           np.sqrt(lam) * np.eye(len(columns), len(columns) + 1)])  # fmt: skip
    right = np.concatenate([(x @ weight.T + bias) / np.sqrt(len(x)), np.sqrt(lam) * weight[:, columns].T])
    solution, *_ = np.linalg.lstsq(left, right, rcond=None)
    return torch.from_numpy(solution.T)


@pytest.mark.parametrize("name", NAMES)
def test_all_axes_at_once_by_literal_least_squares(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch], name: str
) -> None:
    """Removed MLP units, value units, a head, residual channels, and a block before them; heads change their order."""
    model = small(depth=3)
    source = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
    cuts = (Cut("blocks", "block", (0,)), MLP, Cut("blocks.2.attn", "v", (0, 1, 17)), HEAD, EMBED)
    removal = remove(model, cuts)
    before = {key: tensor.clone() for key, tensor in removal.model.module.state_dict().items()}
    repaired = compensation(name, Settings(damping=0.05)).repair(model, removal, calibration)
    after = repaired.module.state_dict()
    changed = {"blocks.0.mlp.fc2": "blocks.1.mlp.fc2", "blocks.0.attn.proj": "blocks.1.attn.proj",
               "blocks.1.attn.proj": "blocks.2.attn.proj"}  # fmt: skip
    columns = {
        "blocks.0.mlp.fc2": [unit for unit in range(48) if unit not in MLP.units],
        "blocks.0.attn.proj": [*range(8), *range(16, 24)],
        "blocks.1.attn.proj": [*range(8, 16), 16, *range(18, 24), *range(2, 8)],  # heads by width
    }
    for new, old in changed.items():
        expected = literal(model, removal, old, columns[new], batches)
        torch.testing.assert_close(after[f"{new}.weight"].double(), expected[:, :-1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after[f"{new}.bias"].double(), expected[:, -1], atol=1e-5, rtol=1e-4)
    untouched = {key for key in before if key.rpartition(".")[0] not in changed}
    assert all(torch.equal(before[key], after[key]) for key in untouched)
    assert all(torch.equal(source[key], tensor) for key, tensor in model.module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_takes_over(small: Callable[..., Model], name: str) -> None:
    """A removed unit that equals another one: nothing is lost, as far as damping lets it."""
    model = small()
    with torch.no_grad():
        for part in ("weight", "bias"):
            values = model.module.get_parameter(f"blocks.1.mlp.fc1.{part}")
            values[4] = values[11]
    images = torch.randn(300, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calibration = Calibration(lambda _: [Batch(images, torch.zeros(300, dtype=torch.long))], ("all",), seed=0)
    removal = remove(model, [Cut("blocks.1.mlp", "mlp", (4,))])
    expected, unrepaired = logits(model.module, images), logits(removal.model.module, images)
    repaired = compensation(name, Settings(damping=1e-6)).repair(model, removal, calibration)
    error, before = (logits(repaired.module, images) - expected).norm(), (unrepaired - expected).norm()
    assert float(error) < 0.1 * float(before)


def test_the_error_is_smaller_than_with_bias(logits_error: Callable[[str], float]) -> None:
    assert logits_error("ridge") < 0.8 * logits_error("bias")
    assert logits_error("obs") == pytest.approx(logits_error("ridge"), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "more"),
    [("vit_tiny_patch16_224", {"proj_bias": False}), ("beit_base_patch16_224", {"swiglu_mlp": True})],
    ids=["no bias", "gated"],
)
def test_layers_without_bias_and_gated_mlps(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch], name: str, more: dict[str, bool]
) -> None:
    model = small(name, **more)
    removal = remove(model, [Cut("blocks.1.mlp", "mlp", (0, 4, 5))])
    x = inputs_of(model, "blocks.1.mlp.fc2", batches)
    layer = model.module.get_submodule("blocks.1.mlp.fc2")
    expected = layer(x.float()).double().detach()
    kept = [unit for unit in range(x.shape[1]) if unit not in (0, 4, 5)]

    def error() -> float:
        target = removal.model.module.get_submodule("blocks.1.mlp.fc2")
        return float((target(x[:, kept].float()).double().detach() - expected).square().sum())

    before = error()
    compensation("ridge").repair(model, removal, calibration)
    assert error() < 0.9 * before


def test_worst_lowers_the_largest_error_over_domains(small: Callable[..., Model], batches: list[Batch]) -> None:
    model = small()
    cut = Cut("blocks.0.mlp", "mlp", tuple(range(0, 48, 2)))
    kept = list(range(1, 48, 2))
    layer = model.module.get_submodule("blocks.0.mlp.fc2")

    def worst(aggregate: Aggregate) -> float:
        removal = remove(model, [cut])
        calibration = Calibration(lambda names: [batches[int(name)] for name in names], ("0", "1"), 0, aggregate)
        compensation("ridge").repair(model, removal, calibration)
        target = removal.model.module.get_submodule("blocks.0.mlp.fc2")
        errors = []
        for batch in batches:
            x = inputs_of(model, "blocks.0.mlp.fc2", [batch]).float()
            wanted = layer(x).detach()
            error = (target(x[:, kept]).detach() - wanted).square().sum(dim=-1).mean()
            errors.append(float(error / (wanted - wanted.mean(dim=0)).square().sum(dim=-1).mean()))
        return max(errors)

    assert worst("worst") < worst("mean")


def test_the_whole_chain_with_settings_from_the_recipe(
    small: Callable[..., Model], job: Callable[..., Job], batches: list[Batch]
) -> None:
    """Basis, method, surgery and repair; the logits are closer to the dense model's than without basis and repair."""
    model = small().identified()
    images = torch.cat([batch.images for batch in batches])
    axes = {"axes": ["qk", "v", "mlp"], "budget": "macs=0.8", "round_to": 1, "criterion": "magnitude-l2"}
    own = {"svd": {"key_mean": "uniform"}, "obs": {"damping": 0.01}}
    closed = prune(model, job(**axes, **own, basis="svd", compensation="obs"))
    assert (closed.plan.basis, closed.plan.compensation) == ("svd", "obs")
    plain = prune(model, job(**axes))
    expected = logits(model.module, images)
    errors = [float((logits(pruned.slim.module, images) - expected).norm()) for pruned in (closed, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", NAMES)
def test_too_few_images_are_an_error(small: Callable[..., Model], batches: list[Batch], name: str) -> None:
    model = small()
    one = Batch(batches[0].images[:1], batches[0].labels[:1])
    with pytest.raises(DataError, match="only 1 calibration image"):
        compensation(name).repair(model, remove(model, [MLP]), Calibration(lambda _: [one], ("a",), 0))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_repair_needs_no_images(small: Callable[..., Model], name: str) -> None:
    model = small(depth=3)
    removal: Removal = remove(model, [Cut("blocks", "block", (0,))])
    assert compensation(name).repair(model, removal, Calibration(lambda _: [], (), 0)) is removal.model
