from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import CheckFailed, DataError, UnknownName, UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune import bases
from toolkit.prune.attention_probes import keys_of, queries_of
from toolkit.prune.bases import svd
from toolkit.prune.calibration import Calibration
from toolkit.prune.covariances import collect, input_of
from toolkit.prune.spectra import qk_spectrum, v_spectrum
from toolkit.records import Cut

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")


def logits(model: Model, images: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model.module.eval()(images)
    return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("uneven_heads", [False, True])
def test_logits_are_equal_and_units_are_sorted(
    small: Callable[..., Model], uneven: Callable[..., Model], calibration: Calibration, name: str, uneven_heads: bool
) -> None:
    model = uneven(name) if uneven_heads else small(name)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    rotated = bases.rotate("svd", model, calibration)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert rotated.layouts == model.layouts
    images = calibration.load()[0].images
    expected = logits(model, images)
    torch.testing.assert_close(logits(rotated, images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    for place, attention in attentions(rotated.module).items():
        assert not torch.equal(attention.qkv.weight, attentions(model.module)[place].qkv.weight)
        moments = moments_of(rotated, place, calibration)
        start = 0
        for qk, _ in attention.layout.heads:
            run = slice(start, start + qk)
            energies = [moments[part].uncentred[run, run] for part in ("queries", "keys")]
            for energy in energies:  # both are the diagonal matrix of singular values, largest first
                largest = float(energy[0, 0])
                torch.testing.assert_close(energy, energies[0].diagonal().diag(), rtol=0.01, atol=2e-3 * largest)
            assert energies[0].diagonal().tolist() == pytest.approx(sorted(energies[0].diagonal().tolist())[::-1])
            start += qk


def moments_of(model: Model, place: str, calibration: Calibration) -> dict[str, object]:
    attention = attentions(model.module)[place]
    probes = {"queries": queries_of(place, attention), "keys": keys_of(place, attention),
              "values": input_of(f"{place}.proj", model.module)}  # fmt: skip
    return {name: found.mixed() for name, found in collect(model.module, probes, calibration)}


def outputs(model: Model, images: Tensor) -> Tensor:
    """[batch, tokens, width] of the first attention."""
    received: list[Tensor] = []
    (attention, *_) = attentions(model.module).values()
    hook = attention.register_forward_hook(lambda _, inputs, output: received.append(output))
    logits(model, images)
    hook.remove()
    return received[0].double()


def test_removing_the_last_value_units_has_the_error_of_the_spectrum(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch]
) -> None:
    """One head keeps 5 of 8 units, without any compensation: the means were moved before."""
    model = small(depth=1)
    rotated = bases.rotate("svd", model, calibration)
    slim = remove(rotated, [Cut("blocks.0.attn", "v", (13, 14, 15))]).model
    images = torch.cat([batch.images for batch in batches])
    error = float((outputs(model, images) - outputs(slim, images)).square().sum(dim=-1).mean())
    ((_, expected, _),) = v_spectrum(model, calibration).values()
    assert error == pytest.approx(float(expected[5]), rel=1e-3)
    others = [remove(rotated, [Cut("blocks.0.attn", "v", units)]).model for units in ((8, 9, 10), (9, 12, 15))]
    assert all(
        error < float((outputs(model, images) - outputs(other, images)).square().sum(-1).mean()) for other in others
    )


def test_removing_the_last_query_and_key_units_has_the_error_of_the_spectrum(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch]
) -> None:
    """The error averaged over all pairs of a query and a centred key of any images, for which it is exact."""
    model = small(depth=1)
    rotated = bases.rotate("svd", model, calibration, svd.Settings(key_mean="uniform"))
    slim = remove(rotated, [Cut("blocks.0.attn", "qk", (6, 7))]).model
    (before,), (after,) = attentions(model.module).values(), attentions(slim.module).values()
    received: list[Tensor] = []
    hook = before.register_forward_hook(lambda _, inputs, output: received.append(inputs[0]))
    logits(model, torch.cat([batch.images for batch in batches]))
    hook.remove()
    head = [qk for qk, _ in after.layout.heads].index(6)
    expected, actual = all_pairs(before, 0, received[0]), all_pairs(after, head, received[0])
    ((errors, _, _),) = qk_spectrum(model, calibration, "uniform").values()
    assert float((expected - actual).square().mean()) == pytest.approx(float(errors[6]), rel=1e-3)


def all_pairs(attention: HeadwiseAttention, head: int, x: Tensor) -> Tensor:
    """[queries, keys] logits of one head for all pairs of tokens of all images, keys centred per image."""
    widths = [qk for qk, _ in attention.layout.heads]
    run = slice(sum(widths[:head]), sum(widths[: head + 1]))
    bias = attention.packed_bias()
    assert bias is not None
    packed = x.double() @ attention.qkv.weight.detach().double().T + bias.detach().double()
    queries, keys, _ = packed.split([sum(widths), sum(widths), attention.layout.v_width], dim=-1)
    keys = keys - keys.mean(dim=1, keepdim=True)
    return attention.scale * queries[..., run].flatten(0, 1) @ keys[..., run].flatten(0, 1).T


def test_more_units_than_channels(small: Callable[..., Model], calibration: Calibration) -> None:
    """8 units of 4 channels and a bias: second moments are singular, and the rotation is exact."""
    model = remove(small(depth=1), [Cut("residual", "embed", tuple(range(20)))]).model
    rotated = bases.rotate("svd", model, calibration)
    (errors,) = qk_spectrum(model, calibration).values()
    assert all(float(own[5]) < 1e-4 * float(own[0]) for own in errors)
    slim = remove(
        rotated, [Cut("blocks.0.attn", "qk", tuple(8 * head + unit for head in range(3) for unit in (5, 6, 7)))]
    )
    images = calibration.load()[0].images
    torch.testing.assert_close(logits(slim.model, images), logits(model, images), atol=2e-2, rtol=1e-2)


def test_a_model_without_query_key_value_biases(small: Callable[..., Model], calibration: Calibration) -> None:
    model = small(qkv_bias=False)
    rotated = bases.rotate("svd", model, calibration)
    assert all(attention.q_bias is attention.v_bias is None for attention in attentions(rotated.module).values())
    names = {name for name, _ in rotated.module.named_parameters()}
    assert names == {name for name, _ in model.module.named_parameters()}


def test_hugging_face_models(calibration: Calibration, randomised: Callable[[nn.Module], nn.Module]) -> None:
    transformers = pytest.importorskip("transformers")
    import toolkit

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16, "patch_size": 8,
             "intermediate_size": 48, "num_labels": 3}  # fmt: skip
    for kind, more in (("ViT", {}), ("Beit", {"use_relative_position_bias": True})):
        config = getattr(transformers, f"{kind}Config")(**sizes, **more)
        source = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
        model = toolkit.load(source, ("cat", "dog", "emu"))
        rotated = bases.rotate("svd", model, calibration)
        images = calibration.load()[0].images
        expected = logits(model, images)
        torch.testing.assert_close(logits(rotated, images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_a_real_model(real: Model, pictures: Calibration) -> None:
    rotated = bases.rotate("svd", real, pictures)
    images = pictures.load()[0].images
    expected = logits(real, images)
    torch.testing.assert_close(logits(rotated, images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_normalised_queries_and_keys_are_refused(small: Callable[..., Model], calibration: Calibration) -> None:
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.attn, which normalises its queries and keys") as raised:
        bases.rotate("svd", small(qk_norm=True), calibration)
    assert "--basis none" in raised.value.hint


def test_no_images_are_an_error(small: Callable[..., Model]) -> None:
    with pytest.raises(DataError, match="no calibration images"):
        bases.rotate("svd", small(), Calibration(lambda _: [], (), 0))


def test_a_basis_that_changes_the_logits_is_an_error(
    small: Callable[..., Model], calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(attention: nn.Module, moments: object) -> None:
        with torch.no_grad():
            next(attention.parameters()).mul_(1.01)

    monkeypatch.setattr(svd, "_rotate", wrong)
    with pytest.raises(CheckFailed, match="basis 'svd' changes the model's logits by"):
        bases.rotate("svd", small(), calibration)


def test_none_is_the_model_itself(small: Callable[..., Model], calibration: Calibration) -> None:
    model = replace(small(), fresh=())
    assert bases.rotate("none", model, calibration) is model


def test_an_unknown_basis_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown basis 'svdd'\ndid you mean svd"):
        bases.basis("svdd")
