"""Build a model from a timm name and weights; save and load model folders.

A model folder is `model.json` (a `ModelInfo`) and `model.safetensors`; nothing in it is executed. Widths are not
written down: the source model is built on the meta device, takes the shapes of the tensors in the file, and is filled.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from toolkit import hashing, recipe, records
from toolkit.errors import BadInput, RecipeError, StorageError, UnknownName, UnsupportedModel, WeightsError, plainly
from toolkit.models import refusal
from toolkit.models.acceptance import accept, check_answer
from toolkit.models.adapt import attentions, canonicalise
from toolkit.models.arguments import check_arguments
from toolkit.models.count import count
from toolkit.models.forms import check_forms
from toolkit.models.patches import image_size
from toolkit.models.preprocessing import preprocessing_of
from toolkit.models.shapes import blocks_of, drop_blocks, take_shapes
from toolkit.models.weight_file import weights_path
from toolkit.models.weights import fill, is_classifier
from toolkit.records import HeadLayout, ModelInfo, Setting

LOG = logging.getLogger(__name__)
NEAR = 40
"""Names that are looked at for those that are offered in place of an unknown one."""
EXAMPLES = (
    "for example deit_tiny_patch16_224, deit_small_distilled_patch16_224, vit_base_patch16_224 and "
    "beit_base_patch16_224 can; docs/models.md says which others"
)


@dataclass(frozen=True)
class LoadedModel:
    """A network and what is known of it. `module(images [batch, 3, S, S]) -> logits [batch, classes]`."""

    module: nn.Module
    info: ModelInfo
    fresh: tuple[str, ...] = ()
    """Parameters that start random although weights were asked for: a classifier for other classes."""


def build(settings: recipe.Model, classes: Sequence[str], seed: int) -> LoadedModel:
    """A dense model in canonical form, with a head for `classes`.

    Raises UnknownName, UnsupportedModel, RecipeError for arguments timm refuses, WeightsError for weights that cannot
    be had or do not fit, or for a damaged file beside them that says how images are prepared. `info.weights_sha256` is
    empty until the model is saved.
    """
    check_name(settings.name)
    args: dict[str, Setting] = dict(settings.args)
    if settings.image_size is not None and args.setdefault("img_size", settings.image_size) != settings.image_size:
        raise RecipeError(f"model.image_size is {settings.image_size}, img_size of model.args is {args['img_size']}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _create(settings.name, args, len(classes), from_hub=settings.weights == "hub")
    size = image_size(module)
    fresh: tuple[str, ...] = ()
    if settings.weights == "hub" and timm.models.get_pretrained_cfg_value(settings.name, "num_classes") != len(classes):
        fresh = tuple(name for name, _ in module.named_parameters() if is_classifier(name))
    elif (file := weights_path(settings)) is not None:
        fresh = fill(module, file, settings.weights_key)
    canonicalise(module)
    module.eval()
    accept(module, settings.name)
    if settings.weights != "none":
        check_answer(module, settings.name)
    costs = count(module, size)
    info = ModelInfo(
        name=settings.name,
        args=args,
        classes=tuple(classes),
        image_size=size,
        preprocessing=preprocessing_of(settings),
        removed_blocks=(),
        layouts=layouts_of(module),
        parameters=costs.parameters,
        macs=costs.macs,
        weights_sha256="",
    )
    return LoadedModel(module, info, fresh)


def outline(settings: recipe.Model, classes: Sequence[str]) -> LoadedModel:
    """What `build` makes, as shapes without numbers (on the meta device): quick whatever its size, with its errors."""
    with torch.device("meta"):
        return build(settings.model_copy(update={"weights": "none"}), classes, seed=0)


def known_models() -> list[str]:
    """timm's names of the architectures that `build` accepts."""
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
            image_size(_create(name, {"depth": 1}, 2, from_hub=False))
    except BadInput:
        return False
    return True


def save(module: nn.Module, info: ModelInfo, folder: Path) -> ModelInfo:
    """Write `model.safetensors` and `model.json` into `folder`. The returned info has this module's hash and counts."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(tensors, file)
    except SafetensorError as error:
        raise StorageError(
            f"cannot write {file}: {plainly(error)}", "make room on the disk and run the command again"
        ) from error
    costs = count(module, info.image_size)
    info = replace(
        info,
        layouts=layouts_of(module),
        parameters=costs.parameters,
        macs=costs.macs,
        weights_sha256=hashing.sha256(file),
    )
    records.save(info, folder / "model.json")
    return info


_DAMAGED = "a stage makes its model again with --force"


def load(folder: Path) -> LoadedModel:
    """Read a model folder; WeightsError when the tensors are damaged or are not the ones `model.json` describes."""
    info = records.load(ModelInfo, folder / "model.json")
    file = folder / "model.safetensors"
    shapes = _shapes(file)
    if hashing.sha256(file) != info.weights_sha256:
        raise WeightsError(
            f"{file} is not the file that {folder / 'model.json'} describes (its hash differs)", _DAMAGED
        )
    check_name(info.name)
    with torch.device("meta"):
        module = _create(info.name, info.args, len(info.classes), from_hub=False)
    canonicalise(module)
    _cut_like(module, info, shapes)
    module.load_state_dict(load_file(file), strict=True, assign=True)
    return LoadedModel(module.eval(), info)


def _cut_like(module: nn.Module, info: ModelInfo, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the source model the blocks and layouts of `info` and the shapes of the file, which must agree."""
    depth = len(blocks_of(module))
    if not set(info.removed_blocks) < set(range(depth)) or len(info.layouts) != depth - len(set(info.removed_blocks)):
        raise WeightsError(
            f"model.json removes blocks {info.removed_blocks} of {depth} and has {len(info.layouts)} layouts"
        )
    drop_blocks(module, set(info.removed_blocks))
    take_shapes(module, shapes)
    for (place, attention), layout in zip(attentions(module).items(), info.layouts, strict=True):
        attention.layout = layout
        if fault := attention.misfit():
            raise WeightsError(f"{place}: {fault}", _DAMAGED)


def layouts_of(module: nn.Module) -> tuple[HeadLayout, ...]:
    return tuple(attention.layout for attention in attentions(module).values())


def _create(name: str, args: Mapping[str, Setting], classes: int, *, from_hub: bool) -> nn.Module:
    check_arguments(name, args)
    try:
        arguments: dict[str, Any] = {**args, "num_classes": classes}
        module: nn.Module = timm.create_model(name, pretrained=from_hub, **arguments)
    except Exception as error:  # timm checks no argument: any class of error may follow
        if not from_hub:
            raise refusal.of_arguments(name, args, error) from error
        # Hub, network and cache fail with many unrelated classes too; what builds without weights lacks only those.
        _create(name, args, classes, from_hub=False)
        raise refusal.of_hub_weights(name, args, error) from error
    if from_hub:
        refusal.check_hub_weights(module, name, args)
    check_forms(module, name)
    refusal.check_mlp(module, args)
    return module


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{file} does not exist") from None
    except SafetensorError as error:
        raise WeightsError(f"{file} is truncated or not a safetensors file", _DAMAGED) from error
