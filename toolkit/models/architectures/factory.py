"""Modules of a user's own function: `--model package.module:function`.

The function is called with the number of classes and returns a module of timm's or transformers' supported classes,
with its weights. The module's architecture converts it to the canonical form.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from toolkit import recipe
from toolkit.errors import BadInput, RecipeError, UnsupportedModel, plainly
from toolkit.models.architectures import Built, Source, owner_of
from toolkit.models.factories import NAMED, allow, allowed, is_factory
from toolkit.records import ModelInfo


class Factory:
    """A source of modules; their classes belong to other architectures."""

    def accepts(self, name: str) -> bool:
        return is_factory(name)

    def check_name(self, name: str) -> None:
        _function(name)

    def class_names(self, name: str) -> tuple[str, ...]:
        return ()

    def build(self, settings: recipe.Model, classes: Sequence[str], seed: int) -> Built:
        if settings.args or settings.weights not in ("hub", "none"):
            raise RecipeError("a factory sets arguments and weights itself", f"change {settings.name} instead")
        allow(settings.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _module(settings.name, len(classes))
        return Built(module, {}, owner_of(module, settings.name).image_size(module))

    def skeleton(self, info: ModelInfo) -> nn.Module:
        if not allowed(info.name):
            raise UnsupportedModel(
                f"the model was built by the factory {info.name}, and a model folder does not decide what is executed",
                f"if you trust this function, name it: --model {info.name}, load(folder, factory={info.name!r}), or "
                f"{NAMED}={info.name} in the environment",
            )
        return _module(info.name, len(info.classes))


def _function(name: str) -> Callable[[int], object]:
    """The factory of this name, from an installed package or the current folder; BadInput if it cannot be imported."""
    module_name, _, attribute = name.partition(":")
    try:
        with _current_folder():
            function: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing executes code: any class of error may follow
        raise BadInput(
            f"the factory {name} cannot be imported: {type(error).__name__}: {plainly(error)}",
            "--model package.module:function, installed or in the current folder",
        ) from error
    if not callable(function):
        raise BadInput(f"{name} is a {type(function).__name__}, not a function", _SIGNATURE)
    return function


def _module(name: str, classes: int) -> nn.Module:
    """The factory's result for this number of classes; BadInput unless it is a module of a supported class."""
    function = _function(name)
    try:
        with _current_folder(), torch.device("cpu"):  # it may load weights, which is impossible on the meta device
            module = function(classes)
    except Exception as error:  # any class of error may follow
        raise BadInput(f"{name}({classes}) failed: {type(error).__name__}: {plainly(error)}", _SIGNATURE) from error
    if not isinstance(module, nn.Module):
        raise BadInput(f"{name}({classes}) returned a {type(module).__name__}, not a module", _SIGNATURE)
    owner_of(module, name).check_module(module, name)
    return module


_SIGNATURE = "def function(classes: int) -> torch.nn.Module: return timm.create_model(..., num_classes=classes)"


@contextmanager
def _current_folder() -> Iterator[None]:
    """Make modules of the current folder importable within the context."""
    folder = str(Path.cwd())
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


PLUGIN: Source = Factory()
