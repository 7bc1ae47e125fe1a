"""Trajectory scores: masking units one by one equals a literal computation, estimates have the right mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from toolkit.models.block import named_blocks
from toolkit.models.groups import Groups, Key, Scores
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.models.tokens import with_tokens
from toolkit.prune import trajectory
from toolkit.prune.trajectory import Comparison, Terms, distance, exact_terms
from toolkit.prune.trajectory_gradients import Probes, estimated_terms
from toolkit.records import Cut, Merge

Array = npt.NDArray[np.float64]
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MODELS = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "vit_base_patch16_siglip_224",
    "aimv2_large_patch14_224",
]


def outputs_of(module: nn.Module) -> tuple[list[Array], Array]:
    """Tokens [images, tokens, width] after each block, and logits, of a module as it is."""
    tokens: list[Array] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: tokens.append(output[0].numpy()))
        for block in named_blocks(module).values()
    ]
    with torch.no_grad():
        logits = module(IMAGES).numpy()
    for hook in hooks:
        hook.remove()
    return tokens, logits


def gram(tokens: Array, chosen: Array) -> Array:
    rows = tokens.reshape(-1, tokens.shape[-1])[chosen.astype(int)]
    rows = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    product: Array = rows @ rows.T
    return product


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def literal(model: Model, cut: Cut, block: int, comparison: Comparison) -> tuple[float, float]:
    """Both terms for the whole model with one unit set to zero, by the formulas of the paper."""
    dense, dense_logits = outputs_of(model.module)
    changed, changed_logits = outputs_of(masked(model.module, Selection(model.groups, [cut])))
    later = range(block + 1, len(dense)) if block + 1 < len(dense) else [block]
    chosen = comparison.positions(*dense[0].shape[:2]).double().numpy()
    total = sum(((gram(dense[z], chosen) - gram(changed[z], chosen)) ** 2).sum() for z in later)
    p, q = softmax(dense_logits / comparison.temperature), softmax(changed_logits / comparison.temperature)
    return float(total), float(comparison.temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


def units(groups: Groups) -> Iterator[tuple[Key, int]]:
    for group in groups:
        for unit in range(group.units):
            yield group.key, unit


@pytest.mark.each_choice
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens", [1000, 7])
def test_exact_scores_equal_literal_masking(double: Callable[..., Model], name: str, tokens: int) -> None:
    model = double(name)
    groups, comparison = model.groups.along(("head", "mlp")), Comparison(tokens, temperature=3.0, seed=4)
    terms = exact_terms(model, groups, IMAGES, comparison)
    assert sum(map(len, terms.distances.values())) == sum(1 for _ in units(groups)) > 50
    for key, unit in units(groups):
        cut = Cut(*key, (unit,))
        expected = literal(model, cut, int(key[0].split(".")[1]), comparison)
        actual = (float(of[key][unit]) for of in (terms.distances, terms.divergences))
        assert tuple(actual) == pytest.approx(expected, rel=1e-5), cut


def test_masks_are_evaluated_together_or_one_by_one(
    uneven: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a model that merges tokens."""
    model = with_tokens(uneven(depth=3, image_size=32), (Merge(0, 12), Merge(1, 9, "grid")), trim_last_block=True)
    images, groups = torch.randn(3, 3, 32, 32), model.groups.along(("head", "mlp"))
    together = exact_terms(model, groups, images, Comparison(20))
    monkeypatch.setattr(trajectory, "STACKED_IMAGES", 1)
    alone = exact_terms(model, groups, images, Comparison(20))
    for key in together.distances:
        torch.testing.assert_close(together.distances[key], alone.distances[key], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.divergences[key], alone.divergences[key], rtol=1e-4, atol=1e-6)
        assert float(together.distances[key].min()) > 0


def test_the_model_is_not_changed_and_progress_ends(double: Callable[..., Model]) -> None:
    model, calls = double(), list[tuple[int, int]]()
    before = {name: id(part) for name, part in model.module.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}

    def progress(done: int, total: int, message: str = "") -> None:
        calls.append((done, total))

    groups = model.groups.along(("head", "mlp"))
    exact_terms(model, groups, IMAGES, Comparison(), progress)
    estimated_terms(model, groups, IMAGES, Comparison(), Probes(1, 0), progress)
    assert (calls[0], calls[-1]) == ((0, 54), (2, 2))
    assert {name: id(part) for name, part in model.module.named_modules()} == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.module.modules())


def test_small_changes_lose_no_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = nn.functional.normalize(torch.randn(50, 24, generator=generator, dtype=torch.float64), dim=1)
    changed = dense + 1e-5 * torch.randn(50, 24, generator=generator, dtype=torch.float64)
    exact = (dense @ dense.T - changed @ changed.T).square().sum()
    change = (changed - dense).float()
    (single,) = distance(dense.float(), dense.float() + change[None])
    assert float(single) == pytest.approx(float(exact), rel=0.02)


def test_the_divergences_are_scaled_once_for_all_units() -> None:
    distances: Scores = {("a", "head"): torch.tensor([6.0, 2.0]), ("b", "mlp"): torch.tensor([2.0])}
    divergences: Scores = {("a", "head"): torch.tensor([0.1, 0.1]), ("b", "mlp"): torch.tensor([0.05])}
    terms = Terms(distances, divergences)
    factor = terms.factor(10.0)
    assert factor * 0.25 == pytest.approx(1.0)
    assert terms.scores(factor)["a", "head"].tolist() == pytest.approx([6.4, 2.4])
    silent = Terms(distances, {key: 0 * value for key, value in divergences.items()})
    assert silent.factor(10.0) == 0.0


def test_compared_tokens_are_drawn_once_per_number_of_tokens() -> None:
    comparison = Comparison(tokens=6, seed=3)
    chosen = comparison.positions(4, 5)
    assert len(set(chosen.tolist())) == 6
    assert torch.equal(chosen, comparison.positions(4, 5))
    assert sorted(Comparison(tokens=768).positions(4, 5).tolist()) == list(range(20))
    assert not torch.equal(chosen, Comparison(tokens=6, seed=4).positions(4, 5))
