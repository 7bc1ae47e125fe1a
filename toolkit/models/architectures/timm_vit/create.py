"""Names of timm's ViT, DeiT and BEiT models, and how to build one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import islice
from typing import Any

import timm
import torch
from torch import nn

from toolkit.errors import BadInput, UnknownName, UnsupportedModel
from toolkit.models.architectures.timm_vit import errors
from toolkit.models.architectures.timm_vit.arguments import check_arguments
from toolkit.models.architectures.timm_vit.patch_embedding import image_size
from toolkit.models.architectures.timm_vit.supported_parts import check_parts
from toolkit.records import Setting

MAX_CANDIDATES = 40
"""Number of similar names to consider as suggestions for an unknown name."""
EXAMPLES = (
    "for example deit_tiny_patch16_224, deit_small_distilled_patch16_224, vit_base_patch16_224 or "
    "beit_base_patch16_224; docs/models.md lists all"
)


def known_models() -> list[str]:
    """timm's names of all ViT, DeiT and BEiT architectures."""
    names: list[str] = []
    for family in ("vision_transformer", "deit", "beit"):
        names += timm.list_models(module=family)
    return sorted(names)


def check_name(name: str) -> None:
    """Raise unless `name` is a known architecture, optionally with the tag of pretrained weights: UnsupportedModel for
    other timm models, UnknownName for anything else. Only prunable models are suggested."""
    architecture, _, tag = name.partition(".")
    if architecture in known_models():
        tagged = timm.list_models(f"{architecture}.*", pretrained=True)
        if tag and name not in tagged:
            raise UnknownName("model", name, tagged if _is_prunable(architecture) else [])
        return
    if timm.is_model(architecture):
        raise UnsupportedModel(f"{name} is not a ViT, DeiT or BEiT, and only those can be pruned", EXAMPLES)
    similar = difflib.get_close_matches(architecture, known_models(), n=MAX_CANDIDATES, cutoff=0.5)
    if not (close := [*islice(filter(_is_prunable, similar), 3)]):
        raise UnsupportedModel(f"timm has no ViT, DeiT or BEiT called {name!r}, and only those can be pruned", EXAMPLES)
    raise UnknownName("model", name, close)


def _is_prunable(name: str) -> bool:
    """Whether the architecture of this name, with timm's defaults, can be pruned."""
    try:
        with torch.device("meta"):
            image_size(create(name, {"depth": 1}, 2, from_hub=False))
    except BadInput:
        return False
    return True


def create(name: str, args: Mapping[str, Setting], classes: int, *, from_hub: bool) -> nn.Module:
    """timm's model of this name, before it is canonical.

    Raises RecipeError for invalid arguments, WeightsError for hub weights that are unavailable or do not match, and
    UnsupportedModel for parts that cannot be pruned.
    """
    check_arguments(name, args)
    try:
        arguments: dict[str, Any] = {**args, "num_classes": classes}
        module: nn.Module = timm.create_model(name, pretrained=from_hub, **arguments)
    except Exception as error:  # timm does not validate arguments: any class of error may follow
        if not from_hub:
            raise errors.arguments_error(name, args, error) from error
        # Hub, network and cache raise many classes of errors. If it builds without weights, only the download failed.
        create(name, args, classes, from_hub=False)
        raise errors.hub_weights_error(name, args, error) from error
    if from_hub:
        errors.check_hub_weights(module, name, args)
    check_parts(module, name)
    errors.check_mlp(module, args)
    return module
