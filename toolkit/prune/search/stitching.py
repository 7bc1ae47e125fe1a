"""Modules for the choices of a search, with repaired weights: as surgery and compensation make them, but faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from toolkit.models.groups import Key
from toolkit.models.model import Model
from toolkit.models.surgery import pruned
from toolkit.models.tokens import set_tokens
from toolkit.prune.ladders import Ladder
from toolkit.prune.least_squares import Repaired
from toolkit.prune.search.space import Choice


class Stitcher:
    """Makes modules for choices; weights are repaired once for each rung, and kept in the precision of their layer."""

    def __init__(self, model: Model, ladders: Mapping[Key, Ladder], trim_last_block: bool) -> None:
        self._model, self._ladders, self._trim = model, ladders, trim_last_block
        self._repaired: dict[tuple[Key, int], Repaired] = {}

    def module(self, choice: Choice) -> nn.Module:
        """A module for a choice, in evaluation mode and without gradients."""
        module = pruned(self._model, choice.cuts(self._ladders))
        for key, kept in choice.kept:
            if key[1] != "qk" and self._ladders[key].rung(kept).removed:
                self._repair(module, key, kept)
        info = replace(self._model.info, merges=choice.merges, trim_last_block=self._trim)
        set_tokens(module, info, self._model.parts)
        return module.eval().requires_grad_(False)

    def _repair(self, module: nn.Module, key: Key, kept: int) -> None:
        ladder = self._ladders[key]
        layer = module.get_submodule(ladder.reader)
        assert isinstance(layer, nn.Linear)
        if (key, kept) not in self._repaired:
            repaired = ladder.repaired(ladder.rung(kept))
            self._repaired[key, kept] = Repaired(repaired.weight.to(layer.weight), repaired.shift.to(layer.weight))
        repaired = self._repaired[key, kept]
        with torch.no_grad():
            layer.weight.copy_(repaired.weight)
            if layer.bias is not None:
                layer.bias.add_(repaired.shift)
