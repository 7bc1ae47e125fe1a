"""Weights are loaded as in timm, or refused with the differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import WeightsError
from toolkit.models.architectures.timm_vit.canonical import canonicalise
from toolkit.models.architectures.timm_vit.weights import fill
from toolkit.models.build import build

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
VIT, DISTILLED, BEIT = NAMES
State = dict[str, Tensor]
MakeModule = Callable[..., nn.Module]
WriteWeights = Callable[[State, Path], Path]


@pytest.mark.parametrize("name", NAMES)
def test_a_safetensors_file(model: MakeModule, written: WriteWeights, name: str, tmp_path: Path) -> None:
    trained, fresh = model(name), model(name, seed=1)
    assert fill(fresh, written(trained.state_dict(), tmp_path / "weights.safetensors")) == ()
    assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in trained.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_file_of_a_dense_model(model: MakeModule, written: WriteWeights, name: str, tmp_path: Path) -> None:
    trained, fresh = model(name), model(name, seed=1)
    expected = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    canonicalise(trained)
    assert fill(fresh, written(trained.state_dict(), tmp_path / "model.safetensors")) == ()
    assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in expected.items())


def with_facebooks_names(state: State) -> State:
    """DINOv2 with registers, with its authors' names and a position embedding of the class token."""
    renamed = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    renamed["register_tokens"] = renamed.pop("reg_token")
    renamed["pos_embed"] = torch.cat([torch.randn(1, 1, 24), renamed["pos_embed"]], dim=1)
    return {**renamed, "mask_token": torch.randn(1, 24)}


def with_deit3s_names(state: State) -> State:
    return {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): state[name] for name in state}


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")  # both in timm's interpolation
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize(
    ("name", "change", "sizes", "args"),
    [
        (VIT, dict, (32, 48), {}),
        (DISTILLED, dict, (32, 24), {}),
        (BEIT, dict, (32, 48), {}),
        (VIT, dict, (70, 42), {"patch_size": 14, "reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}),
        ("vit_small_patch14_reg4_dinov2", with_facebooks_names, (70, 42), {"patch_size": 14}),
        ("deit3_small_patch16_224", with_deit3s_names, (32, 48), {}),
        ("flexivit_small", dict, (32, 48), {}),
    ],
)
def test_resampled_weights_equal_timms(  # noqa: PLR0913
    built: MakeModule,
    model: MakeModule,
    written: WriteWeights,
    name: str,
    change: Callable[[State], State],
    sizes: tuple[int, int],
    args: dict[str, object],
    tmp_path: Path,
) -> None:
    state = change(model(name, sizes[0], **args).state_dict())
    ours = model(name, sizes[1], seed=1, **args)
    fresh = fill(ours, written(state, tmp_path / "weights.safetensors"))
    config = {"state_dict": state, "num_classes": 0 if fresh else 3}
    theirs = built(name, sizes[1], pretrained=True, pretrained_cfg_overlay=config, **args)
    assert set(fresh) <= {"head.weight", "head.bias"}
    for key, tensor in theirs.state_dict().items():
        assert key in fresh or torch.equal(ours.state_dict()[key], tensor), key


def test_a_classifier_for_other_classes_is_not_loaded(model: MakeModule, written: WriteWeights, tmp_path: Path) -> None:
    trained, fresh = model(DISTILLED, num_classes=1000), model(DISTILLED, seed=1)
    own = fresh.get_parameter("head.weight").clone()
    kept = fill(fresh, written(trained.state_dict(), tmp_path / "weights.safetensors"))
    assert set(kept) == {f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}
    assert torch.equal(fresh.get_parameter("head.weight"), own)
    assert torch.equal(fresh.get_parameter("cls_token"), trained.get_parameter("cls_token"))


def test_a_backbone_keeps_the_initial_classifier(model: MakeModule, written: WriteWeights, tmp_path: Path) -> None:
    trained, fresh = model().state_dict(), model(seed=1)
    before = fresh.get_parameter("head.weight").clone()
    backbone = {name: tensor for name, tensor in trained.items() if not name.startswith("head.")}
    assert set(fill(fresh, written(backbone, tmp_path / "backbone.safetensors"))) == {"head.weight", "head.bias"}
    assert torch.equal(fresh.get_parameter("head.weight"), before)
    assert torch.equal(fresh.get_parameter("norm.weight"), trained["norm.weight"])


def test_mismatched_tensors_are_named(model: MakeModule, written: WriteWeights, tmp_path: Path) -> None:
    state = model().state_dict()
    state["norm.unexpected"] = state.pop("norm.weight")
    state["norm.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        fill(model(), written(state, tmp_path / "weights.safetensors"))
    for problem in ("norm.weight is missing", "norm.unexpected is not part", "norm.bias is [7], the model needs [24]"):
        assert problem in caught.value.message


@pytest.mark.parametrize("name", [VIT, BEIT])
def test_a_tensor_of_any_wrong_shape_is_named(
    model: MakeModule, written: WriteWeights, name: str, tmp_path: Path
) -> None:
    ours = model(name)
    state = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    for key in state:
        for shape in ((), (0,), (1, 0, 24), (2, 3, 1, 1, 1)):
            file = written({**state, key: torch.zeros(shape)}, tmp_path / "weights.safetensors")
            message = key
            try:
                fresh = fill(ours, file)
            except WeightsError as error:
                message = error.message
            else:
                assert fresh == (key,)
            assert key in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_converted_to_float32(
    model: MakeModule, written: WriteWeights, dtype: torch.dtype, tmp_path: Path
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in model().state_dict().items()}
    fresh = model(seed=1)
    fill(fresh, written(state, tmp_path / "weights.safetensors"))
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in fresh.state_dict().items())
    assert {tensor.dtype for tensor in fresh.state_dict().values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to(torch.int8), "int8"),
        (lambda tensor: tensor.to(torch.complex64), "complex64"),
        (lambda tensor: tensor.to("meta"), "on the meta device"),
        (lambda tensor: tensor.to_sparse(), "sparse"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "quantised"),
    ],
)
def test_tensors_that_are_not_plain_floats(
    model: MakeModule, change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    state = model().state_dict()
    torch.save({**state, "norm.weight": change(state["norm.weight"])}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"not plain floating-point numbers: norm\.weight \(.*{message}\)"):
        fill(model(), tmp_path / "weights.pth")


def test_nan_and_infinity_are_refused(model: MakeModule, written: WriteWeights, tmp_path: Path) -> None:
    state = {name: tensor.double() for name, tensor in model().state_dict().items()}
    state["norm.weight"][3] = float("nan")
    state["cls_token"] = state["cls_token"] + 1e300  # overflows in float32
    with pytest.raises(WeightsError, match=r"NaN or infinity, in cls_token, norm\.weight\n"):
        fill(model(), written(state, tmp_path / "weights.safetensors"))
    state = model(num_classes=5).state_dict()
    state["head.weight"][0] = float("nan")
    kept = fill(model(), written(state, tmp_path / "weights.safetensors"))
    assert kept == ("head.weight", "head.bias"), "an unused classifier does not matter"


def test_tensors_that_share_memory(model: MakeModule, tmp_path: Path) -> None:
    shared, fresh = torch.randn(24), model(seed=1)
    torch.save({**model().state_dict(), "norm.weight": shared, "norm.bias": shared}, tmp_path / "weights.pth")
    fill(fresh, tmp_path / "weights.pth")
    assert torch.equal(fresh.get_parameter("norm.weight"), shared)
    assert fresh.get_parameter("norm.weight").data_ptr() != fresh.get_parameter("norm.bias").data_ptr()


def test_resampled_patches_are_reported(
    model: MakeModule,
    written: WriteWeights,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(model(), written(model(patch_size=16, size=64).state_dict(), tmp_path / "weights.safetensors"))
    assert "the patch embedding is resampled from 16 to 8 pixels" in caplog.text


def small(file: Path | str, **more: object) -> recipe.Model:
    args = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    return recipe.Model.model_validate({"name": VIT, "weights": str(file), "image_size": 32, "args": args, **more})


def test_build_from_a_file(
    built: MakeModule,
    model: MakeModule,
    written: WriteWeights,
    tmp_path: Path,
) -> None:
    trained = model(num_classes=1000)
    file = written(trained.state_dict(), tmp_path / "weights.safetensors")
    built = build(small(file), ("cat", "dog"), seed=0)
    assert built.fresh == ("head.weight", "head.bias")
    assert torch.equal(built.module.get_parameter("cls_token"), trained.get_parameter("cls_token"))


def test_the_number_of_heads_is_read_from_model_json(built: MakeModule, model: MakeModule, tmp_path: Path) -> None:
    """Tensors do not show it."""
    built = build(small("none"), ("cat", "dog", "emu"), seed=0)
    built.save(tmp_path)
    with pytest.raises(WeightsError, match=r"has 3 heads, the model has 4\n--set model\.args\.num_heads=3"):
        fill(model(num_heads=4), tmp_path / "model.safetensors")
    assert fill(model(), tmp_path / "model.safetensors") == ()


def test_published_weights_load(built: MakeModule, shared: Path) -> None:
    """The published DeiT-Tiny file loads completely, including the classifier for its 1000 classes."""
    file = shared / "weights" / "deit_tiny_patch16_224.safetensors"
    settings = recipe.Model(name="deit_tiny_patch16_224", weights=str(file), image_size=160)
    built = build(settings, tuple(f"class {number}" for number in range(1000)), seed=0)
    assert built.fresh == ()
    assert built.module(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
