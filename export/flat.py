"""The transformer prepared for tracing: flattened tokens, attention in the graph's form, a trimmed last block.

A linear layer applied to a matrix is a single node including its bias (Gemm); applied to a batch of matrices it is two
(MatMul, Add). At small batch sizes, node overhead on a CPU is comparable to the runtime of small nodes.

Tokens may be padded to a number that suits the target's matrix products: OpenVINO takes 15 to 25 % longer for 197
tokens than for 200, as 197 is prime. Padding is masked in attention and removed after the blocks.
"""

from __future__ import annotations

from typing import Any

from timm.models import beit
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from toolkit.export.attention import AttentionForm, AttentionSpec, BatchShape, FlatAttention, first_tokens
from toolkit.export.rewrite import PRE_NORM
from toolkit.export.settings import CLASS_TOKEN, PAD_TOKENS
from toolkit.models.adapt import attentions
from toolkit.models.profile import trace
from toolkit.models.shapes import blocks_of


def flatten(
    module: nn.Module, image_size: int | None, form: AttentionForm, *, trim_last_block: bool, tokens_multiple: int = 1
) -> dict[str, int]:
    """Let the blocks of `module` compute on [batch * tokens, width], in place.

    image_size: input size; None: any size that the module supports, without padding.
    trim_last_block: in the last block compute queries, attention and MLP only for the tokens that the classifier reads.
    tokens_multiple: pad the number of tokens to a multiple of this.
    Returns the number of changed places by rewrite.
    """
    layers = attentions(module)
    num_tokens = -1 if image_size is None else trace(module, image_size)[next(iter(layers))].positions
    batch = BatchShape()
    blocks = blocks_of(module)
    num_outputs = _num_classifier_tokens(module) if trim_last_block and type(blocks[-1]) in PRE_NORM else None
    single = num_outputs is not None and len(blocks) == 1  # a trimmed block drops the padding; there is no other
    padding = 0 if image_size is None or single else -num_tokens % tokens_multiple
    for name, attention in layers.items():
        flat = FlatAttention(attention, num_tokens + padding, num_tokens + padding, batch, form, padding)
        if num_outputs is not None and name == list(layers)[-1]:
            flat = FlatAttention(attention, num_tokens, num_outputs, batch, form)
        module.set_submodule(name, flat)
    if num_outputs is not None:
        blocks[-1] = LastBlock(blocks[-1], num_tokens, num_outputs, batch, padding)
    blocks[0].register_forward_pre_hook(_flatten_input, with_kwargs=True)
    blocks[-1].register_forward_hook(_unflatten_output)
    changed = {CLASS_TOKEN: int(num_outputs is not None), PAD_TOKENS: int(padding > 0)}
    return {name: count for name, count in changed.items() if count}


class LastBlock(nn.Module):
    """A block that computes only the first `num_outputs` tokens of an image; `padding` after its tokens is dropped."""

    def __init__(
        self, block: nn.Module, num_tokens: int, num_outputs: int, batch: BatchShape, padding: int = 0
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            block.get_submodule(name) for name in ("norm1", "attn", "norm2", "mlp")
        )
        self.ls1, self.ls2 = (_layer_scale(block, number) for number in (1, 2))
        self.num_tokens, self.num_outputs, self.batch, self.padding = num_tokens, num_outputs, batch, padding

    def forward(self, x: Tensor, **ignored: object) -> Tensor:
        """x: [batch * (tokens + padding), width] -> [batch * outputs, width]"""
        if self.padding:
            x = first_tokens(x, self.num_tokens + self.padding, self.num_tokens, self.batch)
        mixed = self.ls1(self.attn(self.norm1(x)))
        x = first_tokens(x, self.num_tokens, self.num_outputs, self.batch) + mixed
        output: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return output


class _LayerScale(nn.Module):
    """BEiT's layer scale as a module."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _layer_scale(block: nn.Module, number: int) -> nn.Module:
    if not isinstance(block, beit.Block):
        return block.get_submodule(f"ls{number}")
    gamma = getattr(block, f"gamma_{number}")
    return nn.Identity() if gamma is None else _LayerScale(gamma)


def _num_classifier_tokens(module: nn.Module) -> int | None:
    """Number of tokens, the first ones, that the classifier reads; None: all."""
    if getattr(module, "global_pool", None) != "token":
        return None
    return 2 if isinstance(module, VisionTransformerDistilled) else 1


def _flatten_input(
    block: nn.Module, inputs: tuple[Tensor, ...], settings: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    spec = _spec_of(block)
    if spec.num_tokens == -1:
        spec.batch.size = inputs[0].shape[0]
    x = nn.functional.pad(inputs[0], (0, 0, 0, spec.padding)) if spec.padding else inputs[0]
    return (x.flatten(0, 1), *inputs[1:]), settings


def _unflatten_output(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    spec = _spec_of(block)
    tokens = spec.batch.unflatten(output, spec.num_queries)
    return tokens[:, : -spec.padding] if spec.padding else tokens


def _spec_of(block: nn.Module) -> AttentionSpec:
    """Look the spec up in this block: the block may be a deepcopy."""
    return next(layer.spec for layer in block.modules() if isinstance(layer, FlatAttention))
