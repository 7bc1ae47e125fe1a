"""A rewritten model gives the same numbers, and is itself again afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from toolkit.export.rewrite import flat_tokens
from toolkit.models.source import LoadedModel

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")


@pytest.mark.parametrize("name", NAMES)
def test_flat_tokens_change_nothing_but_the_graph(name: str, uneven: Callable[..., LoadedModel]) -> None:
    model = uneven(name, depth=2)
    module, size = model.module, model.info.image_size
    images = torch.randn(3, 3, size, size)
    seen: list[int] = []
    hook = module.get_submodule("blocks.1.mlp").register_forward_hook(lambda *call: seen.append(call[2].dim()))
    with torch.inference_mode():
        expected = module(images)
        with flat_tokens(module, size):
            found = module(images)
        again = module(images)
    hook.remove()
    assert seen == [3, 3, 2, 3]  # before, while the tokens are counted, flat, and again
    assert torch.equal(again, expected)
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
