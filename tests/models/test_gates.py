"""Gates: 1 changes nothing, 0 is the masked model, and gradients are derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from toolkit.errors import PlanError
from toolkit.models.gates import gated
from toolkit.models.groups import Key
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.records import Cut

KEYS: dict[Key, tuple[int, ...]] = {
    ("blocks.0.attn", "head"): (1,),
    ("blocks.0.attn", "qk"): (0, 5),
    ("blocks.1.attn", "qk"): (3,),
    ("blocks.1.attn", "v"): (0, 7),
    ("blocks.0.mlp", "mlp"): (2, 3, 11),
    ("residual", "embed"): (0, 4),
    ("blocks", "block"): (2,),
}
"""Groups and the units that a test removes."""
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture(
    scope="module",
    params=[
        "vit_tiny_patch16_224",
        "vit_base_patch16_rpn_224",
        "beit_base_patch16_224",
        "vit_base_patch16_siglip_224",
        "aimv2_large_patch14_224",
    ],
)
def model(request: pytest.FixtureRequest, uneven: Callable[..., Model]) -> Model:
    model = uneven(request.param, 3)
    model.module.eval()
    return model


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = module(IMAGES)
    return result


def test_gates_of_one_change_nothing(model: Model) -> None:
    before, names = logits(model.module), list(model.module.state_dict())
    with gated(model, KEYS) as gates:
        assert [len(gate) for gate in gates.values()] == [model.groups.find(*key).units for key in KEYS]
        torch.testing.assert_close(logits(model.module), before, atol=1e-5, rtol=1e-5)
        own = {id(parameter) for parameter in model.module.parameters()}
        assert own >= {id(gate) for gate in gates.values()}
    assert list(model.module.state_dict()) == names
    assert torch.equal(logits(model.module), before)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[1])
def test_gates_of_zero_equal_the_masked_model(model: Model, key: Key) -> None:
    expected = logits(masked(model.module, Selection(model.groups, [Cut(*key, KEYS[key])])))
    with gated(model, [key]) as gates, torch.no_grad():
        gates[key][list(KEYS[key])] = 0.0
        torch.testing.assert_close(logits(model.module), expected, atol=1e-5, rtol=1e-5)
    assert float((logits(model.module) - expected).abs().max()) > 1e-3


def test_all_axes_at_once_equal_the_masked_model(model: Model) -> None:
    expected = logits(masked(model.module, Selection(model.groups, [Cut(*key, units) for key, units in KEYS.items()])))
    with gated(model, KEYS) as gates, torch.no_grad():
        for key, units in KEYS.items():
            gates[key][list(units)] = 0.0
        torch.testing.assert_close(logits(model.module), expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_finite_differences(small: Callable[..., Model]) -> None:
    model = small(depth=3)
    assert model.groups  # found in float32
    double, images, step = model.module.double().eval(), IMAGES.double(), 1e-5
    with gated(model, KEYS) as gates:
        generator = torch.Generator().manual_seed(0)
        for gate in gates.values():
            gate.data = 0.3 + 0.7 * torch.rand(len(gate), generator=generator, dtype=torch.float64)
        double(images).square().sum().backward()
        for key, gate in gates.items():
            unit = KEYS[key][0]
            losses = []
            for change in (step, -2 * step):
                with torch.no_grad():
                    gate[unit] += change
                    losses.append(float(double(images).square().sum()))
            with torch.no_grad():
                gate[unit] += step
            assert gate.grad is not None
            assert float(gate.grad[unit]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_the_effect_of_an_mlp_gate_is_linear(model: Model) -> None:
    """Half a gate is half of the unit's contribution to the layer that reads it."""
    key: Key = ("blocks.0.mlp", "mlp")
    layer = model.module.get_submodule("blocks.0.mlp.fc2")
    hidden = torch.randn(2, model.groups.find(*key).units, generator=torch.Generator().manual_seed(1))
    with gated(model, [key]) as gates, torch.no_grad():
        outputs = []
        for value in (0.0, 0.5, 1.0):
            gates[key][3] = value
            outputs.append(layer(hidden))
    torch.testing.assert_close(outputs[1], (outputs[0] + outputs[2]) / 2)


def test_an_error_inside_leaves_the_module_as_it_was(model: Model) -> None:
    names = list(model.module.state_dict())
    with pytest.raises(ZeroDivisionError), gated(model, KEYS):
        raise ZeroDivisionError
    assert list(model.module.state_dict()) == names


def test_a_group_that_does_not_exist_is_an_error(model: Model) -> None:
    with pytest.raises(PlanError, match="no axis 'mlp'"), gated(model, [("blocks.9.mlp", "mlp")]):
        pass
