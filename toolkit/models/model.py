"""A module with its description, and cached properties derived from the two."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from toolkit import hashing, records
from toolkit.errors import StorageError, plainly
from toolkit.models.architectures import Architecture, Parts, owner_of
from toolkit.models.block import HeadwiseBlock, attentions, named_blocks
from toolkit.models.cost_model import CostModel
from toolkit.models.dependency_graph import find_groups
from toolkit.models.groups import Groups
from toolkit.models.profile import Cost, LayerCall, total_cost, trace
from toolkit.records import HeadLayout, ModelInfo


@dataclass(frozen=True)
class Model:
    """`module(images [batch, 3, S, S]) -> logits [batch, classes]`, with S = `info.image_size`.

    Training changes the weights of `module` but not its shapes, so cached properties stay valid. Pruning and resizing
    return a new `Model`.
    """

    module: nn.Module
    info: ModelInfo
    fresh: tuple[str, ...] = ()
    """Names of parameters that pretrained weights did not fill: the classifier, if the classes differ."""

    @cached_property
    def architecture(self) -> Architecture:
        """Family of the module."""
        return owner_of(self.module, self.info.name)

    @cached_property
    def parts(self) -> Parts:
        """Submodules outside of the blocks, by name."""
        return self.architecture.parts(self.module)

    @property
    def blocks(self) -> Sequence[tuple[str, HeadwiseBlock]]:
        """Blocks with their module names, in order."""
        return tuple(named_blocks(self.module).items())

    def example(self, batch: int = 1) -> dict[str, Tensor]:
        """Random inputs of the module, by argument, on the default device."""
        return self.architecture.example(self.info, batch)

    @cached_property
    def groups(self) -> Groups:
        """Prunable groups of coupled channels, heads and blocks."""
        return find_groups(self.module, self._meta_example(), self.parts.classifiers)

    @cached_property
    def layer_calls(self) -> Mapping[str, LayerCall]:
        """Calls of all layers with weights, by module name, for one image."""
        return trace(self.module, self._meta_example())

    @cached_property
    def cost_model(self) -> CostModel:
        """Predicts the cost after any removal."""
        return CostModel(self.module, self.groups, self.layer_calls)

    @cached_property
    def cost(self) -> Cost:
        """Parameters, and MACs for one image."""
        return total_cost(self.module, self.layer_calls)

    @property
    def layouts(self) -> tuple[HeadLayout, ...]:
        """Head layout of each attention, in order."""
        return tuple(attention.layout for attention in attentions(self.module).values())

    def _meta_example(self) -> dict[str, Tensor]:
        with torch.device("meta"):
            return self.example()

    def copied(self) -> Model:
        """A copy with its own module."""
        return Model(copy.deepcopy(self.module), self.info, self.fresh)

    def with_current_info(self) -> Model:
        """The model with the layouts and the cost of its module written into `info`."""
        cost = self.cost
        info = replace(self.info, layouts=self.layouts, parameters=cost.parameters, macs=cost.macs)
        return self.with_info(info)

    def with_info(self, info: ModelInfo) -> Model:
        """The model with another `info`; cached properties are kept unless the image size changes."""
        other = replace(self, info=info)
        if info.image_size == self.info.image_size:
            cached = ("architecture", "groups", "layer_calls", "cost_model", "cost")
            vars(other).update({name: vars(self)[name] for name in cached if name in vars(self)})
        return other

    def identified(self) -> Model:
        """The model with the hash that its saved weights have, which identifies it in records."""
        content = safetensors.torch.save(self._tensors())
        return self.with_info(replace(self.info, weights_sha256=hashlib.sha256(content).hexdigest()))

    def save(self, folder: Path | str) -> Model:
        """Write `model.safetensors` and `model.json` to `folder`; returns the model with the file's hash in its info.

        Raises StorageError if the disk cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "model.safetensors"
        try:
            safetensors.torch.save_file(self._tensors(), file)
        except SafetensorError as error:
            raise StorageError(
                f"cannot write {file}: {plainly(error)}", "free disk space and run the command again"
            ) from error
        model = self.with_current_info()
        model = model.with_info(replace(model.info, weights_sha256=hashing.sha256(file)))
        records.save(model.info, folder / "model.json")
        return model

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.state_dict().items()}
