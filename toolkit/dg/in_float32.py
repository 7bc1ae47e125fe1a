"""Replace bfloat16 by float32 in code that has no setting for it, such as Muon's orthogonalisation (timm, torch)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LOG = logging.getLogger(__name__)


class InFloat32(TorchFunctionMode):
    """Context that replaces the dtype bfloat16 by float32 in calls of torch; the first replacement is logged."""

    def __init__(self, name: str) -> None:
        """`name`: the optimiser that runs in this context, for the log."""
        super().__init__()
        self._name = name
        self._logged = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if any(value is torch.bfloat16 for value in (*args, *kwargs.values())):
            self._log_once()
            args = tuple(map(_widened, args))
            kwargs = {name: _widened(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _log_once(self) -> None:
        if not self._logged:
            LOG.info("%s computes in float32: this CPU emulates bfloat16", self._name)
            self._logged = True


def _widened(value: object) -> object:
    return torch.float32 if value is torch.bfloat16 else value
