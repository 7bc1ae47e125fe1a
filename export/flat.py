"""The transformer prepared for tracing: flattened tokens, attention in the graph's form, a trimmed last block.

A linear layer applied to a matrix is a single node including its bias (Gemm); applied to a batch of matrices it is two
(MatMul, Add). At small batch sizes, node overhead on a CPU is comparable to the runtime of small nodes.

Tokens may be padded to a number that suits the target's matrix products: OpenVINO takes 15 to 25 % longer for 197
tokens than for 200, as 197 is prime. Padding is masked in attention and removed after the blocks.
"""

from __future__ import annotations

from torch import Tensor, nn

from toolkit.export.attention import AttentionForm, AttentionSpec, BatchShape
from toolkit.export.flat_attention import FlatAttention, first_tokens
from toolkit.export.settings import CLASS_TOKEN, PAD_TOKENS
from toolkit.models.block import HeadwiseBlock, attentions, blocks_of
from toolkit.models.model import Model


def flatten(
    model: Model, form: AttentionForm, *, dynamic: bool = False, trim_last_block: bool, tokens_multiple: int = 1
) -> dict[str, int]:
    """Let the blocks of `model.module` compute on [batch * tokens, width], in place.

    dynamic: for any image size that the module supports, without padding; else for the model's image size.
    trim_last_block: in the last block compute queries, attention and MLP only for the tokens that the classifier reads.
    tokens_multiple: pad the number of tokens to a multiple of this.
    Returns the number of changed places by rewrite.
    """
    layers = attentions(model.module)
    num_tokens = -1 if dynamic else model.layer_calls[next(iter(layers))].positions
    batch = BatchShape()
    blocks = blocks_of(model.module)
    num_outputs = model.parts.classifier_tokens if trim_last_block else None
    single = num_outputs is not None and len(blocks) == 1  # a trimmed block drops the padding; there is no other
    padding = 0 if dynamic or single else -num_tokens % tokens_multiple
    for name, attention in layers.items():
        flat = FlatAttention(attention, num_tokens + padding, num_tokens + padding, batch, form, padding)
        if num_outputs is not None and name == list(layers)[-1]:
            flat = FlatAttention(attention, num_tokens, num_outputs, batch, form)
        model.module.set_submodule(name, flat)
    if num_outputs is not None:
        last = blocks[-1]
        assert isinstance(last, HeadwiseBlock)
        blocks[-1] = LastBlock(last, num_tokens, num_outputs, batch, padding)
    blocks.register_forward_pre_hook(_flatten_input)
    blocks.register_forward_hook(_unflatten_output)
    changed = {CLASS_TOKEN: int(num_outputs is not None), PAD_TOKENS: int(padding > 0)}
    return {name: count for name, count in changed.items() if count}


class LastBlock(HeadwiseBlock):
    """A block that computes only the first `num_outputs` tokens of an image; `padding` after its tokens is dropped."""

    def __init__(
        self, block: HeadwiseBlock, num_tokens: int, num_outputs: int, batch: BatchShape, padding: int = 0
    ) -> None:
        super().__init__(
            block.attn,
            block.mlp,
            norms=(block.norm1, block.norm2),
            scales=(block.ls1, block.ls2),
            drop_paths=(block.drop_path1, block.drop_path2),
            norm_first=block.norm_first,
        )
        self.num_tokens, self.num_outputs, self.batch, self.padding = num_tokens, num_outputs, batch, padding

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [batch * (tokens + padding), width], sizes [batch, tokens + padding] -> [batch * outputs, width] and
        [batch, outputs]"""
        if self.padding:
            x = first_tokens(x, self.num_tokens + self.padding, self.num_tokens, self.batch)
            sizes = None if sizes is None else sizes[:, : self.num_tokens]
        mixed = self.attention_branch(x, sizes)
        x = first_tokens(x, self.num_tokens, self.num_outputs, self.batch) + mixed
        return x + self.mlp_branch(x), None if sizes is None else sizes[:, : self.num_outputs]


def _flatten_input(blocks: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    spec = _specs(blocks)[0]
    if spec.num_tokens == -1:
        spec.batch.size = inputs[0].shape[0]
    x = nn.functional.pad(inputs[0], (0, 0, 0, spec.padding)) if spec.padding else inputs[0]
    return (x.flatten(0, 1), *inputs[1:])


def _unflatten_output(blocks: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    spec = _specs(blocks)[-1]
    tokens = spec.batch.unflatten(output, spec.num_queries)
    return tokens[:, : -spec.padding] if spec.padding else tokens


def _specs(blocks: nn.Module) -> list[AttentionSpec]:
    """Attention specs of these blocks; looked up at each call, because the blocks may be a deepcopy."""
    return [layer.spec for layer in blocks.modules() if isinstance(layer, FlatAttention)]
