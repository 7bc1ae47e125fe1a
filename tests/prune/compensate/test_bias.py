from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import DataError, UnknownName, UnsupportedModel
from toolkit.models.model import Model
from toolkit.models.surgery import Removal, remove
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.prune.compensate.bias import mean_inputs
from toolkit.records import Cut

MLP = Cut("blocks.1.mlp", "mlp", (0, 4, 5))
V = Cut("blocks.0.attn", "v", (2, 3))
HEAD = Cut("blocks.1.attn", "head", (1,))
EMBED = Cut("residual", "embed", (3,))


def logits(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = module.eval()(images)
    return result


def zero_inputs(model: Model, cuts: Sequence[Cut]) -> None:
    """Make the outputs of these units constant: their weights are zero, their biases are not."""
    with torch.no_grad():
        for cut in cuts:
            if cut.axis == "mlp":
                model.module.get_parameter(f"{cut.place}.fc1.weight")[list(cut.units)] = 0.0
            else:
                qkv = model.module.get_parameter(f"{cut.place}.qkv.weight")
                units = cut.units if cut.axis == "v" else tuple(range(8, 16))  # head 1 of 3, 8 units each
                qkv[[48 + unit for unit in units]] = 0.0


@pytest.mark.parametrize(
    "cuts", [(MLP,), (V,), (HEAD,), (MLP, V, HEAD)], ids=lambda cuts: "-".join(c.axis for c in cuts)
)
def test_constant_units_are_replaced_exactly(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch], cuts: tuple[Cut, ...]
) -> None:
    model = small()
    zero_inputs(model, cuts)
    removal = remove(model, cuts)
    before, images = logits(model.module, batches[0].images), batches[0].images
    assert float((logits(removal.model.module, images) - before).abs().max()) > 1e-2
    repaired = compensation("bias").repair(model, removal, calibration)
    torch.testing.assert_close(logits(repaired.module, images), before, atol=1e-4, rtol=1e-5)


def test_biases_by_brute_force(small: Callable[..., Model], calibration: Calibration, batches: list[Batch]) -> None:
    """Includes a block whose index changed, and removed residual channels."""
    model = small(depth=3)
    removal = remove(model, [Cut("blocks", "block", (0,)), MLP, EMBED])
    before = {name: tensor.clone() for name, tensor in removal.model.module.state_dict().items()}
    source = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    hidden: list[Tensor] = []
    layer = model.module.get_submodule("blocks.1.mlp.fc2")
    hook = layer.register_forward_hook(lambda module, inputs, output: hidden.append(inputs[0]))
    for images, _ in batches:
        logits(model.module, images)
    hook.remove()
    mean = torch.cat(hidden).flatten(0, 1).mean(dim=0)  # [hidden]
    rows = [row for row in range(24) if row != 3]
    change = model.module.get_parameter("blocks.1.mlp.fc2.weight").detach()[rows][:, [0, 4, 5]] @ mean[[0, 4, 5]]
    repaired = compensation("bias").repair(model, removal, calibration).module.state_dict()
    for name, tensor in repaired.items():
        expected = before[name] + change if name == "blocks.0.mlp.fc2.bias" else before[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(source[name], tensor) for name, tensor in model.module.state_dict().items())


def test_the_error_of_a_real_model_gets_smaller(logits_error: Callable[[str], float]) -> None:
    assert logits_error("bias") < 0.8 * logits_error("none")


def test_means_are_over_all_tokens_of_all_images(batches: list[Batch]) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 2)

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.layer(images.flatten(1, 2))  # [batch, 48, 16]
            return result

    rows = torch.cat([batch.images.reshape(-1, 16) for batch in batches])
    means = mean_inputs(Rows(), ["layer"], batches)
    torch.testing.assert_close(means["layer"], rows.double().mean(dim=0))


def test_no_calibration_images_is_an_error(small: Callable[..., Model]) -> None:
    model = small()
    with pytest.raises(DataError, match="no calibration images"):
        compensation("bias").repair(model, remove(model, [MLP]), Calibration(lambda _: [], (), 0))


def test_activations_that_are_not_finite_are_an_error(small: Callable[..., Model], calibration: Calibration) -> None:
    model = small()
    removal = remove(model, [MLP])
    with torch.no_grad():
        model.module.get_parameter("blocks.1.mlp.fc1.bias")[0] = torch.nan
    with pytest.raises(DataError, match=r"activations at blocks\.1\.mlp\.fc2 are not finite"):
        compensation("bias").repair(model, removal, calibration)


def test_nothing_to_compensate_needs_no_images(small: Callable[..., Model]) -> None:
    model = small(depth=3)
    removal: Removal = remove(model, [Cut("blocks", "block", (0,))])
    assert compensation("bias").repair(model, removal, Calibration(lambda _: [], (), 0)) is removal.model


def test_a_layer_without_bias_is_an_error(small: Callable[..., Model], calibration: Calibration) -> None:
    model = small(proj_bias=False)
    with pytest.raises(UnsupportedModel, match=r"blocks\.1\.mlp\.fc2 has no bias"):
        compensation("bias").repair(model, remove(model, [MLP]), calibration)


def test_an_unknown_compensation_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown compensation 'biass'\ndid you mean bias"):
        compensation("biass")
