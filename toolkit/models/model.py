"""A network with its description, and everything that can be derived from the two, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from toolkit.models.adapt import attentions
from toolkit.models.cost import CostModel
from toolkit.models.count import Counts, Layer, count_layers, trace
from toolkit.models.dependency_graph import find_groups
from toolkit.models.groups import Groups
from toolkit.records import HeadLayout, ModelInfo


@dataclass(frozen=True)
class Model:
    """`module(images [batch, 3, S, S]) -> logits [batch, classes]`, with S = `info.image_size`.

    Training may change the weights of `module`, never its shapes: what is derived here stays true. Surgery and another
    image size give another `Model`.
    """

    module: nn.Module
    info: ModelInfo
    fresh: tuple[str, ...] = ()
    """Parameters that start random although weights were asked for: a classifier for other classes."""

    @cached_property
    def groups(self) -> Groups:
        """What can be removed, and what goes with it."""
        return find_groups(self.module, self.info.image_size)

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """Every layer with weights, by module name, for one image."""
        return trace(self.module, self.info.image_size)

    @cached_property
    def cost(self) -> CostModel:
        """Costs after any removal."""
        return CostModel(self.module, self.groups, self.layers)

    @cached_property
    def counts(self) -> Counts:
        """Parameters, MACs and bytes moved for one image."""
        return count_layers(self.module, self.layers)

    @property
    def layouts(self) -> tuple[HeadLayout, ...]:
        """Heads of every attention, in order."""
        return tuple(attention.layout for attention in attentions(self.module).values())

    def described(self) -> Model:
        """The same model, with the layouts and counts of its module in `info`."""
        counts = self.counts
        info = replace(self.info, layouts=self.layouts, parameters=counts.parameters, macs=counts.macs)
        return self.with_info(info)

    def with_info(self, info: ModelInfo) -> Model:
        """The same module under another description; what was derived is kept unless the image size changes."""
        other = replace(self, info=info)
        if info.image_size == self.info.image_size:
            derived = ("groups", "layers", "cost", "counts")
            vars(other).update({name: vars(self)[name] for name in derived if name in vars(self)})
        return other
