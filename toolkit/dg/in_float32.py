"""float32 for code that asks for bfloat16 and has no setting for it, such as Muon's orthogonalisation (timm, torch)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LOG = logging.getLogger(__name__)


class InFloat32(TorchFunctionMode):
    """Context in which tensors that are asked for in bfloat16 become float32. The first time is logged."""

    def __init__(self, what: str) -> None:
        """`what`: who computes in this context, for the log."""
        super().__init__()
        self._what = what
        self._told = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if any(value is torch.bfloat16 for value in (*args, *kwargs.values())):
            self._tell()
            args = tuple(map(_wider, args))
            kwargs = {name: _wider(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _tell(self) -> None:
        if not self._told:
            LOG.info("%s computes in float32: this CPU emulates bfloat16", self._what)
            self._told = True


def _wider(value: object) -> object:
    return torch.float32 if value is torch.bfloat16 else value
