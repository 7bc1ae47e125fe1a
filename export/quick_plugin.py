"""`toolkit::HeadwiseAttention` as a plugin of TensorRT 10.9 and later, "quickly deployable" and compiled ahead of time.

The engine holds the kernel's PTX and launches it by itself: nothing has to be loaded where it runs. See
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/extending-custom-layers.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from toolkit import gpu
from toolkit.errors import BadInput, CheckFailed
from toolkit.export import HeadWidths
from toolkit.export.attention import DOMAIN, node_name
from toolkit.kernels.heads import ALIGNMENT, unsupported

if TYPE_CHECKING:
    from toolkit.export.prepare import Prepared

HEADS = HeadWidths(ALIGNMENT, ALIGNMENT, equal=False)
"""What the kernel takes; none may be too wide."""
ATTRIBUTES = {
    "qk_dims": npt.NDArray[np.int32],
    "v_dims": npt.NDArray[np.int32],
    "scale": float,
    "target": str,
    "processors": int,
}
"""Of the node, and what `addressed` adds."""


def check(precision: str, target: str) -> None:
    """BadInput for what there is no kernel for."""
    from toolkit.kernels.machine_code import SHARED_BYTES

    if precision == "fp32":
        raise BadInput("custom attention computes in half precision, not in fp32", "--precision fp16, or bf16, or int8")
    if target not in SHARED_BYTES:
        raise BadInput(f"custom attention has no kernel for {target}", f"it has kernels for {', '.join(SHARED_BYTES)}")


def for_engine(prepared: Prepared, target: str) -> ModelProto:
    """The graph for TensorRT's parser, once it knows the nodes (`register`).

    Raises CheckFailed where a layer is in float32, or has heads that there is no kernel for.
    """
    if prepared.lowered is not None and prepared.lowered.blocks:
        blocks = ", ".join(map(str, prepared.lowered.blocks))
        raise CheckFailed(
            f"custom attention computes in half precision, and blocks {blocks} stay float32 to keep the accuracy",
            "--attention decomposed, or --precision bf16",
        )
    for block, layout in enumerate(prepared.layouts):
        if why := unsupported(layout.heads):
            raise CheckFailed(
                f"custom attention has no kernel for block {block}: {why}",
                "leave the rewrite pad-heads in, or --attention decomposed",
            )
    return addressed(prepared.proto, target, gpu.sm_count())


def addressed(proto: ModelProto, target: str, processors: int) -> ModelProto:
    """A copy whose custom nodes say for which GPU they are (sm_89, and how many multiprocessors it has), and have no
    function bodies, which a parser would read instead of asking for the plugin."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.functions[:]
    for node in copy.graph.node:
        if node.domain == DOMAIN:
            node.overload = ""
            more = {"plugin_namespace": DOMAIN, "target": target, "processors": processors}
            node.attribute.extend(helper.make_attribute(name, value) for name, value in more.items())
    return copy


def register(trt: Any, plugins: Any) -> None:
    """Make the nodes known to TensorRT's parser, once in a process; `plugins` is the module tensorrt.plugin."""
    known = vars(getattr(plugins.op, DOMAIN, ModuleType(DOMAIN)))
    for has_queries, has_bias in product((False, True), repeat=2):
        name = node_name(has_queries=has_queries, has_bias=has_bias)
        if name in known:
            continue
        tensors = dict.fromkeys(("packed", *["queries"] * has_queries, *["bias"] * has_bias), plugins.TensorDesc)
        described = partial(_described, plugins, has_queries)
        plugins.register(f"{DOMAIN}::{name}")(_signed(described, {**tensors, **ATTRIBUTES}, plugins.TensorDesc))
        asked = {**tensors, **ATTRIBUTES, "outputs": tuple[plugins.TensorDesc], "tactic": int}
        answer = tuple[str, bytes, plugins.KernelLaunchParams, plugins.SymIntExprs]
        implemented = partial(_implemented, trt, plugins, has_queries, has_bias)
        plugins.aot_impl(f"{DOMAIN}::{name}")(_signed(implemented, asked, answer))


def _signed(function: Callable[..., Any], arguments: dict[str, Any], returned: Any) -> Callable[..., Any]:
    """The function with the signature that TensorRT reads tensors and attributes from."""

    def called(*given: Any, **attributes: Any) -> Any:
        return function(*given, **attributes)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=type_) for name, type_ in arguments.items()]
    called.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return called


def _described(plugins: Any, has_queries: bool, packed: Any, *others: Any, v_dims: Any, **unused: Any) -> Any:
    """The output: [batch, rows, V] of the input's type."""
    rows = others[0].shape_expr[1] if has_queries else packed.shape_expr[1]
    return plugins.from_shape_expr((packed.shape_expr[0], rows, int(sum(v_dims))), packed.dtype)


def _implemented(
    trt: Any, plugins: Any, has_queries: bool, has_bias: bool, packed: Any, *given: Any
) -> tuple[str, bytes, Any, Any]:
    """The kernel of one layer, and how it is launched for any batch."""
    from toolkit.kernels.headwise_settings import PROGRAMS_PER_SM
    from toolkit.kernels.layer_spec import LayerSpec
    from toolkit.kernels.machine_code import compile_layer

    *tensors, qk_dims, v_dims, scale, target, processors, _, _ = given
    dtypes = {trt.float16: "float16", trt.bfloat16: "bfloat16"}
    if packed.dtype not in dtypes:
        raise BadInput(f"the kernel computes in fp16 and bf16, not in {packed.dtype}", "--precision fp16")
    layer = LayerSpec(
        tuple((int(qk), int(v)) for qk, v in zip(qk_dims, v_dims, strict=True)),
        float(scale),
        num_keys=packed.shape_expr[1].constant_value(),
        queries=tensors[0].shape_expr[1].constant_value() if has_queries else None,
        bias_heads=tensors[-1].shape_expr[0].constant_value() if has_bias else 0,
    )
    binary = compile_layer(layer, target.rstrip("\0"), dtypes[packed.dtype])
    programs = packed.shape_expr[0] * len(layer.heads)
    # The query splits of `headwise_launch`; cdiv(x + 1, y) - 1 is x // y, which wants no constant first.
    found = plugins.cdiv(PROGRAMS_PER_SM * processors + 1, programs) - 1
    least, most = layer.min_query_splits(binary.capability), layer.query_blocks(binary.capability)
    launch = plugins.KernelLaunchParams(
        grid_x=programs,
        grid_y=plugins.max(least, plugins.min(most, found)),
        block_x=binary.threads,
        shared_mem=binary.shared,
    )
    return binary.symbol, binary.ptx.encode(), launch, plugins.SymIntExprs(0)
