"""timm's models: the names of those that this toolkit can prune, and building one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import islice
from typing import Any

import timm
import torch
from torch import nn

from toolkit.errors import BadInput, UnknownName, UnsupportedModel
from toolkit.models import refusal
from toolkit.models.arguments import check_arguments
from toolkit.models.forms import check_forms
from toolkit.models.patches import image_size
from toolkit.records import Setting

NEAR = 40
"""Names that are looked at for those that are offered in place of an unknown one."""
EXAMPLES = (
    "for example deit_tiny_patch16_224, deit_small_distilled_patch16_224, vit_base_patch16_224 and "
    "beit_base_patch16_224 can; docs/models.md says which others"
)


def known_models() -> list[str]:
    """timm's names of the architectures that `build.build` accepts."""
    names: list[str] = []
    for family in ("vision_transformer", "deit", "beit"):
        names += timm.list_models(module=family)
    return sorted(names)


def check_name(name: str) -> None:
    """Raise unless it is an architecture, or one and the tag of one of its sets of weights: UnsupportedModel for other
    models of timm's, UnknownName for the rest. Only such as can be cut are offered in its place."""
    architecture, _, tag = name.partition(".")
    if architecture in known_models():
        tagged = timm.list_models(f"{architecture}.*", pretrained=True)
        if tag and name not in tagged:
            raise UnknownName("model", name, tagged if _can_be_cut(architecture) else [])
        return
    if timm.is_model(architecture):
        raise UnsupportedModel(f"{name} is no ViT, DeiT or BEiT, and only those can be cut", EXAMPLES)
    near = difflib.get_close_matches(architecture, known_models(), n=NEAR, cutoff=0.5)
    if not (close := [*islice(filter(_can_be_cut, near), 3)]):
        raise UnsupportedModel(f"timm has no ViT, DeiT or BEiT called {name!r}, and only those can be cut", EXAMPLES)
    raise UnknownName("model", name, close)


def _can_be_cut(name: str) -> bool:
    """Whether the architecture of this name, with timm's own settings, is made of parts that can be."""
    try:
        with torch.device("meta"):
            image_size(create(name, {"depth": 1}, 2, from_hub=False))
    except BadInput:
        return False
    return True


def create(name: str, args: Mapping[str, Setting], classes: int, *, from_hub: bool) -> nn.Module:
    """The model of this name, its attention not yet canonical.

    Raises RecipeError for arguments that timm refuses, WeightsError for hub weights that cannot be had or do not fit,
    UnsupportedModel for parts that cannot be pruned.
    """
    check_arguments(name, args)
    try:
        arguments: dict[str, Any] = {**args, "num_classes": classes}
        module: nn.Module = timm.create_model(name, pretrained=from_hub, **arguments)
    except Exception as error:  # timm checks no argument: any class of error may follow
        if not from_hub:
            raise refusal.of_arguments(name, args, error) from error
        # Hub, network and cache fail with many unrelated classes too; what builds without weights lacks only those.
        create(name, args, classes, from_hub=False)
        raise refusal.of_hub_weights(name, args, error) from error
    if from_hub:
        refusal.check_hub_weights(module, name, args)
    check_forms(module, name)
    refusal.check_mlp(module, args)
    return module
