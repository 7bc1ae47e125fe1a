"""Token merging: the matrix form against a literal one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit.errors import PlanError
from toolkit.models.merge import Merging, TokenMerge, merge_macs, split_of
from toolkit.records import Matching


def merge_of(width: int, tokens: int, prefix: int, matching: Matching = "bipartite") -> TokenMerge:
    return TokenMerge(nn.Linear(width, 4), tokens, prefix, matching).eval()


@torch.inference_mode()
def literally(merge: TokenMerge, x: Tensor, values: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Merged values and sizes of one image, token by token: x, values [tokens, channels], sizes [tokens]."""
    patches = len(x) - merge.prefix
    sources, destinations = split_of(merge.matching, patches, merge.tokens - merge.prefix)
    keys = nn.functional.normalize(merge.metric(x)[merge.prefix :], dim=-1)
    nearest = {s: max(destinations, key=lambda d, s=s: float(keys[s] @ keys[d])) for s in sources}
    similarity = {s: float(keys[s] @ keys[nearest[s]]) for s in sources}
    merged = sorted(sources, key=lambda s: -similarity[s])[: len(x) - merge.tokens]
    members = [[i] for i in range(merge.prefix)]
    members += [[s + merge.prefix] for s in sources if s not in merged]
    members += [[i + merge.prefix for i in (d, *(s for s in merged if nearest[s] == d))] for d in destinations]
    means = [(values[own] * sizes[own, None]).sum(dim=0) / sizes[own].sum() for own in members]
    return torch.stack(means), torch.stack([sizes[own].sum() for own in members])


@given(st.integers(0, 3), st.integers(3, 30), st.integers(0, 2**31), st.sampled_from(["bipartite", "grid"]))
@settings(max_examples=40)
def test_the_matrix_form_equals_the_literal_one(prefix: int, patches: int, seed: int, matching: Matching) -> None:
    generator = torch.Generator().manual_seed(seed)
    fewest = patches // 2 if matching == "bipartite" else 1
    remaining = int(torch.randint(fewest, patches, (1,), generator=generator))
    torch.manual_seed(seed)
    merge = merge_of(6, prefix + remaining, prefix, matching)
    x, values = (torch.randn(2, prefix + patches, 6, generator=generator) for _ in range(2))
    sizes = torch.randint(1, 5, (2, prefix + patches), generator=generator).float()
    with torch.inference_mode():
        merging = merge(x, sizes)
        after = merging.apply(values)
    for image in range(2):
        expected, expected_sizes = literally(merge, x[image], values[image], sizes[image])
        torch.testing.assert_close(after[image], expected, rtol=0, atol=2e-6)
        assert torch.equal(merging.sizes[image], expected_sizes)
    assert after.shape == (2, merge.tokens, 6)
    assert torch.equal(merging.sizes.sum(dim=1), sizes.sum(dim=1))


def test_equal_tokens_are_merged_without_loss() -> None:
    """Ties of similarity, as blank paper has them, give every source one destination."""
    merge = merge_of(6, 7, 1)
    x = torch.randn(1, 1, 6).expand(1, 13, 6)
    with torch.inference_mode():
        merging = merge(x)
    torch.testing.assert_close(merging.apply(x), x[:, :7])
    assert float(merging.sizes.sum()) == 13


def test_an_image_is_merged_alike_in_any_batch() -> None:
    merge, x = merge_of(6, 12, 1), torch.randn(5, 20, 6)
    with torch.inference_mode():
        together, alone = merge(x).apply(x), [merge(image[None]).apply(image[None]) for image in x]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradients_reach_all_tokens() -> None:
    merge, x = merge_of(6, 12, 1), torch.randn(1, 20, 6, requires_grad=True)
    merge(x).apply(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(dim=-1) > 0).all())


def test_the_class_token_is_never_merged() -> None:
    merge, x = merge_of(6, 5, 2), torch.randn(1, 8, 6)
    x[0, 3] = x[0, 0]
    merging: Merging = merge(x)
    assert torch.equal(merging.apply(x)[:, :2], x[:, :2])
    assert torch.equal(merging.sizes[:, :2], torch.ones(1, 2))


@pytest.mark.parametrize(
    ("matching", "remaining", "message"),
    [
        ("bipartite", 4, "9 patch tokens cannot be merged into 3: bipartite matching leaves 4 to 8"),
        ("bipartite", 10, "9 patch tokens cannot be merged into 9"),
        ("grid", 1, "9 patch tokens cannot be merged into 0: grid matching leaves 1 to 8"),
    ],
)
def test_more_tokens_to_merge_than_there_are(matching: Matching, remaining: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        merge_of(6, remaining, 1, matching)(torch.randn(1, 10, 6))


def test_macs_of_the_products() -> None:
    """4 metric channels; 5 sources and 4 destinations, of which 6 tokens are made."""
    assert merge_macs(10, merge_of(6, 7, 1)) == (5 * 4 * 4, 5 * 6)
