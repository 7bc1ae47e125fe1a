"""Exact rewrites of a model for the time of its export: other graphs, the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from toolkit.kernels.headwise_attention import decomposed
from toolkit.models.adapt import attentions
from toolkit.models.attention import computed_by
from toolkit.models.count import trace
from toolkit.models.shapes import blocks_of


@contextmanager
def flat_tokens(model: nn.Module, image_size: int) -> Iterator[None]:
    """Within the block the transformer blocks work on [batch * tokens, channels].

    A linear layer of a matrix is one node with its bias (Gemm); of a batch of matrices it is a product and an addition
    (MatMul, Add). At small batches a processor spends as much on starting nodes as on some of them.
    """
    tokens = trace(model, image_size)[next(iter(attentions(model)))].positions

    def flatten(block: nn.Module, inputs: tuple[Tensor, ...], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (inputs[0].flatten(0, 1), *inputs[1:]), settings

    def restore(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.view(-1, tokens, output.shape[-1])

    blocks = blocks_of(model)
    first = blocks[0].register_forward_pre_hook(flatten, with_kwargs=True)
    last = blocks[-1].register_forward_hook(restore)
    try:
        with computed_by(model, partial(decomposed, tokens=tokens)):
            yield
    finally:
        first.remove()
        last.remove()
