"""Modules for the choices of a search space, with repaired weights: as surgery and compensation make them, faster."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from toolkit.models.groups import Key
from toolkit.models.surgery import pruned
from toolkit.models.tokens import set_tokens
from toolkit.prune.least_squares import Repaired
from toolkit.prune.search.space import Choice, Space


class Stitcher:
    """Makes modules for choices; weights are repaired once for each rung."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._repaired: dict[tuple[Key, int], Repaired] = {}

    def module(self, choice: Choice) -> nn.Module:
        """A module for a choice, in evaluation mode and without gradients."""
        model, cuts = self._space.model, self._space.cuts(choice)
        module = pruned(model, cuts)
        for key, kept in choice.kept:
            if key[1] != "qk" and self._space.ladders[key].rung(kept).removed:
                self._repair(module, key, kept)
        info = replace(model.info, merges=choice.merges, trim_last_block=self._space.trim)
        set_tokens(module, info, model.parts)
        return module.eval().requires_grad_(False)

    def _repair(self, module: nn.Module, key: Key, kept: int) -> None:
        ladder = self._space.ladders[key]
        if (key, kept) not in self._repaired:
            self._repaired[key, kept] = ladder.repaired(ladder.rung(kept))
        repaired, layer = self._repaired[key, kept], module.get_submodule(ladder.reader)
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(repaired.weight)
            if layer.bias is not None:
                layer.bias.add_(repaired.shift)
