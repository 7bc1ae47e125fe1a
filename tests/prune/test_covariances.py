"""Second moments per domain against brute force, their mixture, and calibration that is too small or not finite."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.prune import covariances
from toolkit.prune.attention_probes import keys_of, queries_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.covariances import DomainMoments, Moments, Probe, collect, input_of

FC2, PROJ, QUERIES, KEYS = "blocks.1.mlp.fc2", "blocks.0.attn.proj", "queries", "keys"


def probes_of(model: Model) -> dict[str, Probe]:
    attention = attentions(model.module)["blocks.0.attn"]
    return {
        FC2: input_of(FC2, model.module),
        PROJ: input_of(PROJ, model.module),
        QUERIES: queries_of("blocks.0.attn", attention),
        KEYS: keys_of("blocks.0.attn", attention, "uniform"),
    }


def inputs_of(model: Model, name: str, images: Tensor) -> Tensor:
    """[batch, tokens, width] float64: what the module receives."""
    received: list[Tensor] = []
    hook = model.module.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: received.append(inputs[0])
    )
    with torch.inference_mode():
        model.module.eval()(images)
    hook.remove()
    return received[0].double()


def literal(rows: Tensor) -> np.ndarray:
    """E[[x, 1]^T [x, 1]] over tokens [batch, tokens, units], one token at a time."""
    tokens = rows.reshape(-1, rows.shape[-1]).numpy()
    total = np.zeros((tokens.shape[1] + 1, tokens.shape[1] + 1))
    for token in tokens:
        extended = np.append(token, 1.0)
        total += np.outer(extended, extended)
    return total / len(tokens)


def by_domain(batches: list[Batch]) -> Calibration:
    """Each batch as a domain: "a" has three images, "b" two, which are larger."""
    domains = {"a": [batches[0]], "b": [Batch(3 * batches[1].images, batches[1].labels)]}
    return Calibration(lambda names: [batch for name in names for batch in domains[name]], ("a", "b"), 0)


@pytest.mark.parametrize("training", [False, True])
def test_moments_by_brute_force(model: Model, batches: list[Batch], training: bool) -> None:
    calibration = by_domain(batches)
    model.module.train(training)
    found = dict(collect(model.module, probes_of(model), calibration))
    assert model.module.training is training
    assert list(found) == [FC2, PROJ, QUERIES, KEYS]
    attention = attentions(model.module)["blocks.0.attn"]
    width = attention.layout.qk_width
    bias = attention.packed_bias()
    assert bias is not None
    for domain in ("a", "b"):
        images = calibration.of(domain)[0].images
        x = inputs_of(model, "blocks.0.attn", images)
        packed = x @ attention.qkv.weight.detach().double().T + bias.detach().double()
        queries, keys = packed[..., :width], packed[..., width : 2 * width]
        expected = {
            FC2: inputs_of(model, FC2, images),
            PROJ: inputs_of(model, PROJ, images),
            QUERIES: queries,
            KEYS: torch.stack([image - image.mean(dim=0) for image in keys]),
        }
        for name, rows in expected.items():
            moments = found[name].by_domain[domain]
            assert moments.second.dtype == torch.float64
            assert moments.tokens == rows.shape[0] * rows.shape[1]
            torch.testing.assert_close(moments.second, torch.from_numpy(literal(rows)), atol=1e-5, rtol=1e-4)
            flat = rows.flatten(0, 1)
            torch.testing.assert_close(moments.mean, flat.mean(dim=0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(moments.covariance, flat.T.cov(correction=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("with_sizes", [False, True])
def test_attended_keys_by_brute_force(
    uneven: Callable[..., Model], batches: list[Batch], name: str, with_sizes: bool
) -> None:
    """Covariance of a head's keys under the attention of each query, one query at a time; also with merged tokens."""
    attention = attentions(uneven(name).module)["blocks.0.attn"]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, attention.qkv.in_features, generator=generator)
    key_bias = torch.randn(2, 5, generator=generator) if with_sizes else None
    with torch.inference_mode():
        found = keys_of("blocks.0.attn", attention).sums((x,) if key_bias is None else (x, key_bias))
        packed = torch.nn.functional.linear(x, attention.qkv.weight, attention.packed_bias()).double()
        position = attention.position_bias()
    queries, keys, _ = packed.split(
        [attention.layout.qk_width, attention.layout.qk_width, attention.layout.v_width], -1
    )
    start = 0
    for head, (width, _) in enumerate(attention.layout.heads):
        run = slice(start, start + width)
        expected = torch.zeros(width, width, dtype=torch.float64)
        for image in range(2):
            for query in range(5):
                logits = attention.scale * keys[image, :, run] @ queries[image, query, run]
                if position is not None:
                    logits = logits + position[head, query]
                if key_bias is not None:
                    logits = logits + key_bias[image]
                expected += keys[image, :, run].T.cov(aweights=logits.softmax(dim=0), correction=0)
        torch.testing.assert_close(found[run, run], expected, atol=1e-4, rtol=1e-4)
        start += width
    assert float(found[-1, -1]) == 10


def test_domains_count_the_same_whatever_their_size_and_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = {"a": torch.randn(50, 3, generator=generator, dtype=torch.float64)}
    rows["b"] = 100 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    moments = {name: Moments(torch.from_numpy(literal(x)), len(x)) for name, x in rows.items()}
    mixed = DomainMoments(moments).mixed()
    uncentred = [(x.T @ x / len(x)) for x in rows.values()]
    traces = [float(matrix.trace()) for matrix in uncentred]
    expected = sum(matrix / trace for matrix, trace in zip(uncentred, traces, strict=True)) / 2 * (sum(traces) / 2)
    torch.testing.assert_close(mixed.uncentred, expected)
    assert mixed.tokens == 57
    weighted = DomainMoments(moments).mixed({"a": 1.0, "b": 0.0})
    torch.testing.assert_close(weighted.mean, rows["a"].mean(dim=0))
    same = DomainMoments({"a": moments["a"]}).mixed()
    torch.testing.assert_close(same.second, moments["a"].second)


def test_several_passes_give_the_same_moments(
    model: Model, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = dict(collect(model.module, probes_of(model), by_domain(batches)))
    monkeypatch.setattr(covariances, "PASS_BYTES", 1)
    decoded: list[str] = []

    def read(names: tuple[str, ...]) -> list[Batch]:
        decoded.extend(names)
        return list(by_domain(batches).read(names))

    passes = dict(collect(model.module, probes_of(model), Calibration(read, ("a", "b"), 0)))
    assert decoded == ["a", "b"] * 4
    for name, moments in once.items():
        for domain, own in moments.by_domain.items():
            torch.testing.assert_close(passes[name].by_domain[domain].second, own.second)


def test_images_are_not_kept(model: Model) -> None:
    """Memory does not grow with the number of images: each batch is released before the next but one."""
    made: list[weakref.ref[Tensor]] = []

    class Stream(list[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            for seed in range(6):
                assert sum(reference() is not None for reference in made) <= 1
                images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
                made.append(weakref.ref(images))
                yield Batch(images, torch.zeros(2, dtype=torch.long))
                del images

    found = dict(collect(model.module, probes_of(model), Calibration(lambda names: Stream(), ("a",), 0)))
    assert found[FC2].by_domain["a"].tokens == 6 * 2 * 5


def test_too_few_images_are_an_error(model: Model, batches: list[Batch]) -> None:
    one = Batch(batches[0].images[:1], batches[0].labels[:1])
    with pytest.raises(DataError, match="only 1 calibration image, and covariances need at least 2") as raised:
        list(collect(model.module, probes_of(model), Calibration(lambda names: [one], ("a",), 0)))
    assert "--samples" in raised.value.hint
    with pytest.raises(DataError, match="no calibration images of 'b'"):
        list(
            collect(
                model.module, probes_of(model), Calibration(lambda names: [one] if "a" in names else [], ("a", "b"), 0)
            )
        )
    with pytest.raises(DataError, match="there are no calibration images"):
        list(collect(model.module, probes_of(model), Calibration(lambda names: [], (), 0)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer(
    small: Callable[..., Model], batches: list[Batch], value: float
) -> None:
    model = small()
    with torch.no_grad():
        model.module.get_parameter("blocks.0.mlp.fc1.bias")[3] = value
    layers = ["blocks.0.attn.proj", "blocks.0.mlp.fc2", "blocks.1.attn.proj"]
    probes = {name: input_of(name, model.module) for name in layers}
    with pytest.raises(DataError, match=r"activations at blocks\.0\.mlp\.fc2 are not finite"):
        list(collect(model.module, probes, Calibration(lambda names: batches, ("a",), 0)))


def test_many_units_are_summed_block_by_block() -> None:
    x = torch.randn(2, 3, 2 * covariances.BLOCK + 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(covariances.sums_of(x).numpy() / 6, literal(x), atol=1e-12)
