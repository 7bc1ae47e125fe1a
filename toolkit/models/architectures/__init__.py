"""Architectures: families of source models, and how one becomes a canonical model. One file per family.

Only an architecture knows the names of its models' submodules outside of the blocks. Blocks are identified by class
(`toolkit.models.block`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from toolkit import plugins, recipe
from toolkit.errors import UnsupportedModel
from toolkit.records import ModelInfo, Setting

KIND = "architecture"
LOG = logging.getLogger(__name__)
DEFAULT = "timm"
"""The source that reports names which no source accepts."""


@dataclass(frozen=True)
class Built:
    """A source model, not yet canonical, and what is known about it."""

    module: nn.Module
    args: dict[str, Setting]
    """All arguments of the source model, including the image size if one is set."""
    image_size: int
    """Side of the images that the model takes, in pixels."""
    fresh: tuple[str, ...] = ()
    """Names of the canonical model's parameters that the weights did not fill."""
    name: str = ""
    """Name for `model.json`, if it is not that of the settings."""


@dataclass(frozen=True)
class Parts:
    """Submodules of a canonical model outside of its blocks, by name, and sizes."""

    patches: str
    """Module from images [batch, 3, S, S] to patch tokens."""
    projection: str
    """Convolution of `patches` that reads the pixels."""
    classifiers: tuple[str, ...]
    """Linear layers whose outputs, or their mean or sum, are the logits."""
    classifier_norm: str
    """Layer norm whose only readers are the classifiers, directly or through a mean over tokens; empty if none."""
    classifier_tokens: int | None
    """Number of tokens, the first ones, that the classifiers read; None: all."""
    prefix_tokens: int
    """Number of tokens before the patches: class, distillation and register tokens."""
    patch_size: int
    """Side of a patch in pixels."""
    image_size: int
    """Side of the images that the position embeddings are for, in pixels."""


class Source(Protocol):
    """Models by name: builds them, and rebuilds their structure for the weights of a model folder."""

    def accepts(self, name: str) -> bool:
        """Whether `name` (`--model`) is a source model of this kind."""
        ...

    def check_name(self, name: str) -> None:
        """Raise UnknownName or UnsupportedModel unless `name` can be built."""
        ...

    def class_names(self, name: str) -> tuple[str, ...]:
        """The classes that the weights of `name` are for, where they come with names; else empty."""
        ...

    def build(self, settings: recipe.Model, classes: Sequence[str], seed: int) -> Built:
        """The source model with its weights and a classifier for `classes`.

        Raises RecipeError for invalid arguments, UnsupportedModel for parts that cannot be pruned, and WeightsError for
        weights that are unavailable or do not match.
        """
        ...

    def skeleton(self, info: ModelInfo) -> nn.Module:
        """The source model of `info`, with any weights and the source's blocks and widths."""
        ...


@runtime_checkable
class Architecture(Source, Protocol):
    """A family of modules with the same classes."""

    def owns(self, module: nn.Module) -> bool:
        """Whether a module, of a source or canonical, has a class of this architecture."""
        ...

    def check_module(self, module: nn.Module, name: str) -> None:
        """Raise UnsupportedModel for a source module with parts that cannot be pruned."""
        ...

    def describe(self, module: nn.Module) -> Built:
        """A source module of unknown origin, with a name and arguments from which `skeleton` rebuilds it.

        Raises UnsupportedModel if they cannot be determined from the module.
        """
        ...

    def image_size(self, module: nn.Module) -> int:
        """Side in pixels of the images that a source module takes; RecipeError unless patches and images are square."""
        ...

    def canonicalise(self, module: nn.Module) -> nn.Module:
        """The canonical form of a source model, which takes over its parameters and may be the module itself: its
        blocks are `Blocks` of `HeadwiseBlock`s, and its output is equal (to 1e-6 in float32)."""
        ...

    def canonical_name(self, tensor: str) -> str:
        """Current name of a tensor in a model folder, which may have a name of an older version."""
        ...

    def parts(self, module: nn.Module) -> Parts:
        """Submodules and sizes of a canonical model; RecipeError if its patches are not square."""
        ...

    def example(self, info: ModelInfo, batch: int) -> dict[str, Tensor]:
        """Random inputs of the module's forward pass, by argument."""
        ...

    def resize(self, module: nn.Module, image_size: int) -> dict[str, Setting]:
        """Resample the positions for images of `image_size` pixels, in place; returns the arguments that build the
        source model for these images."""
        ...

    def check_dynamic_size(self, module: nn.Module) -> None:
        """Raise UnsupportedModel or MissingDependency if `allow_dynamic_size` would not work."""
        ...

    def allow_dynamic_size(self, module: nn.Module) -> None:
        """Make `module` accept any image height and width divisible by the patch size, in place."""
        ...

    def set_width(self, module: nn.Module, width: int) -> None:
        """Set attributes of `module` that hold its number of residual channels."""
        ...


def source_of(name: str) -> Source:
    """The source of the model with this name; if no source accepts it, timm's, whose checks raise the error."""
    others = (
        other
        for other, source in plugins.importable(__name__, LOG.warning)
        if other != DEFAULT and source.accepts(name)
    )
    return cast(Source, plugins.load(__name__, next(others, DEFAULT)))


def owner_of(module: nn.Module, name: str = "") -> Architecture:
    """The architecture of a source module or a canonical one; UnsupportedModel, with `name` in the message, if there is
    none."""
    for _, plugin in plugins.importable(__name__, LOG.warning):
        if isinstance(plugin, Architecture) and plugin.owns(module):
            return plugin
    raise UnsupportedModel(
        f"{name or 'the module'} is a {type(module).__name__}, whose attention is unknown",
        "supported are ViT, DeiT, BEiT and DINOv2 classifiers of timm and transformers",
    )
