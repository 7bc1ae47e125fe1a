"""What a file's model is, where it is another: what is said is true, and the settings that are named build it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit import yaml_file
from toolkit.errors import WeightsError
from toolkit.models.weights import fill

VIT, DISTILLED, BEIT = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"
State = dict[str, Tensor]


def built(name: str, size: int, **args: object) -> nn.Module:
    small: dict[str, object] = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3, "num_classes": 3}
    module: nn.Module = timm.create_model(name, img_size=size, **{**small, **args})
    return module.eval()


def model(name: str = VIT, size: int = 32, seed: int = 0, **args: object) -> nn.Module:
    """Every parameter is random: biases, positions and layer scales too."""
    torch.manual_seed(seed)
    module = built(name, size, **args)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def written(state: State, file: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


AVERAGED = {"global_pool": "avg"}
KINDS = [
    (VIT, {}, BEIT, {}, "the file is a ViT or DeiT", "--model vit_base_patch8_224"),
    (BEIT, {}, VIT, {}, "the file is a BEiT", "--model beit_base_patch16_224"),
    (DISTILLED, {}, VIT, {}, "the file is a distilled DeiT (dist_token)", "--model deit_base_distilled_patch16_224"),
    (VIT, {}, DISTILLED, {}, "the file is not distilled", "--model deit_base_patch16_224"),
    (VIT, {"reg_tokens": 4}, VIT, {}, "its number of register tokens is 4, the model's 0", "reg_tokens=4"),
    (VIT, {}, VIT, {"class_token": False, **AVERAGED}, "has a class token, the model has none", "class_token=true"),
    (VIT, {}, VIT, {"no_embed_class": True}, "its 17 positions include the class token's", "no_embed_class=false"),
    (VIT, {"no_embed_class": True}, VIT, {}, "its 16 positions do not include the", "no_embed_class=true"),
    (VIT, AVERAGED, VIT, {}, "the file has a norm after averaging the tokens", "global_pool=avg"),
    (VIT, {}, VIT, AVERAGED, "the model has a norm after averaging the tokens", "fc_norm=false"),
    (BEIT, {}, BEIT, {"global_pool": "token"}, "the file has a norm after averaging the tokens", "global_pool=avg"),
    (VIT, {"init_values": 1e-5}, VIT, {}, "the file has layer scale, the model has none", "init_values=1e-5"),
    (VIT, {}, VIT, {"qkv_bias": True, "qk_norm": True}, "the model has norms of queries and keys", "qk_norm=false"),
    (VIT, {"qkv_bias": False}, VIT, {}, "has biases of queries, keys and values, the file has none", "qkv_bias=false"),
    (VIT, {"depth": 2}, VIT, {}, "its depth is 2, the model's 1", "depth=2"),
    (VIT, {"embed_dim": 48}, VIT, {}, "its width is 48, the model's 24", "embed_dim=48"),
    (VIT, {"embed_dim": 384}, VIT, {}, "its width is 384, the model's 24", "--model vit_small_patch16_224"),
    (VIT, {"mlp_ratio": 2}, VIT, {}, "its MLP ratio is 2, the model's 4", "mlp_ratio=2"),
    (VIT, {"in_chans": 1}, VIT, {}, "its number of colour channels is 1, the model's 3", "check model.name"),
]


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case[-1])
def test_the_kind_of_model_that_a_file_is_for_is_said(case: Any, tmp_path: Path) -> None:
    file, theirs, name, ours, said, mend = case
    with pytest.raises(WeightsError) as caught:
        fill(model(name, **ours), written(model(file, **theirs).state_dict(), tmp_path / "weights.safetensors"))
    assert said in caught.value.message
    assert mend in caught.value.hint
    assert "invalid" not in caught.value.message


def test_the_settings_named_build_the_file_s_kind(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_setting_that_is_named_builds_the_file_s_kind(pair: Any, turned: bool, tmp_path: Path) -> None:
    """Both ways: the file is of the one kind and the model of the other."""
    name, *kinds = pair
    theirs, ours = reversed(kinds) if turned else kinds
    file = written(model(name, **theirs).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(name, **ours), file)
    named = {key: yaml_file.parse(value, key) for key, value in SETTINGS.findall(caught.value.hint)}
    assert named, caught.value
    assert fill(model(name, seed=1, **{**ours, **named}), file) == ()


@pytest.mark.parametrize(("file", "args", "name"), [(VIT, {}, BEIT), (BEIT, {}, VIT), (DISTILLED, {}, VIT)])
def test_another_family_is_named_with_the_file_s_sizes(
    file: str, args: dict[str, object], name: str, tmp_path: Path
) -> None:
    weights = written(model(file, depth=2, mlp_ratio=2, **args).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(name), weights)
    (chosen,) = re.findall(r"--model (\S+)", caught.value.hint)
    hint = caught.value.hint.replace("num_heads=...", "num_heads=3")
    named = {key: yaml_file.parse(value, key) for key, value in SETTINGS.findall(hint)}
    fill(timm.create_model(chosen, img_size=32, num_classes=3, **named), weights)


def test_a_kind_that_cannot_be_cut_is_not_recommended(tmp_path: Path) -> None:
    file = written(model(qk_norm=True).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="the file has norms of queries and keys, the model has none, and with them"):
        fill(model(), file)


def in_one_projection(state: State) -> State:
    """As torch.nn.MultiheadAttention has it."""
    return {name.replace("qkv.", "in_proj_").replace("attn.proj", "attn.out_proj"): state[name] for name in state}


def transposed(state: State) -> State:
    """As Flax has it: linear [in, out], convolutions [height, width, in, out]."""
    turned = {2: (1, 0), 4: (2, 3, 1, 0)}
    return {name: x.permute(turned.get(x.dim(), tuple(range(x.dim())))).contiguous() for name, x in state.items()}


def transposed_inside(state: State) -> State:
    return {name: x.t().contiguous() if ".fc" in name and x.dim() == 2 else x for name, x in state.items()}


def with_positions_renamed(state: State) -> State:
    return {name.replace("pos_embed", "positional_embedding"): x for name, x in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_one_projection, "its attention is torch.nn.MultiheadAttention (blocks.0.attn.in_proj_weight)"),
        (transposed, "its kernels are transposed, as Flax and TensorFlow have them"),
        (transposed_inside, "its kernels are transposed, as Flax and TensorFlow have them"),
        (with_positions_renamed, "pos_embed is missing"),
    ],
)
def test_layers_that_another_library_keeps_otherwise_get_no_untrue_hint(
    change: Callable[[State], State], said: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        fill(model(), written(change(model().state_dict()), tmp_path / "weights.safetensors"))
    assert said in caught.value.message
    assert "--set" not in caught.value.hint
    for untrue in ("ratio", "the file has none", "its width", "colour"):
        assert untrue not in caught.value.message


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", "Hugging Face transformers"),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "torchvision"),
        ("backbone.layers.0.ffn.layers.0.0.weight", "OpenMMLab"),
    ],
)
def test_names_of_other_libraries_are_known(name: str, library: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"its tensors have the names of {library}"):
        fill(model(), written({name: torch.zeros(2)}, tmp_path / "weights.safetensors"))
