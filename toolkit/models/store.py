"""Load model folders, which `Model.save` writes.

A model folder contains `model.json` (a `ModelInfo`) and `model.safetensors`; nothing in it is executed. Widths are not
recorded: loading builds the source model on the meta device, sets the shapes of the file's tensors, and loads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from toolkit import hashing, records
from toolkit.errors import WeightsError
from toolkit.models.architectures import Architecture, owner_of, source_of
from toolkit.models.block import attentions, blocks_of
from toolkit.models.model import Model
from toolkit.models.shapes import drop_blocks, set_shapes, sync_sizes
from toolkit.models.tokens import block_indices, set_tokens
from toolkit.records import ModelInfo

_DAMAGED = "run the stage that wrote it again with --force"


def load(folder: Path) -> Model:
    """Read a model folder; WeightsError if the tensors are damaged or do not match `model.json`."""
    info = records.load(ModelInfo, folder / "model.json")
    file = folder / "model.safetensors"
    with torch.device("meta"):
        module = source_of(info.name).skeleton(info)
        architecture = owner_of(module, info.name)
        module = architecture.canonicalise(module)
        if architecture.parts(module).image_size != info.image_size:
            architecture.resize(module, info.image_size)
    shapes = {architecture.canonical_name(name): shape for name, shape in _shapes(file).items()}
    if hashing.sha256(file) != info.weights_sha256:
        raise WeightsError(f"{file} does not match {folder / 'model.json'}: its hash differs", _DAMAGED)
    _apply_structure(module, info, shapes, architecture)
    sync_sizes(module, architecture)
    tensors = {architecture.canonical_name(name): tensor for name, tensor in load_file(file).items()}
    module.load_state_dict(tensors, strict=True, assign=True)
    return Model(module.eval(), info)


def _apply_structure(
    module: nn.Module, info: ModelInfo, shapes: Mapping[str, tuple[int, ...]], architecture: Architecture
) -> None:
    """Give the source model the blocks and layouts of `info` and the file's shapes; WeightsError if they differ."""
    depth = len(blocks_of(module))
    if not set(info.removed_blocks) < set(range(depth)) or len(info.layouts) != depth - len(set(info.removed_blocks)):
        raise WeightsError(
            f"model.json removes blocks {info.removed_blocks} of {depth} but has {len(info.layouts)} head layouts"
        )
    drop_blocks(module, set(info.removed_blocks))
    if not {merge.block for merge in info.merges} <= set(block_indices(info)[:-1]):
        raise WeightsError(f"model.json merges tokens in blocks that the model does not have: {info.merges}")
    set_tokens(module, info, architecture.parts(module))
    set_shapes(module, shapes)
    for (place, attention), layout in zip(attentions(module).items(), info.layouts, strict=True):
        attention.layout = layout
        if mismatch := attention.layout_mismatch():
            raise WeightsError(f"{place}: {mismatch}", _DAMAGED)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{file} does not exist") from None
    except SafetensorError as error:
        raise WeightsError(f"{file} is truncated or not a safetensors file", _DAMAGED) from error
