"""Engines, cross-compiled for GPUs, with every version of the libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from toolkit import recipe, records
from toolkit.errors import BadInput, CheckFailed, MissingDependency, RecipeError, StorageError
from toolkit.export import target
from toolkit.export.engine import Engine, EngineLayer, EngineLayers, EngineOptions, build, parse_layers
from toolkit.export.libraries import TABLE, Features, Library, features_of, library
from toolkit.export.tensorrt import EngineSettings, _write_cache, engine_options
from toolkit.models.model import Model
from toolkit.records import Artifact, BatchRange

Models = Callable[..., Model]
Exported = Callable[..., Artifact]

LOG = """\
Name: __myl_FcAdd_myl0_4, LayerType: runtime_fusion, Inputs: [ { Name: x, Dimensions: [-1,5] }], Constants: [], \
Outputs: [], TacticName: , StreamId: 0, Metadata: [ONNX Layer: blocks.0.attn.qkv/Gemm]
Name: _gemm_mha_v2_myl0_5, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], \
TacticName: _gemm_mha_v2_0x48, StreamId: 0, Metadata: [ONNX Layer: blocks.0.attn/MatMul]\
[ONNX Layer: blocks.0.attn/Softmax]

"""


def test_layers_are_parsed_from_the_builders_log() -> None:
    assert parse_layers(LOG.splitlines()) == (
        EngineLayer("__myl_FcAdd_myl0_4", "runtime_fusion", "", ("blocks.0.attn.qkv/Gemm",)),
        EngineLayer(
            "_gemm_mha_v2_myl0_5", "kgen", "_gemm_mha_v2_0x48", ("blocks.0.attn/MatMul", "blocks.0.attn/Softmax")
        ),
    )


@pytest.mark.parametrize(
    ("package", "version", "row"),
    [
        ("tensorrt", "10.3.0", (10, 3)),
        ("tensorrt", "10.8.0.43", (10, 3)),
        ("tensorrt", "10.13.3.9", (10, 9)),
        ("tensorrt", "10.14.1.48", (10, 14)),
        ("tensorrt", "11.4.0.106", (11, 0)),
        ("tensorrt_rtx", "1.7.1.116", (1, 7)),
    ],
)
def test_features_of_a_version(package: str, version: str, row: tuple[int, int]) -> None:
    assert features_of(package, version) is TABLE[package][row]


def test_a_version_that_is_too_old_is_refused() -> None:
    with pytest.raises(BadInput, match=r"tensorrt 8\.6\.1 is too old") as caught:
        features_of("tensorrt", "8.6.1")
    assert caught.value.hint == "install 10.3 or newer"


def test_the_error_for_a_missing_tensorrt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match="'tensorrt' needs tensorrt") as caught:
        library("tensorrt")
    assert caught.value.exit_code == 5
    assert "vit-toolkit[tensorrt]" in caught.value.hint
    assert "--rtx" in caught.value.hint


def test_building_needs_no_torch() -> None:
    """Devices without torch can build engines, and subprocesses of libraries start quickly."""
    modules = ", ".join(
        f"toolkit.export.{name}" for name in ("tensorrt", "rtx", "openvino", "quantize", "onnx_session")
    )
    code = f"import sys; sys.modules['torch'] = None; import {modules}, toolkit.bench.runtimes.isolated"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.each_choice
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_engines_are_cross_compiled(
    models: Models, exported: Exported, tmp_path: Path, architecture: str, precision: str
) -> None:
    artifact = exported(models(heads="uneven"), "rtx", precision=precision, gpus=architecture)
    assert artifact.device_architecture == architecture
    assert artifact.max_abs_difference is None
    assert [fusion.block for fusion in artifact.fusion] == [0, 1]
    assert artifact.batch == BatchRange(1, 8, 64)
    assert artifact.built_with["tensorrt_rtx"]
    engine = records.load(EngineLayers, tmp_path / "out" / "layers.json")
    assert any("blocks.1.attn" in node for layer in engine.layers for node in layer.nodes)
    assert artifact.extra_files.keys() == {"layers.json"}
    assert records.load(Artifact, tmp_path / "out" / "artifact.json") == artifact


def test_heads_of_64_are_fused_in_half_precision_and_not_in_fp32(models: Models, exported: Exported) -> None:
    """Status from the list of layers; the model has more tokens than fit a trivial kernel."""
    model = models(embed_dim=192, mlp_ratio=1.0)
    assert {block.status for block in exported(model, "rtx", precision="fp16", gpus="sm_89").fusion} == {"fused"}
    blocks = exported(model, "rtx", precision="fp32", gpus="sm_89").fusion
    assert {block.status for block in blocks} == {"not"}
    assert {block.hint for block in blocks} == {"--precision fp16 or bf16"}


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.slow)])
def test_narrow_heads_are_padded_for_the_fused_kernel(models: Models, exported: Exported, precision: str) -> None:
    model = models(patch_size=2)  # heads of 8 units, 64 patches
    artifact = exported(model, "rtx", precision=precision, gpus="sm_89")
    assert artifact.rewrites["pad-heads"] == 2
    assert {block.status for block in artifact.fusion} == {"fused"}
    unpadded = exported(model, "rtx", precision=precision, gpus="sm_89", rewrites=("norms",))
    assert "pad-heads" not in unpadded.rewrites
    assert "fused" not in {block.status for block in unpadded.fusion}


def test_heads_are_not_padded_in_fp32_which_is_never_fused(models: Models, exported: Exported) -> None:
    assert "pad-heads" not in exported(models(heads="uneven"), "rtx", precision="fp32").rewrites


def test_an_interrupt_ends_the_build(models: Models, exported: Exported, tmp_path: Path) -> None:
    """TensorRT swallows exceptions of its callbacks."""

    def progress(done: int, total: int, message: str = "") -> None:
        raise KeyboardInterrupt

    exported(models(), opset=20)
    graph = (tmp_path / "out" / "model.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build(graph, EngineOptions((1,)), library("rtx"), progress=progress)


def test_cache_keys_of_an_engine() -> None:
    assert target("rtx").depends_on().keys() == {"onnx", "onnxscript", "tensorrt_rtx"}
    assert target("rtx", EngineSettings(version_compatible=True)).depends_on().keys() == {"onnx", "onnxscript"}


def test_a_timing_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tensorrt = Library("tensorrt", Features(opset=23, typing_flag=False, architectures=("sm_89",)))
    own = EngineSettings(timing_cache=str(tmp_path / "none" / "cache"))
    with pytest.raises(BadInput, match=r"the folder of the timing cache .* does not exist"):
        engine_options(recipe.Export(), own, tensorrt)
    with pytest.raises(BadInput, match="cannot be written"):
        engine_options(recipe.Export(), EngineSettings(timing_cache=str(tmp_path)), tensorrt)


def test_a_timing_cache_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    _write_cache(b"old", cache)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=OSError("no space left")))
        with pytest.raises(StorageError, match="cannot write the timing cache"):
            _write_cache(b"new", cache)
    assert cache.read_bytes() == b"old"
    _write_cache(b"new", cache)
    assert cache.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [cache]


def test_a_graph_that_cannot_be_parsed_fails_with_the_librarys_reason() -> None:
    rtx = library("rtx")
    with pytest.raises(CheckFailed, match=r"tensorrt_rtx .* cannot parse the graph"):
        build(b"no graph", EngineOptions((1,)), rtx)


def test_an_unsupported_gpu_is_refused(models: Models, exported: Exported) -> None:
    with pytest.raises(BadInput, match="cannot build for sm_87") as caught:
        exported(models(), "rtx", gpus="sm_87")
    assert "sm_89" in caught.value.hint


def test_an_unsupported_form_of_attention_is_refused(models: Models, exported: Exported) -> None:
    with pytest.raises(RecipeError, match="rtx does not support standard attention"):
        exported(models(), "rtx", attention="standard", opset=23)


def test_hardware_compatible_is_refused_for_rtx(models: Models, exported: Exported) -> None:
    with pytest.raises(BadInput, match="does not support --hardware-compatible"):
        exported(models(), "rtx", hardware_compatible=True)


def test_a_timing_cache_is_refused_for_rtx(models: Models, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tensorrt_rtx has no timing cache"):
        exported(models(), "rtx", timing_cache=str(tmp_path / "timing.cache"))


def test_the_builder_reports_progress(models: Models, exported: Exported, tmp_path: Path) -> None:
    exported(models(), "onnx", opset=20)
    calls: list[tuple[int, int, str]] = []
    engine = build(
        (tmp_path / "out" / "model.onnx").read_bytes(),
        EngineOptions((1, 2, 4)),
        library("rtx"),
        progress=lambda done, total, message="": calls.append((done, total, message)),
    )
    assert isinstance(engine, Engine)
    assert calls
    assert all(0 <= done <= total and message for done, total, message in calls)
