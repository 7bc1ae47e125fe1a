"""Optimisers compute in float32 where bfloat16 would be emulated."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from timm.optim.muon import _COEFFICIENTS, zeropower_via_newtonschulz
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit import recipe
from toolkit.dg.in_float32 import InFloat32
from toolkit.dg.optimise import build_optimizer


class Seen(TorchDispatchMode):
    """Notes the dtypes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.dtypes |= {each.dtype for each in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(each)}
        return made


def updated(optimizer: str, context: AbstractContextManager[object]) -> tuple[nn.Linear, set[torch.dtype]]:
    """A layer after one step, and the dtypes that occurred."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 8)
    layer.weight.grad, layer.bias.grad = torch.randn(8, 12), torch.randn(8)
    settings = recipe.Train(optimizer=optimizer, learning_rate=0.01, weight_decay=0.0)
    built = build_optimizer(layer, settings)
    with Seen() as seen, context:
        built.step()
    return layer, seen.dtypes


@pytest.mark.parametrize("optimizer", ["muon", "nmuon", "adamuon", "adafactorbv"])
def test_no_bfloat16_occurs(optimizer: str) -> None:
    _, before = updated(optimizer, nullcontext())
    assert torch.bfloat16 in before, "else this test shows nothing"
    _, dtypes = updated(optimizer, InFloat32(optimizer))
    assert torch.float32 in dtypes
    assert torch.bfloat16 not in dtypes


def test_the_update_is_muon_s_in_float32() -> None:
    after, _ = updated("muon", InFloat32("muon"))
    torch.manual_seed(0)
    weight = nn.Linear(12, 8).weight.detach()
    gradient = torch.randn(8, 12)
    update = zeropower_via_newtonschulz(0.05 * gradient, 5, _COEFFICIENTS["quintic"], dtype=torch.float32)
    torch.testing.assert_close(after.weight.detach(), weight - 0.01 * 0.2 * 12**0.5 * update, atol=1e-6, rtol=0)


def test_other_optimisers_are_left_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "toolkit"):
        inside, _ = updated("adamw", InFloat32("adamw"))
    outside, _ = updated("adamw", nullcontext())
    assert torch.equal(inside.weight, outside.weight)
    assert caplog.text == ""


def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    context = InFloat32("muon")
    with caplog.at_level(logging.INFO, "toolkit"):
        updated("muon", context)
        updated("muon", context)
    assert [record.getMessage() for record in caplog.records] == [
        "muon computes in float32: this CPU emulates bfloat16"
    ]
