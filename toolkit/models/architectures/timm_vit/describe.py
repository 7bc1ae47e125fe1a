"""Determine the name and the arguments of a timm model from its module."""

from __future__ import annotations

import torch
from timm.models.beit import Beit
from torch import nn

from toolkit.errors import BadInput, UnsupportedModel
from toolkit.models.architectures import Built
from toolkit.models.architectures.timm_vit import patch_embedding
from toolkit.models.architectures.timm_vit.create import create
from toolkit.models.architectures.timm_vit.supported_parts import check_parts
from toolkit.models.modes import evaluating
from toolkit.records import Setting


def describe(module: nn.Module) -> Built:
    """A module that `timm.create_model` returned, by timm's name and arguments for its sizes.

    Raises UnsupportedModel unless these rebuild it: the logits for a random image must be equal.
    """
    config = getattr(module, "pretrained_cfg", None) or {}
    name = str(config.get("architecture") if isinstance(config, dict) else config.architecture)
    check_parts(module, name)
    image_size, args = patch_embedding.image_size(module), _sizes(module)
    if not _rebuilds(module, name, args, image_size):
        raise UnsupportedModel(
            f"timm builds a different module for {name} with these sizes, so a model folder cannot describe it",
            "write a function that builds it and pass its name: load('package.module:function', classes)",
        )
    return Built(module, args, image_size, name=name)


def _sizes(module: nn.Module) -> dict[str, Setting]:
    block = module.get_submodule("blocks.0")
    width, hidden = module.get_parameter("patch_embed.proj.weight").shape[0], block.get_submodule("mlp.fc2")
    args: dict[str, Setting] = {
        "img_size": patch_embedding.image_size(module),
        "patch_size": patch_embedding.patch_size(module),
        "embed_dim": width,
        "depth": len([*module.get_submodule("blocks").children()]),
        "num_heads": int(block.get_submodule("attn").num_heads),  # type: ignore[arg-type]
        "mlp_ratio": hidden.get_parameter("weight").shape[1] / width,
        "global_pool": str(module.global_pool),
    }
    if isinstance(module, Beit):
        del args["global_pool"]
    return args


def _rebuilds(module: nn.Module, name: str, args: dict[str, Setting], image_size: int) -> bool:
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with evaluating(module), torch.inference_mode():
        expected = module(image)
        try:
            other = create(name, args, expected.shape[-1], from_hub=False).eval()
            other.load_state_dict(module.state_dict())
        except (BadInput, RuntimeError):  # unknown name or other shapes
            return False
        return bool(torch.equal(other(image), expected))
