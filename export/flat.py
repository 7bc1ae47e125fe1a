"""The transformer as it is traced: tokens flat, attention in a graph's form, the last block for what is read of it.

A linear layer of a matrix is one node with its bias (Gemm); of a batch of matrices it is a product and an addition
(MatMul, Add). At small batches a processor spends as much on starting nodes as on some of them.

Tokens may be padded to a number that suits the target's matrix products: OpenVINO's take 15 to 25 % longer for 197 rows
than for 200, as 197 is prime. Attention does not read what is padded, and nothing after the blocks sees it.
"""

from __future__ import annotations

from typing import Any

from timm.models import beit
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from toolkit.export.attention import Batch, FlatAttention, Form, Layer, first_rows
from toolkit.export.choices import ONLY_WHAT_IS_READ, PAD_TOKENS
from toolkit.export.rewrite import PRE_NORM
from toolkit.models.adapt import attentions
from toolkit.models.profile import trace
from toolkit.models.shapes import blocks_of


def flatten(
    module: nn.Module, image_size: int | None, form: Form, *, only_what_is_read: bool, tokens_multiple: int = 1
) -> dict[str, int]:
    """Let the blocks of `module` work on [batch * tokens, width], in place.

    image_size: of the images to come; None: any that the module takes, and no padding.
    only_what_is_read: in the last block compute queries, attention and MLP only for the tokens that the classifier
    reads. tokens_multiple: of what an image's tokens are padded to a multiple. Returns at how many places what of this
    was done.
    """
    places = attentions(module)
    tokens = -1 if image_size is None else trace(module, image_size)[next(iter(places))].positions
    batch = Batch()
    blocks = blocks_of(module)
    read = _tokens_read(module) if only_what_is_read and type(blocks[-1]) in PRE_NORM else None
    alone = read is not None and len(blocks) == 1  # the last block drops what is padded, and there is no other
    padding = 0 if image_size is None or alone else -tokens % tokens_multiple
    for place, attention in places.items():
        flat = FlatAttention(attention, tokens + padding, tokens + padding, batch, form, padding)
        if read is not None and place == list(places)[-1]:
            flat = FlatAttention(attention, tokens, read, batch, form)
        module.set_submodule(place, flat)
    if read is not None:
        blocks[-1] = LastBlock(blocks[-1], tokens, read, batch, padding)
    blocks[0].register_forward_pre_hook(_flat, with_kwargs=True)
    blocks[-1].register_forward_hook(_by_image)
    done = {ONLY_WHAT_IS_READ: int(read is not None), PAD_TOKENS: int(padding > 0)}
    return {name: places for name, places in done.items() if places}


class LastBlock(nn.Module):
    """A block whose output is read for the first `rows` tokens only: nothing else of them is computed.

    The `padding` that comes after an image's tokens is not even read.
    """

    def __init__(self, block: nn.Module, tokens: int, rows: int, batch: Batch, padding: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            block.get_submodule(name) for name in ("norm1", "attn", "norm2", "mlp")
        )
        self.ls1, self.ls2 = (_layer_scale(block, number) for number in (1, 2))
        self.tokens, self.rows, self.batch, self.padding = tokens, rows, batch, padding

    def forward(self, x: Tensor, **unset: object) -> Tensor:
        """x: [batch * (tokens + padding), width] -> [batch * rows, width]"""
        if self.padding:
            x = first_rows(x, self.tokens + self.padding, self.tokens, self.batch)
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
    x = nn.functional.pad(inputs[0], (0, 0, 0, layer.padding)) if layer.padding else inputs[0]
    return (x.flatten(0, 1), *inputs[1:]), settings


def _by_image(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    layer = _layer(block)
    tokens = layer.batch.by_image(output, layer.rows)
    return tokens[:, : -layer.padding] if layer.padding else tokens


def _layer(block: nn.Module) -> Layer:
    """That of the block itself, which may be a copy: one closed over would be the original's."""
    return next(each.layer for each in block.modules() if isinstance(each, FlatAttention))
