"""Probes: small models with blocks of given sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from toolkit.bench.probes import probe_model, with_chains
from toolkit.errors import UnsupportedModel
from toolkit.models.block import blocks_of
from toolkit.models.model import Model
from toolkit.prune.cost_table import shape_of
from toolkit.prune.grid import grid_of
from toolkit.records import BlockShape, Probe


@pytest.mark.parametrize(
    ("name", "args"),
    [("vit_tiny_patch16_224", {}), ("beit_base_patch16_224", {}), ("vit_base_patch16_224", {"qk_norm": True})],
    ids=["vit", "position biases", "normalised queries"],
)
def test_a_probe_has_blocks_of_its_sizes(small: Callable[..., Model], name: str, args: dict[str, bool]) -> None:
    source = small(name, depth=4, **args)
    qk = 8 if args else 4
    block, last = BlockShape(3, 3, 2, 2 * qk, 12, 20), BlockShape(3, 3, 1, qk, 8, 8)
    model = probe_model(source, Probe(16, 2, block, last, sized=False), None)
    assert shape_of(model).blocks == (block, block, last)
    assert model.info.weights_sha256
    with torch.no_grad():
        logits = model.module(**model.example(batch=2))
    assert logits.shape == (2, 3)
    assert bool(logits.isfinite().all())
    assert len(source.blocks) == 4, "the source is unchanged"
    assert model.info.macs == model.cost.macs


def test_weights_are_those_of_the_source_models_first_units(small: Callable[..., Model]) -> None:
    source = small(depth=3)
    model = probe_model(source, Probe(16, 0, None, BlockShape(5, 5, 2, 16, 8, 10), sized=False), None)
    (ours,), theirs = (part.module.blocks for part in (model, source))
    assert torch.equal(ours.mlp.fc1.weight, theirs[0].mlp.fc1.weight[:10])
    assert torch.equal(ours.attn.qkv.weight[:16], theirs[0].attn.qkv.weight[:16])
    values = theirs[0].attn.qkv.weight[48:]
    assert torch.equal(ours.attn.qkv.weight[32:], torch.cat([values[:4], values[8:12]]))


def test_another_image_size(small: Callable[..., Model]) -> None:
    source = small(depth=3)
    shape = shape_of(probe_model(source, Probe(24, 0, None, BlockShape(10, 10, 1, 8, 8, 8), sized=False), None))
    assert (shape.image_size, shape.blocks[0].tokens_in) == (24, 10)


def test_small_blocks_have_long_chains(small: Callable[..., Model]) -> None:
    source = small(depth=12)
    grid = grid_of(source, ("head", "mlp"), matching="bipartite")
    probes = with_chains(grid.probes(), source)
    counts = {probe.block: probe.count for probe in probes if probe.block}
    assert counts[grid.smallest] == 4
    assert counts[replace(grid.smallest, heads=3, qk=24, v=24)] == 2
    assert all(probe.count == 0 for probe in probes if probe.block is None)
    assert all(probe.count == 1 for probe in probes if probe.block and probe.block.tokens_out < probe.block.tokens_in)
    assert {probe.count for probe in with_chains(probes, small(depth=2))} == {0, 1}
    with pytest.raises(UnsupportedModel, match="one block"):
        with_chains(probes, small(depth=1))


def test_a_probe_that_merges_tokens(small: Callable[..., Model]) -> None:
    source = small(depth=3, patch_size=2)
    block, last = BlockShape(33, 24, 1, 8, 8, 8), BlockShape(24, 24, 1, 8, 8, 8)
    model = probe_model(source, Probe(16, 1, block, last, sized=True), "bipartite")
    assert shape_of(model).blocks == (block, last)
    merging = model.blocks[0][1].merge
    assert merging is not None
    assert merging.tokens == 24
    sizes = []
    blocks_of(model.module)[1].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[1]))
    with torch.no_grad():
        model.module(**model.example(batch=2))
    assert sizes[0].shape == (2, 24)
    assert float(sizes[0].sum()) > 2 * 33, "the sizes of the merged tokens depend on the image"
