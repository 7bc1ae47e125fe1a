"""Fusion status of every block's attention: one fused kernel, or several.

A fused kernel does not write the attention weights, tokens^2 per head, to memory. Whether a runtime fuses depends on
the pattern, the precision and the head widths, and it does not warn if it does not fuse: the status is read from its
optimised graph.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.export.settings import ATTENTION_OPSET
from toolkit.records import Fusion, FusionStatus, HeadLayout

if TYPE_CHECKING:
    from toolkit.export.engine import EngineLayer

_ATTENTION = re.compile(r"blocks\.(\d+)\.attn/")


class AttentionKernel(NamedTuple):
    """A kernel that computes a block's attention, or a part of it."""

    block: int
    name: str
    fused: bool


def by_block(
    kernels: Iterable[AttentionKernel], num_blocks: int, reasons: Mapping[int, tuple[str, str]]
) -> tuple[Fusion, ...]:
    """Fusion status of each block; `reasons` maps blocks that are not fused to a reason and a hint."""
    kernels_of: dict[int, list[AttentionKernel]] = defaultdict(list)
    for kernel in kernels:
        kernels_of[kernel.block].append(kernel)
    statuses = []
    for block in range(num_blocks):
        fused = [kernel.fused for kernel in kernels_of[block]]
        if not fused:
            statuses.append(Fusion(block, "unknown", (), "no kernel is named after its attention"))
            continue
        status: FusionStatus = "fused" if all(fused) else "partly" if any(fused) else "not"
        names = tuple(dict.fromkeys(kernel.name for kernel in kernels_of[block]))
        statuses.append(Fusion(block, status, names, *(() if status == "fused" else reasons.get(block, ("", "")))))
    return tuple(statuses)


def in_engine(layers: Sequence[EngineLayer], layouts: Sequence[HeadLayout], precision: str) -> tuple[Fusion, ...]:
    """Fusion in a TensorRT engine, from its layers: fused kernels compute a softmax and both products, or the custom
    node."""
    from toolkit.export.attention import NODE

    kernels = []
    for layer in layers:
        nodes = [node for node in layer.nodes if _ATTENTION.match(node) and ("/Softmax" in node or NODE in node)]
        if nodes:
            block = int(_ATTENTION.match(nodes[0])[1])  # type: ignore[index]
            products = sum("/MatMul" in node for node in layer.nodes)
            fused = NODE in nodes[0] or "mha" in layer.name.lower() or products >= 2
            kernels.append(AttentionKernel(block, layer.kernel or layer.name, fused))
    reasons = {block: _engine_reason(layout, precision) for block, layout in enumerate(layouts)}
    return by_block(kernels, len(layouts), reasons)


def _engine_reason(layout: HeadLayout, precision: str) -> tuple[str, str]:
    """Reason and hint: a documented requirement of TensorRT's fused attention that this layer does not meet."""
    widths = sorted({width for head in layout.heads for width in head})
    if precision == "fp32":
        return "TensorRT fuses attention in half precision only", "--precision fp16 or bf16"
    if any(width % 8 for width in widths):
        return f"head widths {widths} are not all multiples of 8", "prune with --round-to 8"
    if widths[0] < 16:
        return f"head widths {widths} are below 16", "prune with --round-to 16"
    if any(qk != v for qk, v in layout.heads):
        return "the qk and v widths of heads differ", "prune without the axes qk and v"
    return "the builder chose unfused kernels", "another --builder-level"


def in_onnxruntime(file: Path, optimised: Path, blocks: int, opset: int) -> tuple[Fusion, ...]:
    """Fusion in onnxruntime, from its optimised graph."""
    import onnx

    from toolkit.export.attention import DOMAIN, NODE

    kernels = [
        AttentionKernel(int(match[1]), f"{node.domain}::{node.op_type}".removeprefix("::"), "Attention" in node.op_type)
        for node in onnx.load(optimised, load_external_data=False).graph.node
        if (match := _ATTENTION.match(node.name)) and ("Attention" in node.op_type or "MatMul" in node.op_type)
    ]
    hint = "--attention standard" if opset >= ATTENTION_OPSET else f"--opset {ATTENTION_OPSET}, which has Attention"
    reason = ("onnxruntime does not fuse plain operators on CPUs", hint)
    custom = [
        AttentionKernel(int(match[1]), f"{DOMAIN}::{NODE}", fused=False)  # inlined nodes lose their names
        for node in onnx.load(file, load_external_data=False).graph.node
        if node.domain == DOMAIN and (match := _ATTENTION.match(node.name))
    ]
    return by_block(kernels + custom, blocks, dict.fromkeys(range(blocks), reason))


def in_openvino(compiled: Any, blocks: int) -> tuple[Fusion, ...]:
    """Fusion in OpenVINO, from its runtime model."""
    kernels = []
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        names = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        kind = info["layerType"].astype(str) if "layerType" in info else operation.get_type_name()
        match = _ATTENTION.search(names) or _ATTENTION.search(operation.get_friendly_name())
        if match and (kind in ("ScaledDotProductAttention", "MHA") or "/Softmax" in names):
            fused = kind in ("ScaledDotProductAttention", "MHA") or names.count("/MatMul") >= 2
            kernels.append(AttentionKernel(int(match[1]), kind, fused))
    return by_block(kernels, blocks, dict.fromkeys(range(blocks), ("OpenVINO does not fuse this pattern", "")))
