"""Differences of architecture are described correctly, and the suggested settings resolve them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from toolkit import yaml_file
from toolkit.errors import WeightsError
from toolkit.models.architectures.timm_vit.weights import fill

VIT, DISTILLED, BEIT = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"
State = dict[str, Tensor]
MakeModule = Callable[..., nn.Module]
WriteWeights = Callable[[State, Path], Path]


AVERAGED = {"global_pool": "avg"}
DIFFERENCES = [
    (VIT, {}, BEIT, {}, "the file is a ViT or DeiT", "--model vit_base_patch8_224"),
    (BEIT, {}, VIT, {}, "the file is a BEiT", "--model beit_base_patch16_224"),
    (DISTILLED, {}, VIT, {}, "the file is a distilled DeiT (dist_token)", "--model deit_base_distilled_patch16_224"),
    (VIT, {}, DISTILLED, {}, "the file is not distilled", "--model deit_base_patch16_224"),
    (VIT, {"reg_tokens": 4}, VIT, {}, "its number of register tokens is 4, the model's 0", "reg_tokens=4"),
    (VIT, {}, VIT, {"class_token": False, **AVERAGED}, "has a class token, the model has none", "class_token=true"),
    (
        VIT,
        {},
        VIT,
        {"no_embed_class": True},
        "its 17 position embeddings include the class token",
        "no_embed_class=false",
    ),
    (VIT, {"no_embed_class": True}, VIT, {}, "its 16 position embeddings do not include the", "no_embed_class=true"),
    (VIT, AVERAGED, VIT, {}, "the file has a norm after average pooling", "global_pool=avg"),
    (VIT, {}, VIT, AVERAGED, "the model has a norm after average pooling", "fc_norm=false"),
    (BEIT, {}, BEIT, {"global_pool": "token"}, "the file has a norm after average pooling", "global_pool=avg"),
    (VIT, {"init_values": 1e-5}, VIT, {}, "the file has layer scale, the model has none", "init_values=1e-5"),
    (VIT, {}, VIT, {"qkv_bias": True, "qk_norm": True}, "the model has query and key norms", "qk_norm=false"),
    (VIT, {"qkv_bias": False}, VIT, {}, "has query, key and value biases, the file has none", "qkv_bias=false"),
    (VIT, {"depth": 2}, VIT, {}, "its depth is 2, the model's 1", "depth=2"),
    (VIT, {"embed_dim": 48}, VIT, {}, "its width is 48, the model's 24", "embed_dim=48"),
    (VIT, {"embed_dim": 384}, VIT, {}, "its width is 384, the model's 24", "--model vit_small_patch16_224"),
    (VIT, {"mlp_ratio": 2}, VIT, {}, "its MLP ratio is 2, the model's 4", "mlp_ratio=2"),
    (VIT, {"in_chans": 1}, VIT, {}, "its number of colour channels is 1, the model's 3", "check model.name"),
]


@pytest.mark.parametrize("case", DIFFERENCES, ids=lambda case: case[-1])
def test_a_difference_is_named_with_settings(
    model: MakeModule, written: WriteWeights, case: Any, tmp_path: Path
) -> None:
    file, theirs, name, ours, message, hint = case
    with pytest.raises(WeightsError) as caught:
        fill(model(name, **ours), written(model(file, **theirs).state_dict(), tmp_path / "weights.safetensors"))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "invalid" not in caught.value.message


def test_several_suggested_settings_together_fit_the_file(
    model: MakeModule, written: WriteWeights, tmp_path: Path
) -> None:
    state = model(depth=2, mlp_ratio=2.0, init_values=0.1, reg_tokens=4, no_embed_class=True).state_dict()
    file = written(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(), file)
    settings = re.findall(r"--set model\.args\.(\w+)=(\S+)", caught.value.hint)
    assert fill(model(seed=1, **{name: yaml_file.parse(value, name) for name, value in settings}), file) == ()


SETTINGS = re.compile(r"--set model\.args\.(\w+)=(\S+)")
PAIRS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    (VIT, {"class_token": False, "global_pool": "avg"}, {}),
    (VIT, {"class_token": False, "global_pool": "avg", "fc_norm": False}, {}),
    (VIT, {"pos_embed": "none"}, {}),
    (VIT, {"pre_norm": True}, {}),
    (VIT, AVERAGED, {}),
    (VIT, {"init_values": 1e-5}, {}),
    (VIT, {"qkv_bias": False}, {}),
    (VIT, {"qk_norm": True}, {}),
    (VIT, {"reg_tokens": 4}, {}),
    (VIT, {"no_embed_class": True}, {}),
    (VIT, {"mlp_ratio": 104.5 / 24, "depth": 3}, {}),
    ("deit3_small_patch16_224", {"init_values": 0}, {}),
    (BEIT, {"use_abs_pos_emb": True}, {"use_abs_pos_emb": False}),
    (BEIT, {"global_pool": "token"}, {}),
    (BEIT, {"init_values": 0.1}, {"init_values": 0}),
    (BEIT, {"qkv_bias": False}, {}),
    (BEIT, {"use_rel_pos_bias": False}, {}),
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_each_suggested_setting_fits_the_file(
    model: MakeModule, written: WriteWeights, pair: Any, swapped: bool, tmp_path: Path
) -> None:
    """Tests both directions: either architecture may be the file's."""
    name, *kinds = pair
    theirs, ours = reversed(kinds) if swapped else kinds
    file = written(model(name, **theirs).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(name, **ours), file)
    arguments = {key: yaml_file.parse(value, key) for key, value in SETTINGS.findall(caught.value.hint)}
    assert arguments, caught.value
    assert fill(model(name, seed=1, **{**ours, **arguments}), file) == ()


@pytest.mark.parametrize(("file", "args", "name"), [(VIT, {}, BEIT), (BEIT, {}, VIT), (DISTILLED, {}, VIT)])
def test_another_family_is_suggested_with_the_files_sizes(
    model: MakeModule,
    written: WriteWeights,
    file: str,
    args: dict[str, object],
    name: str,
    tmp_path: Path,
) -> None:
    weights = written(model(file, depth=2, mlp_ratio=2, **args).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(name), weights)
    (suggested,) = re.findall(r"--model (\S+)", caught.value.hint)
    hint = caught.value.hint.replace("num_heads=...", "num_heads=3")
    arguments = {key: yaml_file.parse(value, key) for key, value in SETTINGS.findall(hint)}
    fill(timm.create_model(suggested, img_size=32, num_classes=3, **arguments), weights)


def test_an_unsupported_architecture_is_not_suggested(model: MakeModule, written: WriteWeights, tmp_path: Path) -> None:
    file = written(model(scale_attn_norm=True).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(
        WeightsError, match="the file has a norm inside attention, the model has none, and such models cannot be pruned"
    ):
        fill(model(), file)


def in_one_projection(state: State) -> State:
    """Tensors named as in torch.nn.MultiheadAttention."""
    return {name.replace("qkv.", "in_proj_").replace("attn.proj", "attn.out_proj"): state[name] for name in state}


def transposed(state: State) -> State:
    """Tensors laid out as in Flax: linear [in, out], convolutions [height, width, in, out]."""
    order = {2: (1, 0), 4: (2, 3, 1, 0)}
    return {name: x.permute(order.get(x.dim(), tuple(range(x.dim())))).contiguous() for name, x in state.items()}


def transposed_inside(state: State) -> State:
    return {name: x.t().contiguous() if ".fc" in name and x.dim() == 2 else x for name, x in state.items()}


def with_positions_renamed(state: State) -> State:
    return {name.replace("pos_embed", "positional_embedding"): x for name, x in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_one_projection, "its attention is torch.nn.MultiheadAttention (blocks.0.attn.in_proj_weight)"),
        (transposed, "its weights are transposed, as in Flax and TensorFlow"),
        (transposed_inside, "its weights are transposed, as in Flax and TensorFlow"),
        (with_positions_renamed, "pos_embed is missing"),
    ],
)
def test_layouts_of_other_libraries_get_no_misleading_hint(
    model: MakeModule,
    written: WriteWeights,
    change: Callable[[State], State],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(WeightsError) as caught:
        fill(model(), written(change(model().state_dict()), tmp_path / "weights.safetensors"))
    assert message in caught.value.message
    assert "--set" not in caught.value.hint
    for misleading in ("ratio", "the file has none", "its width", "colour"):
        assert misleading not in caught.value.message


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", "Hugging Face transformers"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "torchvision"),
        ("backbone.layers.0.ffn.layers.0.0.weight", "OpenMMLab"),
    ],
)
def test_tensor_names_of_other_libraries_are_recognised(
    model: MakeModule, written: WriteWeights, name: str, library: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"its tensors are named as in {library}, not as in timm"):
        fill(model(), written({name: torch.zeros(2)}, tmp_path / "weights.safetensors"))
