"""The network in a file is found by the model's names, whatever stands before them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit.errors import WeightsError
from toolkit.models.networks import Network, choose

OWN = {f"blocks.{block}.{part}.weight": torch.zeros(2, 3) for block in range(3) for part in ("norm1", "qkv", "proj")}
OWN["head.weight"] = torch.zeros(5, 3)
FILE = Path("weights.pth")


def below(prefix: str, value: float = 1.0, width: int = 3) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full((len(tensor), width), value) for name, tensor in OWN.items()}


def chosen(tensors: dict[str, Tensor], key: str | None = None) -> Network:
    network = choose(tensors, OWN, key, FILE)
    assert set(network.tensors) >= set(OWN)
    return network


def value_of(network: Network) -> float:
    (value,) = {float(tensor.mean()) for tensor in network.tensors.values()}
    return value


WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "student.", "anything.at.all.")


@pytest.mark.parametrize("prefix", [*WRAPPERS, "_orig_mod.module.", "state_dict/model.backbone.", "entry/"])
def test_a_prefix_is_taken_off_and_said(prefix: str) -> None:
    network = chosen(below(prefix))
    assert network.prefix == prefix
    (note,) = network.notes
    assert note == f"the weights are the {len(OWN)} tensors below {prefix.replace('/', '.').rstrip('.')!r}"


@pytest.mark.parametrize("prefix", ["", "model/", "state_dict/"])
def test_what_is_usual_is_not_said(prefix: str) -> None:
    assert chosen({**below(prefix), "optimizer/state/0/exp_avg": torch.zeros(2)}).notes == ()


def test_what_is_beside_the_network_is_left_out_and_said() -> None:
    tensors = {**below("state_dict/model."), "state_dict/loss.center": torch.zeros(1), "optimizer/lr": torch.zeros(1)}
    network = chosen(tensors)
    assert set(network.tensors) == set(OWN)
    assert "left out beside them: loss.center" in network.notes


def test_what_is_too_much_below_the_prefix_is_kept_to_be_refused() -> None:
    assert "surplus" in chosen({**below("module."), "module.surplus": torch.zeros(1)}).tensors


@pytest.mark.parametrize("average", ["state_dict_ema/", "model_ema/", "ema/module.", "ema_state_dict/", "swa_model/"])
@pytest.mark.parametrize("weights", ["state_dict/", "model/module."])
def test_the_weights_go_before_their_running_average(weights: str, average: str) -> None:
    tensors = {**below(weights, 1.0), **below(average, 2.0)}
    network, key = chosen(tensors), average.partition("/")[0]
    assert value_of(network) == 1.0
    assert network.notes[-1] == f"also there: {key} (--weights-key {key} takes that)"
    assert value_of(chosen(tensors, key)) == 2.0


def test_names_without_prefix_go_before_others() -> None:
    tensors = {**below("", 1.0), **below("teacher.", 2.0)}
    assert value_of(chosen(tensors)) == 1.0
    assert value_of(chosen(tensors, "teacher")) == 2.0


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ("student/module.backbone.", "teacher/backbone.", ("student", "teacher")),
        ("state_dict/student.", "state_dict/teacher.", ("state_dict.student", "state_dict.teacher")),
        ("base_encoder.", "momentum_encoder.", ("base_encoder", "momentum_encoder")),
    ],
)
def test_several_networks_are_named_and_chosen_from(one: str, other: str, keys: tuple[str, str]) -> None:
    tensors = {**below(one, 1.0), **below(other, 2.0)}
    with pytest.raises(WeightsError) as caught:
        chosen(tensors)
    assert caught.value.message == f"weights.pth holds several networks: {keys[0]}, {keys[1]}"
    assert caught.value.hint == f"choose one, as in --weights-key {keys[0]}"
    assert [value_of(chosen(tensors, key)) for key in keys] == [1.0, 2.0]


def test_a_network_of_the_model_s_shapes_goes_before_one_of_others() -> None:
    assert value_of(chosen({**below("student/", 1.0), **below("teacher/", 2.0, width=7)})) == 1.0


def test_a_key_that_names_nothing() -> None:
    with pytest.raises(WeightsError, match=r"holds no network 'emma' for this model\nthere are: ema, state_dict"):
        chosen({**below("ema/"), **below("state_dict/")}, "emma")


def test_names_that_nobody_knows_are_taken_as_they_are() -> None:
    """timm converts some of them afterwards."""
    tensors = {"state_dict/visual.class_embedding": torch.zeros(1), "epoch/x": torch.zeros(1)}
    assert set(choose(tensors, OWN, None, FILE).tensors) == {"visual.class_embedding"}
