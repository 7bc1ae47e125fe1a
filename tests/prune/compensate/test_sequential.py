"""The compensation `sequential`: the slim model's stream comes closer to the dense model's, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit import recipe
from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.models.model import Model
from toolkit.models.recording import recording
from toolkit.models.surgery import nothing_removed, remove
from toolkit.models.tokens import with_tokens
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.prune.compensate.sequential import Settings
from toolkit.prune.error_moments import ErrorMoments, mixed
from toolkit.prune.methods import Job
from toolkit.prune.pruning import prune
from toolkit.records import Cut, Merge

IMAGES = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(3))
MLP = tuple(range(0, 48, 3))


@pytest.fixture
def images() -> Calibration:
    """Two domains, the second in two batches."""
    labels = torch.zeros(64, dtype=torch.long)
    parts = {"a": [IMAGES[:20]], "b": [IMAGES[20:40], IMAGES[40:]]}
    return Calibration(
        lambda names: [Batch(part, labels[: len(part)]) for name in names for part in parts[name]], ("a", "b"), seed=0
    )


def stream_errors(dense: Model, slim: Model, channels: Sequence[int]) -> dict[int, float]:
    """For each block of the slim model: mean squared difference of its tokens to the dense model's, merged alike."""
    depth = len(dense.blocks)
    with torch.inference_mode(), recording(dense, range(depth)) as large, recording(slim, range(depth)) as small:
        dense.module.eval()(IMAGES)
        slim.module.eval()(IMAGES)
    result = {}
    for block, tokens in small.tokens.items():
        wanted = small.merge(large.tokens[block], block)[:, : tokens.shape[1], list(channels)]
        result[block] = float((tokens - wanted).square().mean())
    return result


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_correction_is_weighted_least_squares(has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 10, 6, generator=generator) + 0.5
    errors = torch.randn(4, 10, 3, generator=generator) + x[..., :3]
    weights = torch.rand(4, 10, generator=generator)
    total = ErrorMoments.of(x[:2], errors[:2], weights[:2]) + ErrorMoments.of(x[2:], errors[2:], weights[2:])
    change, shift = total.correction(0.1, has_bias)

    def rows(values: Tensor) -> Tensor:
        return values.flatten(0, 1).double()

    w = rows(weights[..., None])
    mean = (w * rows(x)).sum(dim=0) / w.sum() if has_bias else torch.zeros(6)
    lam = 0.1 * float((w * (rows(x) - mean).square()).sum()) / 6
    left = torch.cat([rows(x), torch.full((40, 1), float(has_bias))], dim=1) * w.sqrt()
    damping = lam**0.5 * torch.eye(6, 7, dtype=torch.float64)
    right = torch.cat([rows(errors) * w.sqrt(), torch.zeros(6, 3)])
    solution, *_ = np.linalg.lstsq(torch.cat([left, damping]).numpy(), right.numpy(), rcond=None)
    torch.testing.assert_close(change, torch.from_numpy(solution[:-1].T))
    torch.testing.assert_close(shift, torch.from_numpy(solution[-1]))


def test_domains_count_the_same() -> None:
    """However many tokens a domain has, and however large they are."""
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(2, 5)
    one, other = ErrorMoments.of(x, x, weights), ErrorMoments.of(x.flip(0), -x, weights)
    larger = ErrorMoments.of(3 * x.repeat(7, 1, 1), 3 * x.repeat(7, 1, 1), weights.repeat(7, 1))
    for part, again in zip(
        mixed([one, other]).correction(1, False), mixed([larger, other]).correction(1, False), strict=True
    ):
        torch.testing.assert_close(part, again)


@pytest.mark.parametrize(
    ("name", "more", "merges", "extra"),
    [
        ("vit_tiny_patch16_224", {}, (Merge(0, 12), Merge(1, 8)), ()),
        ("deit_tiny_distilled_patch16_224", {}, (Merge(1, 11),), ()),
        ("vit_tiny_patch16_224", {"init_values": 0.2}, (Merge(0, 10, "grid"),), ()),
        ("vit_tiny_patch16_224", {"proj_bias": False}, (), (Cut("residual", "embed", (3, 9)),)),
        ("vit_tiny_patch16_224", {}, (), (Cut("blocks", "block", (1,)),)),
        ("beit_base_patch16_224", {"swiglu_mlp": True}, (), ()),
    ],
    ids=["merges", "distilled", "layer scale, grid", "no bias, channels", "block removed", "beit, gated"],
)
def test_every_block_comes_closer_to_the_dense_model(
    small: Callable[..., Model],
    images: Calibration,
    name: str,
    more: dict[str, object],
    merges: tuple[Merge, ...],
    extra: tuple[Cut, ...],
) -> None:
    dense = small(name, 4, 32, **more)
    before = with_tokens(dense, merges, trim_last_block=dense.parts.classifier_tokens is not None)
    cuts = (Cut("blocks.0.mlp", "mlp", MLP), Cut("blocks.2.attn", "v", (2, 3, 17)), *extra)
    weights = {key: tensor.clone() for key, tensor in before.module.state_dict().items()}
    slim = {each: compensation(each).repair(before, remove(before, cuts), images) for each in ("obs", "sequential")}
    channels = [index for index in range(24) if not extra or extra[0].axis != "embed" or index not in extra[0].units]
    errors = {each: stream_errors(dense, model, channels) for each, model in slim.items()}
    assert errors["sequential"][0] < 1.01 * errors["obs"][0]  # tokens do not count the same as in the fit
    assert all(errors["sequential"][block] < errors["obs"][block] for block in errors["obs"] if block)
    assert errors["sequential"][3] < 0.9 * errors["obs"][3]
    assert all(torch.equal(weights[key], tensor) for key, tensor in before.module.state_dict().items())


def test_blocks_with_norms_after_their_layers_keep_the_weights_of_obs(
    small: Callable[..., Model], images: Calibration
) -> None:
    dense = small("vit_base_patch16_rpn_224", 3, 32)
    cuts = [Cut("blocks.0.mlp", "mlp", MLP)]
    obs, sequential = (
        compensation(each).repair(dense, remove(dense, cuts), images).module.state_dict()
        for each in ("obs", "sequential")
    )
    assert all(torch.equal(tensor, sequential[key]) for key, tensor in obs.items())


def test_a_channel_of_scale_zero_corrects_nothing(small: Callable[..., Model], images: Calibration) -> None:
    dense = small("vit_tiny_patch16_224", 2, 32, init_values=0.2)
    with torch.no_grad():
        dense.module.get_parameter("blocks.0.ls1.gamma")[5] = 0
    cuts = [Cut("blocks.0.attn", "qk", (1, 9, 17))]  # of every head, so that their order stays
    slim = compensation("sequential").repair(dense, remove(dense, cuts), images).module
    changed = slim.get_parameter("blocks.0.attn.proj.weight") != dense.module.get_parameter("blocks.0.attn.proj.weight")
    assert changed.any(dim=1).tolist() == [channel != 5 for channel in range(24)]


def test_merged_tokens_alone_are_repaired(small: Callable[..., Model], images: Calibration) -> None:
    dense = small(depth=4, image_size=32)
    merged = with_tokens(dense, (Merge(1, 10),))
    repaired = compensation("sequential").repair(merged, nothing_removed(merged), images)
    errors = [stream_errors(dense, model, range(24))[3] for model in (merged, repaired)]
    assert errors[1] < errors[0]


def test_less_damping_changes_more(small: Callable[..., Model], images: Calibration) -> None:
    dense = small("vit_tiny_patch16_224", 2, 32)
    cuts = [Cut("blocks.0.mlp", "mlp", MLP)]

    def error(damping: float) -> float:
        settings = Settings(damping=damping)
        slim = compensation("sequential", settings).repair(dense, remove(dense, cuts), images)
        return stream_errors(dense, slim, range(24))[1]

    assert error(0.01) < error(1) < error(1e6)


def test_merges_of_optin_are_repaired(small: Callable[..., Model], images: Calibration) -> None:
    dense = small(depth=4, image_size=32).identified()
    own = {
        "method": "optin",
        "optin": {"tau": True, "images": 8, "tokens": 32, "merge_step": 2},
        "axes": ("head", "mlp"),
    }

    def pruned(name: str) -> Model:
        settings = recipe.Prune.model_validate({**own, "budget": "macs=0.9", "compensation": name})
        return prune(dense, Job(settings, images, seed=0)).slim

    assert pruned("none").info.merges
    slim = [pruned(name) for name in ("none", "sequential")]
    with torch.inference_mode():
        wanted, *actual = (model.module.eval()(IMAGES) for model in (dense, *slim))
    errors = [float((logits - wanted).square().mean()) for logits in actual]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_an_error(small: Callable[..., Model], count: int) -> None:
    dense = small(depth=2, image_size=32)
    few = Calibration(lambda _: [Batch(IMAGES[:count], torch.zeros(count, dtype=torch.long))], ("a",), 0)
    with pytest.raises(DataError, match="calibration image"):
        compensation("sequential").repair(dense, remove(dense, [Cut("blocks.0.attn", "qk", (1,))]), few)


def test_activations_that_are_not_finite(small: Callable[..., Model], images: Calibration) -> None:
    dense = small(depth=2, image_size=32)
    removal = remove(dense, [Cut("blocks.0.attn", "qk", (1,))])
    with torch.no_grad():
        removal.model.module.get_parameter("blocks.1.mlp.fc1.bias").fill_(float("nan"))
    with pytest.raises(DataError, match=r"block 1 of the pruned model are not finite"):
        compensation("sequential").repair(dense, removal, images)
