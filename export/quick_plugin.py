"""`toolkit::HeadwiseAttention` as a TensorRT quick plugin (10.9 and later), compiled ahead of time.

The engine contains the kernel's PTX and launches it: no plugin library is needed at run time. See
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/extending-custom-layers.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from toolkit.errors import BadInput, CheckFailed
from toolkit.export.attention import DOMAIN, node_name
from toolkit.export.capabilities import HeadWidths
from toolkit.kernels.heads import ALIGNMENT, unsupported
from toolkit.machine import cuda

if TYPE_CHECKING:
    from toolkit.export.prepare import Prepared

HEADS = HeadWidths(ALIGNMENT, ALIGNMENT, equal=False)
"""Head widths of the kernel; `unsupported` checks the maximum."""
MAX_INPUTS = 4
"""Number of the custom node's inputs with all optional ones."""
ATTRIBUTES = {
    "qk_dims": npt.NDArray[np.int32],
    "v_dims": npt.NDArray[np.int32],
    "scale": float,
    "optional": str,
    "gpu": str,
    "sms": int,
}
"""Attributes of the node; `specialized` adds the last two."""


def check(precision: str, architecture: str) -> None:
    """BadInput for a precision or GPU architecture without a kernel."""
    from toolkit.kernels.machine_code import SHARED_BYTES

    if precision == "fp32":
        raise BadInput("custom attention supports half precision, not fp32", "--precision fp16, bf16 or int8")
    if architecture not in SHARED_BYTES:
        raise BadInput(
            f"custom attention has no kernel for {architecture}", f"supported: {', '.join(SHARED_BYTES)} (--gpu)"
        )


def for_engine(prepared: Prepared, architecture: str) -> ModelProto:
    """The graph for TensorRT's parser, which needs the plugins (`register`).

    Raises CheckFailed if a block stays float32, or its head widths have no kernel.
    """
    if prepared.lowered is not None and prepared.lowered.blocks:
        blocks = ", ".join(map(str, prepared.lowered.blocks))
        raise CheckFailed(
            f"custom attention supports half precision only, and blocks {blocks} stay float32 to keep the accuracy",
            "--attention decomposed, or --precision bf16",
        )
    for block, layout in enumerate(prepared.layouts.values()):
        if reason := unsupported(layout.heads):
            raise CheckFailed(
                f"custom attention has no kernel for block {block}: {reason}",
                "keep pad-heads in --rewrites, or --attention decomposed",
            )
    return specialized(prepared.proto, architecture, cuda.sm_count())


def specialized(proto: ModelProto, architecture: str, sms: int) -> ModelProto:
    """A copy for one GPU: its custom nodes get the architecture (sm_89) and the number of streaming multiprocessors,
    and lose their function bodies, which the parser would use instead of the plugin."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.functions[:]
    for node in copy.graph.node:
        if node.domain == DOMAIN:
            node.overload = ""
            attributes = {"plugin_namespace": DOMAIN, "gpu": architecture, "sms": sms}
            node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return copy


def register(trt: Any, plugins: Any) -> None:
    """Register the nodes' plugins with TensorRT, once per process; `plugins` is the module tensorrt.plugin."""
    registered = vars(getattr(plugins.op, DOMAIN, ModuleType(DOMAIN)))
    for num_inputs in range(1, MAX_INPUTS + 1):
        name = node_name(num_inputs)
        if name in registered:
            continue
        tensors = {f"input{number}": plugins.TensorDesc for number in range(num_inputs)}
        describe = partial(_describe_output, plugins)
        plugins.register(f"{DOMAIN}::{name}")(_with_signature(describe, {**tensors, **ATTRIBUTES}, plugins.TensorDesc))
        arguments = {**tensors, **ATTRIBUTES, "outputs": tuple[plugins.TensorDesc], "tactic": int}
        returned = tuple[str, bytes, plugins.KernelLaunchParams, plugins.SymIntExprs]
        implementation = partial(_implement, trt, plugins)
        plugins.aot_impl(f"{DOMAIN}::{name}")(_with_signature(implementation, arguments, returned))


def _with_signature(function: Callable[..., Any], arguments: dict[str, Any], returned: Any) -> Callable[..., Any]:
    """`function` with a signature, from which TensorRT takes the plugin's tensors and attributes."""

    def signed(*positional: Any, **attributes: Any) -> Any:
        return function(*positional, **attributes)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=type_) for name, type_ in arguments.items()]
    signed.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    return signed


def _describe_output(plugins: Any, packed: Any, *others: Any, v_dims: Any, optional: Any, **unused: Any) -> Any:
    """Shape and dtype of the output: [batch, queries, V], the input's dtype."""
    queries = _by_name(optional, others).get("queries", packed).shape_expr[1]
    return plugins.from_shape_expr((packed.shape_expr[0], queries, int(sum(v_dims))), packed.dtype)


def _by_name(optional: str, tensors: Sequence[Any]) -> dict[str, Any]:
    """A node's inputs after `packed`, by the names in its attribute `optional`."""
    names = [name for name in optional.rstrip("\0").split(",") if name]
    return dict(zip(names, tensors, strict=True))


def _implement(trt: Any, plugins: Any, packed: Any, *arguments: Any) -> tuple[str, bytes, Any, Any]:
    """Kernel name, PTX and launch parameters of one layer, for any batch size."""
    from toolkit.kernels.headwise_settings import PROGRAMS_PER_SM
    from toolkit.kernels.layer_spec import LayerSpec
    from toolkit.kernels.machine_code import compile_layer

    *others, qk_dims, v_dims, scale, optional, architecture, sms, _, _ = arguments
    tensors = _by_name(optional, others)
    dtypes = {trt.float16: "float16", trt.bfloat16: "bfloat16"}
    if packed.dtype not in dtypes:
        raise BadInput(f"the attention kernel supports fp16 and bf16, not {packed.dtype}", "--precision fp16")
    layer = LayerSpec(
        tuple((int(qk), int(v)) for qk, v in zip(qk_dims, v_dims, strict=True)),
        float(scale),
        num_keys=packed.shape_expr[1].constant_value(),
        queries=tensors["queries"].shape_expr[1].constant_value() if "queries" in tensors else None,
        bias_heads=tensors["bias"].shape_expr[0].constant_value() if "bias" in tensors else 0,
        has_key_bias="key_bias" in tensors,
    )
    binary = compile_layer(layer, architecture.rstrip("\0"), dtypes[packed.dtype])
    programs = packed.shape_expr[0] * len(layer.heads)
    # Query splits as in `headwise_launch`. cdiv(x + 1, y) - 1 is x // y, which does not accept a constant x.
    splits = plugins.cdiv(PROGRAMS_PER_SM * sms + 1, programs) - 1
    min_splits, max_splits = layer.min_query_splits(binary.capability), layer.query_blocks(binary.capability)
    launch = plugins.KernelLaunchParams(
        grid_x=programs,
        grid_y=plugins.max(min_splits, plugins.min(max_splits, splits)),
        block_x=binary.threads,
        shared_mem=binary.shared,
    )
    return binary.symbol, binary.ptx.encode(), launch, plugins.SymIntExprs(0)
