"""The transformer prepared for tracing: flattened tokens, attention in the graph's form, blocks with fewer tokens.

A linear layer applied to a matrix is a single node including its bias (Gemm); applied to a batch of matrices it is two
(MatMul, Add). At small batch sizes, node overhead on a CPU is comparable to the runtime of small nodes.

Tokens may be padded to a number that suits the target's matrix products: OpenVINO takes 15 to 25 % longer for 197
tokens than for 200, as 197 is prime. Padding is masked in attention, and removed where tokens are merged or trimmed,
else after the blocks.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from toolkit.export.attention import AttentionForm, AttentionSpec, BatchShape
from toolkit.export.flat_attention import FlatAttention, first_tokens
from toolkit.export.settings import CLASS_TOKEN, PAD_TOKENS
from toolkit.models.block import HeadwiseBlock, blocks_of, named_blocks
from toolkit.models.model import Model
from toolkit.models.tokens import tokens_of


def flatten(
    model: Model, form: AttentionForm, *, dynamic: bool = False, trim_last_block: bool, tokens_multiple: int = 1
) -> dict[str, int]:
    """Let the blocks of `model.module` compute on [batch * tokens, width], in place.

    dynamic: for any image size that the module supports, without padding; else for the model's image size.
    trim_last_block: in the last block compute queries, attention and MLP only for the tokens that the classifier reads.
    tokens_multiple: pad the number of tokens to a multiple of this, as far as the first block that has fewer tokens.
    Returns the number of changed places by rewrite.
    """
    num_tokens = -1 if dynamic else tokens_of(model)
    batch, blocks = BatchShape(), named_blocks(model.module)
    last = [*blocks.values()][-1].attn
    last.num_queries = model.parts.classifier_tokens if trim_last_block else None
    reduces = {name: block.merge is not None or block.attn.num_queries is not None for name, block in blocks.items()}
    padding = 0 if dynamic or reduces[next(iter(blocks))] else -num_tokens % tokens_multiple
    padded = padding > 0
    for index, (name, block) in enumerate(blocks.items()):
        attention = block.attn
        if reduces[name]:
            blocks_of(model.module)[index] = ReducingBlock(block, num_tokens, batch, padding)
            padding = 0
        num_queries = num_tokens if attention.num_queries is None else attention.num_queries
        flat = FlatAttention(attention, num_tokens + padding, num_queries + padding, batch, form, padding)
        model.module.set_submodule(f"{name}.attn", flat)
        num_tokens = num_queries if block.merge is None else block.merge.tokens
    blocks_of(model.module).register_forward_pre_hook(_flatten_input)
    blocks_of(model.module).register_forward_hook(partial(_unflatten_output, num_tokens, padding))
    trims = last.num_queries is not None and not model.info.trim_last_block
    changed = {CLASS_TOKEN: int(trims), PAD_TOKENS: int(padded)}
    return {name: count for name, count in changed.items() if count}


class ReducingBlock(HeadwiseBlock):
    """A block with fewer tokens after its attention than before; `padding` after its tokens is dropped."""

    def __init__(self, block: HeadwiseBlock, num_tokens: int, batch: BatchShape, padding: int = 0) -> None:
        super().__init__(
            block.attn,
            block.mlp,
            norms=(block.norm1, block.norm2),
            scales=(block.ls1, block.ls2),
            drop_paths=(block.drop_path1, block.drop_path2),
            norm_first=block.norm_first,
        )
        self.merge = block.merge
        self.num_tokens, self.num_queries = num_tokens, block.attn.num_queries
        self.batch, self.padding = batch, padding

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [batch * (tokens + padding), width], sizes [batch, tokens] -> the same of the tokens that are left"""
        if self.padding:
            x = first_tokens(x, self.num_tokens + self.padding, self.num_tokens, self.batch)
        attended = self.norm1(x) if self.norm_first else x
        mixed = self.attention_branch(attended, sizes)
        if self.num_queries is not None:
            x = first_tokens(x, self.num_tokens, self.num_queries, self.batch)
            sizes = None if sizes is None else sizes[:, : self.num_queries]
        x = x + mixed
        if self.merge is not None:
            images = self.batch.unflatten(attended, self.num_tokens)
            merging = self.merge(images, self.attn.class_attention(images), sizes)
            x, sizes = merging.apply(self.batch.unflatten(x, self.num_tokens)).flatten(0, 1), merging.sizes
        return x + self.mlp_branch(x), sizes


def _flatten_input(blocks: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    spec = _specs(blocks)[0]
    if spec.num_tokens == -1:
        spec.batch.size = inputs[0].shape[0]
    x = nn.functional.pad(inputs[0], (0, 0, 0, spec.padding)) if spec.padding else inputs[0]
    return (x.flatten(0, 1), *inputs[1:])


def _unflatten_output(
    num_tokens: int, padding: int, blocks: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    tokens = _specs(blocks)[0].batch.unflatten(output, num_tokens + padding)
    return tokens[:, :num_tokens] if padding else tokens


def _specs(blocks: nn.Module) -> list[AttentionSpec]:
    """Attention specs of these blocks; looked up at each call, because the blocks may be a deepcopy."""
    return [layer.spec for layer in blocks.modules() if isinstance(layer, FlatAttention)]
