"""The custom node as a TensorRT plugin, as far as a machine without a GPU can test it.

TensorRT's Python bindings run with TensorRT for RTX's library in place of TensorRT's: registry and parser are real, and
the parser finds the plugin, but does not support plugins of this kind. The test therefore calls the plugin as TensorRT
would, through the template in TensorRT's bindings, with integers in place of symbolic dimensions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest

from toolkit import recipe
from toolkit.errors import BadInput, CheckFailed
from toolkit.export import quick_plugin
from toolkit.export.calibrate import Sample
from toolkit.export.capabilities import Capabilities
from toolkit.export.prepare import Prepared, prepare
from toolkit.export.settings import resolve_settings
from toolkit.models.model import Model
from toolkit.progress import silent
from toolkit.records import Artifact

Run = Callable[..., Any]
START = """
import sys, types
import tensorrt_bindings as trt, tensorrt_bindings.plugin as plugins
from toolkit.export import quick_plugin
"""
PARSE = (
    START
    + """
import json
log = trt.Logger(trt.Logger.INTERNAL_ERROR)

def errors():
    network = trt.Builder(log).create_network(0)
    parser = trt.OnnxParser(network, log)
    parser.parse(open(sys.argv[1], "rb").read())
    return " ".join(parser.get_error(index).desc() for index in range(parser.num_errors))

before = errors()
for _ in range(2):  # a process may export several models
    quick_plugin.register(trt, plugins)
print(json.dumps({"before": before, "after": errors()}))
"""
)
CALL = (
    START
    + """
import json
import numpy as np
quick_plugin.register(trt, plugins)
tensors = sys.modules["tensorrt_bindings.plugin._tensor"]

class Number(int):
    def is_constant(self): return True
    def get_constant_value(self): return int(self)

class Calculator:
    constant = Number
    def operation(self, kind, a, b):
        of = trt.DimensionOperation
        results = {of.PROD: a * b, of.SUB: a - b, of.CEIL_DIV: -(-a // b), of.MAX: max(a, b), of.MIN: min(a, b)}
        return Number(results[kind])

class Shape(list):
    def __init__(self, length): super().__init__([None] * length)

sys.modules["tensorrt"].IDimensionExpr, sys.modules["tensorrt"].DimsExprs = Number, Shape
tensors.SymExprImpl = lambda symbol: int(symbol._expr)
of, buffers = trt.PluginFieldType, []

def field(name, value, kind, dtype):  # the parser creates these from a node's attributes
    buffers.append(value if isinstance(value, bytes) else np.array(value, dtype))
    return trt.PluginField(name, buffers[-1], kind)

def description(shape, dtype):
    dynamic, plain = trt.DynamicPluginTensorDesc(), trt.PluginTensorDesc()
    plain.dims, plain.type, plain.format = shape, dtype, trt.TensorFormat.LINEAR
    dynamic.desc, dynamic.min, dynamic.opt, dynamic.max = plain, shape, shape, shape
    return dynamic

def call(node):
    fields = trt.PluginFieldCollection([
        field("qk_dims", node["qk_dims"], of.INT32, np.int32), field("v_dims", node["v_dims"], of.INT32, np.int32),
        field("scale", [node["scale"]], of.FLOAT32, np.float32),
        field("optional", node["optional"].encode() + b"\\0", of.CHAR, None),
        field("gpu", node["gpu"].encode() + b"\\0", of.CHAR, None), field("sms", [node["sms"]], of.INT32, np.int32),
    ])
    creator = trt.get_plugin_registry().get_creator(node["name"], "1", "toolkit")
    plugin = creator.create_plugin(
        node["name"], "toolkit", fields, trt.TensorRTPhase.BUILD, trt.QuickPluginCreationRequest.STRICT_AOT
    )
    dtype, shapes = getattr(trt, node["dtype"]), node["shapes"]
    [output_dtype] = plugin.get_output_data_types([dtype] * len(shapes), [3] * len(shapes))
    [output] = plugin.get_output_shapes([[Number(size) for size in shape] for shape in shapes], [], Calculator())

    dtypes = [trt.float32 if len(shape) == 2 else dtype for shape in shapes]  # key_bias
    tensors = [description(*described) for described in zip([*shapes, list(output)], [*dtypes, dtype])]
    plugin.get_supported_format_combinations(tensors, len(shapes))
    plugin.set_tactic(0)
    launch, symbols = types.SimpleNamespace(), types.SimpleNamespace()
    plugin.get_launch_params([], tensors, len(shapes), launch, symbols, Calculator())
    name, code = plugin.get_kernel([tensor.desc for tensor in tensors[:-1]], [tensors[-1].desc])
    return {
        "dtype": output_dtype == dtype, "shape": output, "launch": vars(launch), "scalars": symbols.nbSymExprs,
        "name": name, "code": code.decode(),
    }

print(json.dumps([call(node) for node in json.loads(sys.argv[1])]))
"""
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(program, ...)`: JSON output of a program with TensorRT's bindings and TensorRT for RTX's library."""
    package = importlib.util.find_spec("tensorrt_rtx_libs")
    if importlib.util.find_spec("tensorrt_bindings") is None or package is None or package.origin is None:
        pytest.skip("TensorRT's bindings and TensorRT for RTX are for Linux on x86-64")
    libraries, folder = Path(package.origin).parent, tmp_path_factory.mktemp("libraries")
    for name, rtx in (("libnvinfer", "libtensorrt_rtx"), ("libnvonnxparser", "libtensorrt_onnxparser_rtx")):
        (folder / f"{name}.so.11").symlink_to(libraries / f"{rtx}.so.1")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "plugin.c").write_text("void initLibNvInferPlugins(void) {}\n")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvinfer_plugin.so.11", folder / "plugin.c"], check=True
    )
    (folder / "tensorrt").mkdir()  # the name under which the bindings import themselves
    (folder / "tensorrt" / "__init__.py").write_text("from tensorrt_bindings import *\n")
    (folder / "tensorrt" / "plugin.py").write_text("from tensorrt_bindings.plugin import *\n")

    def program(text: str, *arguments: str) -> Any:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text, *arguments],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "TRITON_INTERPRET": "0",
                "LD_LIBRARY_PATH": f"{folder}:{libraries}",
                "PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}",
            },
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    return program


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", pytest.param("beit_base_patch16_224", marks=pytest.mark.slow)]
)
def test_the_parser_finds_the_plugin_of_an_exported_graph(
    models: Callable[..., Model], exported: Callable[..., Artifact], run: Run, tmp_path: Path, name: str
) -> None:
    artifact = exported(models(name, "uneven"), opset=20, attention="custom", precision="fp16")
    proto = onnx.load(tmp_path / "out" / artifact.file)
    assert proto.functions, "for runtimes without a plugin"
    (tmp_path / "for-tensorrt.onnx").write_bytes(quick_plugin.specialized(proto, "sm_89", 128).SerializeToString())
    errors = run(PARSE, str(tmp_path / "for-tensorrt.onnx"))
    assert "Plugin not found" in errors["before"]
    assert "IPluginCreatorV3One creator only" in errors["after"], "all that TensorRT for RTX's library supports"


def test_kernel_and_launch_parameters(run: Run) -> None:
    """Nodes with any optional inputs, in one process."""
    kinds = [*product((False, True), repeat=3)]
    nodes = []
    for has_queries, has_bias, has_key_bias in kinds:
        shapes = [[5, 197, 120 + 96 + (0 if has_queries else 120)]]
        shapes += [[5, 1, 120]] if has_queries else []
        shapes += [[3, 1 if has_queries else 197, 200]] if has_bias else []
        shapes += [[5, 197]] if has_key_bias else []
        optional = ",".join(["queries"] * has_queries + ["bias"] * has_bias + ["key_bias"] * has_key_bias)
        attributes = {"qk_dims": [64, 40, 16], "v_dims": [64, 24, 8], "scale": 0.125, "optional": optional}
        attributes |= {"gpu": "sm_87", "sms": 16}
        nodes.append(
            {
                "name": f"HeadwiseAttention{len(shapes)}",
                "shapes": shapes,
                "dtype": "bfloat16" if has_bias else "float16",
                **attributes,
            }
        )
    for (has_queries, has_bias, _), node, kernel in zip(kinds, nodes, run(CALL, json.dumps(nodes)), strict=True):
        assert kernel["dtype"]
        assert kernel["shape"] == [5, 1 if has_queries else 197, 96]
        launch = kernel["launch"]
        splits = 1 if has_queries else 2  # 32 programs on 16 SMs, 15 heads in five images
        assert (launch["grid_x"], launch["grid_y"], launch["grid_z"]) == (15, splits, 1)
        assert launch["block_x"] == (256 if has_bias else 128)
        assert launch["shared_mem"] > 48 << 10
        assert kernel["scalars"] == 0
        entry = re.search(rf"\.entry {kernel['name']}\(([^)]*)\)", kernel["code"])
        assert entry
        inputs = len(node["shapes"])  # type: ignore[arg-type]
        assert entry[1].count(".param") == inputs + 1 + 2, "inputs, output, and two of Triton's, which are null"
        assert ".target sm_87" in kernel["code"]
        assert ".version 8.0" in kernel["code"], "the PTX version of CUDA 12.0's driver"


def test_unsupported_graphs_are_refused(models: Callable[..., Model], sample_of: Callable[..., Sample]) -> None:
    model = models(heads="uneven")
    capabilities = Capabilities(("fp16",), (20, 20), 20, ("custom",), custom_heads=quick_plugin.HEADS)

    def prepared(**options: object) -> Prepared:
        export = recipe.Export.model_validate({"precision": "fp16", "attention": "custom", **options})
        return prepare(model, export, resolve_settings("tensorrt", capabilities, export), sample_of(model), silent)

    padded = prepared()
    assert padded.layouts["blocks.0.attn"].heads == ((8, 8), (8, 8), (8, 8))
    unpadded = prepared(rewrites=["norms"])
    with pytest.raises(CheckFailed, match="no kernel for block 0: not all head widths are multiples of 8"):
        quick_plugin.for_engine(unpadded, "sm_87")
    assert padded.lowered is not None
    mixed = replace(padded, lowered=replace(padded.lowered, blocks=(1,)))
    with pytest.raises(CheckFailed, match="blocks 1 stay float32"):
        quick_plugin.for_engine(mixed, "sm_87")


def test_settings_without_a_kernel_are_refused() -> None:
    with pytest.raises(BadInput, match="custom attention supports half precision, not fp32") as caught:
        quick_plugin.check("fp32", "sm_87")
    assert caught.value.exit_code == 2
    with pytest.raises(BadInput, match="no kernel for sm_75"):
        quick_plugin.check("fp16", "sm_75")
    quick_plugin.check("int8", "sm_87")
