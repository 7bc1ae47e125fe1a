"""Engines: built for GPUs that are not there, by one path for every version."""

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
from toolkit.export.libraries import TABLE, Library, Features, library, features_of
from toolkit.export.tensorrt import _keep, engine_options
from toolkit.models.model import Model
from toolkit.records import Artifact

Models = Callable[..., Model]
Exported = Callable[..., Artifact]

SAID = """\
Name: __myl_FcAdd_myl0_4, LayerType: runtime_fusion, Inputs: [ { Name: x, Dimensions: [-1,5] }], Constants: [], \
Outputs: [], TacticName: , StreamId: 0, Metadata: [ONNX Layer: blocks.0.attn.qkv/Gemm]
Name: _gemm_mha_v2_myl0_5, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], \
TacticName: _gemm_mha_v2_0x48, StreamId: 0, Metadata: [ONNX Layer: blocks.0.attn/MatMul]\
[ONNX Layer: blocks.0.attn/Softmax]

"""


def test_the_builders_list_of_layers_is_read() -> None:
    assert parse_layers(SAID.splitlines()) == (
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
def test_what_a_version_can_do(package: str, version: str, row: tuple[int, int]) -> None:
    assert features_of(package, version) is TABLE[package][row]


def test_a_version_that_is_too_old() -> None:
    with pytest.raises(BadInput, match=r"tensorrt 8\.6\.1 is too old") as caught:
        features_of("tensorrt", "8.6.1")
    assert caught.value.hint == "install 10.3 or newer"


def test_without_tensorrt_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match="'tensorrt' needs tensorrt") as caught:
        library("tensorrt")
    assert caught.value.exit_code == 5
    assert "vit-toolkit[tensorrt]" in caught.value.hint
    assert "--rtx" in caught.value.hint


def test_building_needs_no_torch() -> None:
    """A device builds engines too; and processes that libraries have of their own are started quickly."""
    modules = ", ".join(
        f"toolkit.export.{name}" for name in ("tensorrt", "rtx", "openvino", "quantize", "onnx_session")
    )
    code = f"import sys; sys.modules['torch'] = None; import {modules}, toolkit.bench.runtimes.isolated"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.each_choice
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_120"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_engines_for_gpus_that_are_not_there(
    models: Models, exported: Exported, tmp_path: Path, architecture: str, precision: str
) -> None:
    artifact = exported(models(heads="uneven"), "rtx", precision=precision, gpus=architecture)
    assert artifact.device_architecture == architecture
    assert artifact.max_abs_difference is None
    assert [found.block for found in artifact.fusion] == [0, 1]
    assert artifact.options["least_batch"] == 1
    assert artifact.options["largest_batch"] == 64
    assert artifact.built_with["tensorrt_rtx"]
    found = records.load(EngineLayers, tmp_path / "out" / "layers.json")
    assert any("blocks.1.attn" in node for layer in found.layers for node in layer.nodes)
    assert artifact.also.keys() == {"layers.json"}
    assert records.load(Artifact, tmp_path / "out" / "artifact.json") == artifact


def test_heads_of_64_are_one_kernel_in_half_precision_and_not_in_fp32(models: Models, exported: Exported) -> None:
    """TensorRT's fused attention, seen in the list of layers; 64 tokens more than fit a trivial kernel."""
    model = models(embed_dim=192, mlp_ratio=1.0)
    assert {found.status for found in exported(model, "rtx", precision="fp16", gpus="sm_89").fusion} == {"fused"}
    found = exported(model, "rtx", precision="fp32", gpus="sm_89").fusion
    assert {each.status for each in found} == {"not"}
    assert {each.mend for each in found} == {"--precision fp16 or bf16"}


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.slow)])
def test_narrow_heads_are_padded_to_what_the_fused_kernel_takes(
    models: Models, exported: Exported, precision: str
) -> None:
    model = models(patch_size=2)  # heads of 8 units, 64 patches
    artifact = exported(model, "rtx", precision=precision, gpus="sm_89")
    assert artifact.rewrites["pad-heads"] == 2
    assert {found.status for found in artifact.fusion} == {"fused"}
    bare = exported(model, "rtx", precision=precision, gpus="sm_89", rewrites=("norms",))
    assert "pad-heads" not in bare.rewrites
    assert "fused" not in {found.status for found in bare.fusion}


def test_nothing_is_padded_where_nothing_can_be_fused(models: Models, exported: Exported) -> None:
    assert "pad-heads" not in exported(models(heads="uneven"), "rtx", precision="fp32").rewrites


def test_an_interrupt_ends_the_build(models: Models, exported: Exported, tmp_path: Path) -> None:
    """The library swallows what its callbacks raise."""

    def report(done: int, total: int, what: str = "") -> None:
        raise KeyboardInterrupt

    exported(models(), opset=20)
    graph = (tmp_path / "out" / "model.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build(graph, EngineOptions((1,)), library("rtx"), report=report)


def test_what_an_engine_depends_on() -> None:
    rtx = target("rtx")
    assert rtx.depends_on(recipe.Export()).keys() == {"tensorrt_rtx"}
    assert rtx.depends_on(recipe.Export(version_compatible=True)) == {}


def test_a_timing_cache_in_no_folder(tmp_path: Path) -> None:
    times = Library("tensorrt", Features(opset=23, typing_flag=False, architectures=("sm_89",)))
    options = recipe.Export(timing_cache=str(tmp_path / "none" / "cache"))
    with pytest.raises(BadInput, match="there is no folder for the timing cache"):
        engine_options(options, times)
    with pytest.raises(BadInput, match="cannot be written"):
        engine_options(recipe.Export(timing_cache=str(tmp_path)), times)


def test_a_timing_cache_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    _keep(b"old", cache)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", Mock(side_effect=OSError("no space left")))
        with pytest.raises(StorageError, match="cannot write the timing cache"):
            _keep(b"new", cache)
    assert cache.read_bytes() == b"old"
    _keep(b"new", cache)
    assert cache.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [cache]


def test_a_graph_it_cannot_read_fails_in_its_own_words() -> None:
    rtx = library("rtx")
    with pytest.raises(CheckFailed, match=r"tensorrt_rtx .* cannot read the graph"):
        build(b"no graph", EngineOptions((1,)), rtx)


def test_a_gpu_it_does_not_build_for(models: Models, exported: Exported) -> None:
    with pytest.raises(BadInput, match="does not build for sm_87") as caught:
        exported(models(), "rtx", gpus="sm_87")
    assert "sm_89" in caught.value.hint


def test_a_form_of_attention_it_cannot_build(models: Models, exported: Exported) -> None:
    with pytest.raises(RecipeError, match="rtx does not run standard attention"):
        exported(models(), "rtx", attention="standard", opset=23)


def test_a_compatibility_it_does_not_have(models: Models, exported: Exported) -> None:
    with pytest.raises(BadInput, match="knows no --hardware-compatible"):
        exported(models(), "rtx", hardware_compatible=True)


def test_a_timing_cache_where_nothing_is_timed(models: Models, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="times nothing"):
        exported(models(), "rtx", timing_cache=str(tmp_path / "timing.cache"))


def test_progress_is_shown(models: Models, exported: Exported, tmp_path: Path) -> None:
    exported(models(), "onnx", opset=20)
    told: list[tuple[int, int, str]] = []
    made = build(
        (tmp_path / "out" / "model.onnx").read_bytes(),
        EngineOptions((1, 2, 4)),
        library("rtx"),
        report=lambda done, total, message="": told.append((done, total, message)),
    )
    assert isinstance(made, Engine)
    assert told
    assert all(0 <= done <= total and message for done, total, message in told)
