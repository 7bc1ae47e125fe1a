"""The ONNX target on small real models: valid, whole, faithful, and the caller's module untouched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from toolkit import hashing, plugins, recipe, records
from toolkit.errors import BadInput, CheckFailed, UnknownName
from toolkit.export import target
from toolkit.export.onnx import _compared
from toolkit.models import source
from toolkit.models.adapt import attentions
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.source import LoadedModel
from toolkit.records import Artifact, HeadLayout

MODELS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
SMALL = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
CLASSES = ("cat", "dog", "élan", "fox", "gnu")


def small(name: str, folder: Path) -> LoadedModel:
    """A saved model of two blocks at 32 pixels with random weights."""
    settings = recipe.Model(name=name, weights="none", image_size=32, args=dict(SMALL))
    built = source.build(settings, CLASSES, seed=0)
    folder.mkdir()
    with torch.no_grad():
        for parameter in built.module.parameters():  # biases, tables and BEiT's classifier start at zero or near it
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return LoadedModel(built.module, source.save(built.module, built.info, folder))


def uneven(model: LoadedModel, folder: Path) -> LoadedModel:
    """The same model with three heads in two buckets, queries narrower than values."""
    layout = HeadLayout(((8, 8), (8, 8), (4, 12)))
    generator = torch.Generator().manual_seed(2)
    for name, old in attentions(model.module).items():
        new = HeadwiseAttention(layout, old.proj.out_features, old.scale, old.relative_position_index)
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        if old.k_bias is None:
            new.k_bias = None
        model.module.set_submodule(name, new)
    model.module.eval()
    folder.mkdir()
    return LoadedModel(model.module, source.save(model.module, model.info, folder))


def run(file: Path, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    return np.asarray(logits)


@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", MODELS)
def test_the_file_gives_torchs_logits_for_any_batch_size(name: str, heads: str, tmp_path: Path) -> None:
    model = small(name, tmp_path / "model")
    if heads == "uneven":
        model = uneven(model, tmp_path / "uneven")
    artifact = target("onnx").export(model, recipe.Export(), tmp_path / "out")

    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected = model.module(images).numpy()
    np.testing.assert_allclose(run(tmp_path / "out" / artifact.file, images), expected, atol=1e-4)
    assert artifact.max_abs_difference is not None
    assert artifact.max_abs_difference < 1e-4
    assert np.abs(expected).max() > 0.1  # or the comparison would say little


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Artifact, Path]:
    folder = tmp_path_factory.mktemp("export")
    model = small("vit_tiny_patch16_224", folder / "model")
    artifact = target("onnx").export(model, recipe.Export(), folder / "out")
    return model, artifact, folder / "out"


def test_the_folder_holds_one_file_and_its_record(exported: tuple[LoadedModel, Artifact, Path]) -> None:
    model, artifact, folder = exported
    assert sorted(path.name for path in folder.iterdir()) == ["artifact.json", "model.onnx"]
    assert records.load(Artifact, folder / "artifact.json") == artifact
    assert artifact.sha256 == hashing.sha256(folder / "model.onnx")
    assert artifact.model == model.info
    assert artifact.inputs[0].shape == ("batch", 3, 32, 32)
    assert artifact.outputs[0].shape == ("batch", 5)
    assert artifact.options == {"opset": 20}
    assert artifact.built_with["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_file_says_how_it_is_used_and_not_where_it_was_made(exported: tuple[LoadedModel, Artifact, Path]) -> None:
    model, artifact, folder = exported
    proto = onnx.load(folder / artifact.file)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["mean"]) == pytest.approx(model.info.mean)
    assert json.loads(facts["std"]) == pytest.approx(model.info.std)
    assert facts["image_size"] == "32"
    assert facts["model_sha256"] == model.info.weights_sha256
    assert "toolkit_version" in facts
    assert b"site-packages" not in (folder / artifact.file).read_bytes()


def test_exporting_again_writes_the_same_bytes(exported: tuple[LoadedModel, Artifact, Path], tmp_path: Path) -> None:
    model, artifact, _ = exported
    assert target("onnx").export(model, recipe.Export(), tmp_path).sha256 == artifact.sha256


@pytest.mark.parametrize("opset", [18, 23])
def test_attention_is_plain_operators_at_any_opset(opset: int, tmp_path: Path) -> None:
    model = small("beit_base_patch16_224", tmp_path / "model")
    target("onnx").export(model, recipe.Export(opset=opset), tmp_path / "out")
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    operators = {node.op_type for node in proto.graph.node}
    assert proto.opset_import[0].version == opset
    assert "Attention" not in operators
    assert {"Softmax", "Gemm"} <= operators


def test_the_callers_module_and_streams_stay_as_they_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = small("deit_tiny_distilled_patch16_224", tmp_path / "model")
    model.module.train()
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    random_state = torch.get_rng_state()
    capfd.readouterr()
    target("onnx").export(model, recipe.Export(), tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert all(module.training for module in model.module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    assert model.module.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_without_a_hash_is_refused(exported: tuple[LoadedModel, Artifact, Path], tmp_path: Path) -> None:
    model = exported[0]
    with pytest.raises(BadInput, match="no hash"):
        target("onnx").export(replace(model, info=replace(model.info, weights_sha256="")), recipe.Export(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_above_two_gigabytes_is_refused(exported: tuple[LoadedModel, Artifact, Path], tmp_path: Path) -> None:
    huge = torch.nn.Linear(1 << 15, 1 << 15, device="meta")  # 4 GiB, of which none is allocated
    with pytest.raises(BadInput, match="2 GiB"):
        target("onnx").export(LoadedModel(huge, exported[0].info), recipe.Export(), tmp_path)


def test_a_model_whose_logits_say_nothing_is_refused(tmp_path: Path) -> None:
    model = small("vit_tiny_patch16_224", tmp_path / "model")
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if name.startswith("head."):
                parameter.zero_()
    with pytest.raises(CheckFailed, match="cannot be compared"):
        target("onnx").export(model, recipe.Export(), tmp_path / "out")
    assert not (tmp_path / "out" / "artifact.json").exists()


def test_a_wrong_number_of_classes_fails_the_graph_check(tmp_path: Path) -> None:
    model = small("vit_tiny_patch16_224", tmp_path / "model")
    other = LoadedModel(model.module, replace(model.info, classes=("one", "two")))
    with pytest.raises(CheckFailed, match="expected"):
        target("onnx").export(other, recipe.Export(), tmp_path / "out")


@pytest.mark.parametrize("found", [[[10.0, 0.002]], [[float("nan"), 0.0]], [[10.0]]])
def test_logits_off_by_more_than_a_ten_thousandth_of_their_scale_fail(found: list[list[float]]) -> None:
    expected = np.array([[10.0, 0.0]])
    assert _compared(expected, np.array([[10.0, 0.0005]])) == pytest.approx(0.0005)
    with pytest.raises(CheckFailed):
        _compared(expected, np.array(found))


def test_an_unknown_target_names_the_known_ones() -> None:
    assert plugins.names("toolkit.export") == ["onnx"]
    with pytest.raises(UnknownName, match="onnx"):
        target("onxx")
