"""The transformer as it is traced: tokens flat, attention in a graph's form, the last block for what is read of it.

A linear layer of a matrix is one node with its bias (Gemm); of a batch of matrices it is a product and an addition
(MatMul, Add). At small batches a processor spends as much on starting nodes as on some of them.
"""

from __future__ import annotations

from typing import Any

from timm.models import beit
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from toolkit.export.attention import Batch, FlatAttention, Form, Layer, first_rows
from toolkit.export.rewrite import PRE_NORM
from toolkit.models.adapt import attentions
from toolkit.models.count import trace
from toolkit.models.shapes import blocks_of


def flatten(module: nn.Module, image_size: int | None, form: Form, *, only_what_is_read: bool) -> bool:
    """Let the blocks of `module` work on [batch * tokens, width], in place.

    image_size: of the images to come; None: any that the module takes.
    only_what_is_read: in the last block compute queries, attention and MLP only for the tokens that the classifier
    reads. Returns whether there was anything to leave out.
    """
    places = attentions(module)
    tokens = -1 if image_size is None else trace(module, image_size)[next(iter(places))].positions
    batch = Batch()
    blocks = blocks_of(module)
    read = _tokens_read(module) if only_what_is_read and type(blocks[-1]) in PRE_NORM else None
    rows = tokens if read is None else read
    for place, attention in places.items():
        own = rows if place == list(places)[-1] else tokens
        module.set_submodule(place, FlatAttention(attention, tokens, own, batch, form))
    if read is not None:
        blocks[-1] = LastBlock(blocks[-1], tokens, read, batch)
    blocks[0].register_forward_pre_hook(_flat, with_kwargs=True)
    blocks[-1].register_forward_hook(_by_image)
    return read is not None


class LastBlock(nn.Module):
    """A block whose output is read for the first `rows` tokens only: nothing else of them is computed."""

    def __init__(self, block: nn.Module, tokens: int, rows: int, batch: Batch) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            block.get_submodule(name) for name in ("norm1", "attn", "norm2", "mlp")
        )
        self.ls1, self.ls2 = (_layer_scale(block, number) for number in (1, 2))
        self.tokens, self.rows, self.batch = tokens, rows, batch

    def forward(self, x: Tensor, **unset: object) -> Tensor:
        """x: [batch * tokens, width] -> [batch * rows, width]"""
        mixed = self.ls1(self.attn(self.norm1(x)))
        x = first_rows(x, self.tokens, self.rows, self.batch) + mixed
        output: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return output


class _Scaled(nn.Module):
    """BEiT's layer scale as a layer."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _layer_scale(block: nn.Module, number: int) -> nn.Module:
    if not isinstance(block, beit.Block):
        return block.get_submodule(f"ls{number}")
    gamma = getattr(block, f"gamma_{number}")
    return nn.Identity() if gamma is None else _Scaled(gamma)


def _tokens_read(module: nn.Module) -> int | None:
    """How many tokens the classifier reads: the first ones; None: all."""
    if getattr(module, "global_pool", None) != "token":
        return None
    return 2 if isinstance(module, VisionTransformerDistilled) else 1


def _flat(block: nn.Module, inputs: tuple[Tensor, ...], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    layer = _layer(block)
    if layer.tokens == -1:
        layer.batch.images = inputs[0].shape[0]
    return (inputs[0].flatten(0, 1), *inputs[1:]), settings


def _by_image(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    layer = _layer(block)
    return layer.batch.by_image(output, layer.rows)


def _layer(block: nn.Module) -> Layer:
    """That of the block itself, which may be a copy: one closed over would be the original's."""
    return next(each.layer for each in block.modules() if isinstance(each, FlatAttention))
