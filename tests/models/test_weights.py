"""Weight files: read without running anything, fitted to the model, or refused with the tensors' names."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import WeightsError
from toolkit.models import source
from toolkit.models.adapt import canonicalise
from toolkit.models.weights import fill, read

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")


def model(name: str = NAMES[0], classes: int = 3, size: int = 32, seed: int = 0, width: int = 24) -> nn.Module:
    torch.manual_seed(seed)
    built: nn.Module = timm.create_model(
        name, num_classes=classes, img_size=size, patch_size=8, depth=1, embed_dim=width, num_heads=3
    )
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built.eval()


def written(module: nn.Module, file: Path) -> Path:
    save_file(module.state_dict(), file)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_safetensors(name: str, tmp_path: Path) -> None:
    trained, fresh = model(name), model(name, seed=1)
    assert fill(fresh, written(trained, tmp_path / "weights.safetensors")) == ()
    assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in trained.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_a_dense_model_of_ours(name: str, tmp_path: Path) -> None:
    trained, fresh = model(name), model(name, seed=1)
    expected = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    canonicalise(trained)
    assert fill(fresh, written(trained, tmp_path / "model.safetensors")) == ()
    assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in expected.items())


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_pth_of_plain_tensors(key: str | None, tmp_path: Path) -> None:
    state, file = model().state_dict(), tmp_path / "weights.pth"
    torch.save(state if key is None else {key: state, "epoch": 3}, file)
    fresh = model(seed=1)
    fill(fresh, file)
    assert torch.equal(fresh.get_parameter("cls_token"), state["cls_token"])


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(how: str, tmp_path: Path) -> None:
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    content = {"model": model().state_dict(), "extra": Trap(sprung)}
    if how == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"cannot be read as plain tensors(.|\n)*could run code"):
        read(file)
    assert not sprung.exists()


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_truncated_file(size: int, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(model().state_dict(), whole)
    for file, content in (
        (tmp_path / "weights.pth", whole.read_bytes()),
        (tmp_path / "weights.safetensors", written(model(), tmp_path / "whole").read_bytes()),
    ):
        file.write_bytes(content[:size])
        with pytest.raises(WeightsError, match=file.name):
            read(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not exist\n"):
        read(tmp_path / "nothing.safetensors")


def test_a_pth_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no state_dict"):
        read(tmp_path / "weights.pth")
    torch.save([1, 2], tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no state_dict"):
        read(tmp_path / "weights.pth")


def test_misfits_are_named(tmp_path: Path) -> None:
    state: dict[str, Tensor] = model().state_dict()
    state["norm.strange"] = state.pop("norm.weight")
    state["norm.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError) as caught:
        fill(model(), tmp_path / "weights.safetensors")
    for fault in ("norm.weight is missing", "norm.strange is not part", "norm.bias is [7], the model needs [24]"):
        assert fault in caught.value.message


def test_a_wholly_different_model_lists_a_few_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"; and \d+ more"):
        fill(model(), written(model(width=48), tmp_path / "weights.safetensors"))


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit"):
        fill(model(), written(model("beit_base_patch16_224"), tmp_path / "weights.safetensors"))
    with pytest.raises(WeightsError, match="does not fit"):
        fill(model("beit_base_patch16_224"), written(model(), tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_for_other_classes_starts_fresh(name: str, tmp_path: Path) -> None:
    trained, fresh = model(name, classes=1000), model(name, seed=1)
    own = fresh.get_parameter("head.weight").clone()
    started = fill(fresh, written(trained, tmp_path / "weights.safetensors"))
    heads = ("head", "head_dist") if "distilled" in name else ("head",)
    assert set(started) == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    assert torch.equal(fresh.get_parameter("head.weight"), own)
    assert torch.equal(fresh.get_parameter("cls_token"), trained.get_parameter("cls_token"))


@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")  # both in timm's interpolation
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_another_image_size_resamples_positions(name: str, tmp_path: Path) -> None:
    trained, larger = model(name), model(name, size=48, seed=1)
    fill(larger, written(trained, tmp_path / "weights.safetensors"))
    table = "blocks.0.attn.relative_position_bias_table" if name.startswith("beit") else "pos_embed"
    assert larger.get_parameter(table).shape != trained.get_parameter(table).shape
    assert 0 < larger.get_parameter(table).std() <= 1.5 * trained.get_parameter(table).std()
    assert torch.equal(larger.get_parameter("head.weight"), trained.get_parameter("head.weight"))


def test_a_backbone_without_classifier_keeps_the_fresh_one(tmp_path: Path) -> None:
    trained, fresh = model(), model(seed=1)
    backbone = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("head.")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    before = fresh.get_parameter("head.weight").clone()
    assert set(fill(fresh, tmp_path / "backbone.safetensors")) == {"head.weight", "head.bias"}
    assert torch.equal(fresh.get_parameter("head.weight"), before)
    assert torch.equal(fresh.get_parameter("norm.weight"), trained.get_parameter("norm.weight"))


def test_build_takes_a_file(tmp_path: Path) -> None:
    trained = model(classes=1000)
    file = written(trained, tmp_path / "weights.safetensors")
    args = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    settings = recipe.Model(name=NAMES[0], weights=str(file), image_size=32, args=dict(args))
    built = source.build(settings, ("cat", "dog"), seed=0)
    assert built.fresh == ("head.weight", "head.bias")
    assert torch.equal(built.module.get_parameter("cls_token"), trained.get_parameter("cls_token"))


def test_published_weights_classify(shared: Path) -> None:
    """The real DeiT-tiny file fits, and its classifier is kept for its 1000 classes."""
    file = shared / "weights" / "deit_tiny_patch16_224.safetensors"
    settings = recipe.Model(name="deit_tiny_patch16_224", weights=str(file), image_size=160)
    built = source.build(settings, tuple(f"class {number}" for number in range(1000)), seed=0)
    assert built.fresh == ()
    assert built.module(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
