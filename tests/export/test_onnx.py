"""`model.onnx` in every opset and form of attention."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from toolkit import hashing, recipe, records
from toolkit.errors import BadInput, CheckFailed, UnknownName
from toolkit.export import target, trace
from toolkit.export.artifact import export
from toolkit.export.reference import max_difference
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.preprocessing import Preprocessing
from toolkit.records import Artifact

Models = Callable[..., Model]
Exported = Callable[..., Artifact]
NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_packed_attention_uses_a_single_transpose(
    models: Models, exported: Exported, tmp_path: Path, name: str
) -> None:
    artifact = exported(models(name, "even"), opset=20, attention="packed")
    assert artifact.max_abs_difference is not None
    nodes = onnx.load(tmp_path / "out" / artifact.file).graph.node
    transposes = [node for node in nodes if node.op_type == "Transpose" and "blocks.0.attn/" in node.name]
    assert len(transposes) == 3, "of all heads, of the keys, and of the output"


@pytest.mark.each_choice
@pytest.mark.parametrize(
    ("attention", "opset"),
    [*(("decomposed", opset) for opset in (17, 18, 20, 23)), ("custom", 17), ("custom", 23)],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_opset_and_form(
    models: Models, exported: Exported, tmp_path: Path, name: str, attention: str, opset: int
) -> None:
    artifact = exported(models(name, "uneven"), opset=opset, attention=attention)
    assert artifact.max_abs_difference is not None  # run by onnxruntime, at two batch sizes
    proto = onnx.load(tmp_path / "out" / artifact.file)
    assert {imported.domain: imported.version for imported in proto.opset_import}[""] == opset
    operators = [(node.domain, node.op_type) for node in proto.graph.node]
    assert ("", "Attention") not in operators
    custom = [operator for domain, operator in operators if domain == "toolkit"]
    # BEiT's have a bias; else, in the last block, only the class token is a query.
    nodes = ["HeadwiseAttention2"] * 2 if name.startswith("beit") else ["HeadwiseAttention1", "HeadwiseAttention2"]
    assert custom == (nodes if attention == "custom" else [])
    assert ("", "Softmax") in operators or attention == "custom"
    if attention != "custom":  # older parsers do not support newer IR versions
        assert proto.ir_version <= onnx.helper.find_min_ir_version_for([*proto.opset_import])
    assert {block.status for block in artifact.fusion} == {"not"}


def test_max_pooling_in_opset_17(models: Models, exported: Exported) -> None:
    artifact = exported(models(NAMES[0], global_pool="avgmax"), opset=17)
    assert artifact.max_abs_difference is not None


@pytest.mark.each_choice
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", NAMES)
def test_from_opset_23_on_every_bucket_of_heads_is_an_attention_node(
    models: Models, exported: Exported, tmp_path: Path, name: str, heads: str
) -> None:
    model = models(name, heads)
    artifact = exported(model)
    assert artifact.max_abs_difference is not None
    assert artifact.attention == "standard"
    operators = [node.op_type for node in onnx.load(tmp_path / "out" / artifact.file).graph.node]
    assert operators.count("Attention") == sum(len(layout.buckets) for layout in model.info.layouts)
    assert {block.status for block in artifact.fusion} == {"fused"}


def test_equal_layers_share_a_function(models: Models, exported: Exported, tmp_path: Path) -> None:
    exported(models("beit_base_patch16_224"), attention="custom")
    assert len(onnx.load(tmp_path / "out" / "model.onnx").functions) == 1


def test_the_folder_contains_a_file_and_its_record(models: Models, exported: Exported, tmp_path: Path) -> None:
    model, folder = models(), tmp_path / "out"
    artifact = exported(model)
    assert sorted(path.name for path in folder.iterdir()) == ["artifact.json", "model.onnx"]
    assert records.load(Artifact, folder / "artifact.json") == artifact
    assert artifact.sha256 == hashing.sha256(folder / "model.onnx")
    assert artifact.model == model.info
    assert artifact.inputs[0].shape == ("batch", 3, 16, 16)
    assert artifact.outputs[0].shape == ("batch", 3)
    assert (artifact.opset, artifact.attention) == (23, "standard")
    assert artifact.rewrites["norms"] == 5
    assert artifact.built_with["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_nodes_are_named_after_their_layers(models: Models, exported: Exported, tmp_path: Path) -> None:
    exported(models(heads="uneven"))
    names = [node.name for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node]
    assert len(set(names)) == len(names)
    assert {"patch_embed.proj/Conv", "blocks.0.attn.qkv/Gemm", "blocks.0.attn/Split", "head/Gemm"} <= set(names)


def test_the_file_contains_its_metadata_and_no_paths(models: Models, exported: Exported, tmp_path: Path) -> None:
    origin = "folder/of/mine/config.json"
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "lanczos", 0.875, "center", origin)
    model = models()
    model = replace(model, info=replace(model.info, preprocessing=preprocessing))
    artifact = exported(model)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / artifact.file).metadata_props}
    assert json.loads(metadata["classes"]) == list(model.info.classes)
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (metadata["interpolation"], float(metadata["crop"]), metadata["crop_mode"]) == ("lanczos", 0.875, "center")
    assert metadata["image_size"] == "16"
    assert metadata["model_sha256"] == model.info.weights_sha256
    assert "toolkit_version" in metadata
    content = (tmp_path / "out" / artifact.file).read_bytes()
    assert b"site-packages" not in content
    assert b"folder/of/mine" not in content


def test_exporting_again_writes_the_same_bytes(models: Models, exported: Exported) -> None:
    assert exported(models()).sha256 == exported(models()).sha256


def test_weights_too_large_for_one_file_are_external(
    models: Models, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_WEIGHT_BYTES", 1000)
    artifact = exported(models())
    assert artifact.extra_files == {"model.onnx.data": hashing.sha256(tmp_path / "out" / "model.onnx.data")}
    assert artifact.max_abs_difference is not None
    assert (tmp_path / "out" / "model.onnx").stat().st_size < (tmp_path / "out" / "model.onnx.data").stat().st_size


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_uint8_input(models: Models, exported: Exported, tmp_path: Path, precision: str) -> None:
    model = models("beit_base_patch16_224", "uneven")
    artifact = exported(model, input="uint8", precision=precision)
    assert artifact.inputs[0].dtype == "uint8"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    preprocessing = model.info.preprocessing
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    with torch.inference_mode():
        expected = model.module(torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std)).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": pixels})
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}[precision]
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.no_cover
def test_export_leaves_the_model_the_rng_and_the_output_streams_unchanged(
    models: Models, exported: Exported, capfd: pytest.CaptureFixture[str]
) -> None:
    model = models("deit_tiny_distilled_patch16_224")
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    requires_grad = [parameter.requires_grad for parameter in model.module.parameters()]
    random_state = torch.get_rng_state()
    capfd.readouterr()
    for precision in ("fp32", "fp16", "int8"):
        exported(model, precision=precision)
    assert capfd.readouterr() == ("", "")
    assert [parameter.requires_grad for parameter in model.module.parameters()] == requires_grad
    assert model.module.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_without_a_hash_is_refused(models: Models, exported: Exported, tmp_path: Path) -> None:
    model = models()
    with pytest.raises(BadInput, match="no hash"):
        exported(replace(model, info=replace(model.info, weights_sha256="")))
    assert not list((tmp_path / "out").iterdir())


def test_a_model_whose_logits_are_all_zero_is_refused(models: Models, tmp_path: Path) -> None:
    model = models()
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for parameter in module.get_submodule("head").parameters():
            parameter.zero_()
    with pytest.raises(CheckFailed, match="cannot be compared"):
        export("onnx", Model(module, model.info), recipe.Export(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()), "not even the graph"


def test_a_wrong_number_of_classes_fails_the_graph_check(models: Models, exported: Exported) -> None:
    model = models()
    with pytest.raises(CheckFailed, match="expected"):
        exported(Model(model.module, replace(model.info, classes=("one", "two"))))


@pytest.mark.parametrize("actual", [[[10.0, 0.002]], [[float("nan"), 0.0]], [[10.0]]])
def test_logits_off_by_more_than_1e_4_of_the_largest_fail(actual: list[list[float]]) -> None:
    expected = np.array([[10.0, 0.0]])
    assert max_difference(expected, np.array([[10.0, 0.0005]]), 1e-4) == pytest.approx(0.0005)
    with pytest.raises(CheckFailed):
        max_difference(expected, np.array(actual), 1e-4)


def test_the_error_for_an_unknown_target_suggests_the_closest() -> None:
    with pytest.raises(UnknownName, match="onnx"):
        target("onxx")


@pytest.mark.pairwise
@pytest.mark.each_choice
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batch_size", [(1, 4, 8), (2,)])
def test_dynamic_image_sizes(
    models: Models, exported: Exported, tmp_path: Path, heads: str, precision: str, batch_size: tuple[int, ...]
) -> None:
    model = models("deit_tiny_distilled_patch16_224", heads)
    artifact = exported(model, image_size=(8, 24, 32), precision=precision, batch_size=batch_size)
    assert artifact.model.image_size == 24
    batch = "batch" if len(batch_size) > 1 else 2
    assert artifact.inputs[0].shape == (batch, 3, "height", "width")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    tolerance = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}[precision]
    for size in (8, 16, 24, 32):  # 16 is the model's size
        images = np.random.default_rng(1).standard_normal((2, 3, size, size), dtype=np.float32)
        with torch.inference_mode():
            expected = resized(model, size).module(torch.from_numpy(images)).numpy()
        (logits,) = session.run(["logits"], {"images": images})
        assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()
    dynamic = copy.deepcopy(model.module)
    model.architecture.allow_dynamic_size(dynamic)
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 24), dtype=np.float32)
    with torch.inference_mode():
        expected = dynamic(torch.from_numpy(images)).numpy()
    (logits,) = session.run(["logits"], {"images": images})
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_another_image_size(models: Models, exported: Exported, tmp_path: Path, name: str) -> None:
    model = models(name, "uneven")
    artifact = exported(model, image_size=(24,))
    assert artifact.inputs[0].shape == ("batch", 3, 24, 24)
    assert artifact.model.image_size == 24
    assert artifact.max_abs_difference is not None


def test_three_equal_image_sizes_are_a_fixed_size(models: Models, exported: Exported) -> None:
    assert exported(models(), image_size=(24, 24, 24)).inputs[0].shape == ("batch", 3, 24, 24)
