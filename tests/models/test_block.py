"""The canonical block: proportional attention, copies, gradient checkpointing."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from toolkit.models.block import block_of, blocks_of
from toolkit.models.model import Model

Build = Callable[..., Model]
NAMES = ("vit_tiny_patch16_224", "vit_base_patch16_rpn_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_merged_token_counts_as_its_source_tokens(uneven: Build, name: str) -> None:
    """Attention to a token of size n equals attention to n equal tokens."""
    block = uneven(name).blocks[1][1]
    x = torch.randn(2, 3, block.attn.proj.out_features, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0]])
    source = torch.stack(
        [tokens.repeat_interleave(count.long(), dim=0) for tokens, count in zip(x, sizes, strict=True)]
    )
    with torch.inference_mode():
        merged, same_sizes = block(x, sizes)
        whole, nothing = block(source)
    first = [[0, 1, 4], [0, 2, 4]]  # a source token of each token
    expected = torch.stack([tokens[indices] for tokens, indices in zip(whole, first, strict=True)])
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(same_sizes, sizes)
    assert nothing is None


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles_compute_the_same(small: Build, name: str) -> None:
    model = small(name)
    file = io.BytesIO()
    torch.save(model.module, file)
    file.seek(0)
    with torch.inference_mode():
        expected = model.module(IMAGES)
        for module in (copy.deepcopy(model.module), torch.load(file, weights_only=False)):
            assert torch.equal(module(IMAGES), expected)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_no_gradient(small: Build, name: str) -> None:
    model = small(name)

    def gradients() -> dict[str, Tensor]:
        model.module.train().zero_grad()
        model.module(IMAGES).sum().backward()
        return {
            name: parameter.grad for name, parameter in model.module.named_parameters() if parameter.grad is not None
        }

    stored = gradients()
    model.module.set_grad_checkpointing()  # type: ignore[operator]
    assert blocks_of(model.module).checkpointing
    recomputed = gradients()
    assert len(stored) == len(recomputed) == len([*model.module.parameters()])
    assert all(torch.equal(stored[name], recomputed[name]) for name in stored)


def test_an_exported_program_equals_the_model(small: Build) -> None:
    model = small("beit_base_patch16_224")
    program = torch.export.export(model.module, (IMAGES,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(program(IMAGES), model.module(IMAGES))


def test_the_block_of_a_name() -> None:
    names = ["blocks.1", "blocks.10"]
    assert [block_of(name, names) for name in ("blocks.10.attn", "blocks.1", "blocks.1.mlp", "norm")] == [1, 0, 0, None]
