"""Optimisers compute in float32 on CPUs that emulate bfloat16."""

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


class RecordDtypes(TorchDispatchMode):
    """Records the dtypes of all tensors that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        outputs = output if isinstance(output, tuple) else (output,)
        self.dtypes |= {tensor.dtype for tensor in outputs if torch.is_tensor(tensor)}
        return output


def one_step(optimizer: str, context: AbstractContextManager[object]) -> tuple[nn.Linear, set[torch.dtype]]:
    """A layer after one step, and the dtypes that occurred."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 8)
    layer.weight.grad, layer.bias.grad = torch.randn(8, 12), torch.randn(8)
    settings = recipe.Train(optimizer=optimizer, learning_rate=0.01, weight_decay=0.0)
    instance = build_optimizer(layer, settings)
    with RecordDtypes() as recorded, context:
        instance.step()
    return layer, recorded.dtypes


@pytest.mark.parametrize("optimizer", ["muon", "nmuon", "adamuon", "adafactorbv"])
def test_no_bfloat16_occurs(optimizer: str) -> None:
    _, before = one_step(optimizer, nullcontext())
    assert torch.bfloat16 in before, "otherwise this test proves nothing"
    _, dtypes = one_step(optimizer, InFloat32(optimizer))
    assert torch.float32 in dtypes
    assert torch.bfloat16 not in dtypes


def test_the_update_equals_muon_s_in_float32() -> None:
    after, _ = one_step("muon", InFloat32("muon"))
    torch.manual_seed(0)
    weight = nn.Linear(12, 8).weight.detach()
    gradient = torch.randn(8, 12)
    update = zeropower_via_newtonschulz(0.05 * gradient, 5, _COEFFICIENTS["quintic"], dtype=torch.float32)
    torch.testing.assert_close(after.weight.detach(), weight - 0.01 * 0.2 * 12**0.5 * update, atol=1e-6, rtol=0)


def test_other_optimisers_are_not_changed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "toolkit"):
        inside, _ = one_step("adamw", InFloat32("adamw"))
    outside, _ = one_step("adamw", nullcontext())
    assert torch.equal(inside.weight, outside.weight)
    assert caplog.text == ""


def test_the_replacement_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    context = InFloat32("muon")
    with caplog.at_level(logging.INFO, "toolkit"):
        one_step("muon", context)
        one_step("muon", context)
    assert [record.getMessage() for record in caplog.records] == [
        "muon computes in float32: this CPU emulates bfloat16"
    ]
