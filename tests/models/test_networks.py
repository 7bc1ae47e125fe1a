"""The network in a file is found by the model's tensor names, after any prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit.errors import WeightsError
from toolkit.models.networks import Network, select

OWN = {f"blocks.{block}.{part}.weight": torch.zeros(2, 3) for block in range(3) for part in ("norm1", "qkv", "proj")}
OWN["head.weight"] = torch.zeros(5, 3)
FILE = Path("weights.pth")


def with_prefix(prefix: str, value: float = 1.0, width: int = 3) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full((len(tensor), width), value) for name, tensor in OWN.items()}


def selected(tensors: dict[str, Tensor], key: str | None = None) -> Network:
    network = select(tensors, OWN, key, FILE)
    assert set(network.tensors) >= set(OWN)
    return network


def value_of(network: Network) -> float:
    (value,) = {float(tensor.mean()) for tensor in network.tensors.values()}
    return value


WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "student.", "anything.at.all.")


@pytest.mark.parametrize("prefix", [*WRAPPERS, "_orig_mod.module.", "state_dict/model.backbone.", "entry/"])
def test_a_prefix_is_removed_and_reported(prefix: str) -> None:
    network = selected(with_prefix(prefix))
    assert network.prefix == prefix
    (note,) = network.notes
    assert note == f"using the {len(OWN)} tensors with the prefix {prefix.replace('/', '.').rstrip('.')!r}"


@pytest.mark.parametrize("prefix", ["", "model/", "state_dict/"])
def test_common_prefixes_are_not_reported(prefix: str) -> None:
    assert selected({**with_prefix(prefix), "optimizer/state/0/exp_avg": torch.zeros(2)}).notes == ()


def test_other_tensors_of_the_entry_are_ignored_and_reported() -> None:
    tensors = {
        **with_prefix("state_dict/model."),
        "state_dict/loss.center": torch.zeros(1),
        "optimizer/lr": torch.zeros(1),
    }
    network = selected(tensors)
    assert set(network.tensors) == set(OWN)
    assert "ignoring loss.center" in network.notes


def test_unexpected_tensors_with_the_prefix_are_kept_for_a_later_error() -> None:
    assert "surplus" in selected({**with_prefix("module."), "module.surplus": torch.zeros(1)}).tensors


@pytest.mark.parametrize("average", ["state_dict_ema/", "model_ema/", "ema/module.", "ema_state_dict/", "swa_model/"])
@pytest.mark.parametrize("weights", ["state_dict/", "model/module."])
def test_weights_are_preferred_to_their_running_average(weights: str, average: str) -> None:
    tensors = {**with_prefix(weights, 1.0), **with_prefix(average, 2.0)}
    network, key = selected(tensors), average.partition("/")[0]
    assert value_of(network) == 1.0
    assert network.notes[-1] == f"the file also contains {key} (use --weights-key {key})"
    assert value_of(selected(tensors, key)) == 2.0


def test_names_without_prefix_are_preferred() -> None:
    tensors = {**with_prefix("", 1.0), **with_prefix("teacher.", 2.0)}
    assert value_of(selected(tensors)) == 1.0
    assert value_of(selected(tensors, "teacher")) == 2.0


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ("student/module.backbone.", "teacher/backbone.", ("student", "teacher")),
        ("state_dict/student.", "state_dict/teacher.", ("state_dict.student", "state_dict.teacher")),
        ("base_encoder.", "momentum_encoder.", ("base_encoder", "momentum_encoder")),
    ],
)
def test_several_networks_need_a_key(one: str, other: str, keys: tuple[str, str]) -> None:
    tensors = {**with_prefix(one, 1.0), **with_prefix(other, 2.0)}
    with pytest.raises(WeightsError) as caught:
        selected(tensors)
    assert caught.value.message == f"weights.pth contains several networks: {keys[0]}, {keys[1]}"
    assert caught.value.hint == f"choose one, for example --weights-key {keys[0]}"
    assert [value_of(selected(tensors, key)) for key in keys] == [1.0, 2.0]


def test_a_network_with_the_models_shapes_is_preferred() -> None:
    assert value_of(selected({**with_prefix("student/", 1.0), **with_prefix("teacher/", 2.0, width=7)})) == 1.0


def test_an_unknown_key() -> None:
    with pytest.raises(WeightsError, match=r"has no network 'emma' for this model\nit contains ema, state_dict"):
        selected({**with_prefix("ema/"), **with_prefix("state_dict/")}, "emma")


def test_unknown_names_are_left_to_timm() -> None:
    """timm converts some of them later."""
    tensors = {"state_dict/visual.class_embedding": torch.zeros(1), "epoch/x": torch.zeros(1)}
    assert set(select(tensors, OWN, None, FILE).tensors) == {"visual.class_embedding"}
