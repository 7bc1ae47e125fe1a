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


def _block_of(names: str, attentions: Sequence[str]) -> int | None:
    """Index of the attention to which the first node in `names` belongs: a node's name is "<module>/<operator>"."""
    pattern = "|".join(map(re.escape, attentions))
    match = re.search(rf"(?<![\w.])({pattern})/", names)
    return attentions.index(match[1]) if match else None


def in_engine(layers: Sequence[EngineLayer], layouts: Mapping[str, HeadLayout], precision: str) -> tuple[Fusion, ...]:
    """Fusion in a TensorRT engine, from its layers: fused kernels compute a softmax and both products, or the custom
    node. `layouts`: the head layout of every attention, by name."""
    from toolkit.export.attention import NODE

    kernels, attentions = [], [*layouts]
    for layer in layers:
        nodes = [node for node in layer.nodes if "/Softmax" in node or NODE in node]
        block = next((index for node in nodes if (index := _block_of(node, attentions)) is not None), None)
        if block is not None:
            products = sum("/MatMul" in node for node in layer.nodes)
            fused = any(NODE in node for node in nodes) or "mha" in layer.name.lower() or products >= 2
            kernels.append(AttentionKernel(block, layer.kernel or layer.name, fused))
    reasons = {block: _engine_reason(layout, precision) for block, layout in enumerate(layouts.values())}
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


def in_onnxruntime(file: Path, optimised: Path, attentions: Sequence[str], opset: int) -> tuple[Fusion, ...]:
    """Fusion of the attentions of these names in onnxruntime, from its optimised graph."""
    import onnx

    from toolkit.export.attention import DOMAIN, NODE

    kernels = [
        AttentionKernel(block, f"{node.domain}::{node.op_type}".removeprefix("::"), "Attention" in node.op_type)
        for node in onnx.load(optimised, load_external_data=False).graph.node
        if (block := _block_of(node.name, attentions)) is not None
        and ("Attention" in node.op_type or "MatMul" in node.op_type)
    ]
    hint = "--attention standard" if opset >= ATTENTION_OPSET else f"--opset {ATTENTION_OPSET}, which has Attention"
    reason = ("onnxruntime does not fuse plain operators on CPUs", hint)
    custom = [
        AttentionKernel(block, f"{DOMAIN}::{NODE}", fused=False)  # inlined nodes lose their names
        for node in onnx.load(file, load_external_data=False).graph.node
        if node.domain == DOMAIN and (block := _block_of(node.name, attentions)) is not None
    ]
    return by_block(kernels + custom, len(attentions), dict.fromkeys(range(len(attentions)), reason))


def in_openvino(compiled: Any, attentions: Sequence[str]) -> tuple[Fusion, ...]:
    """Fusion of the attentions of these names in OpenVINO, from its runtime model."""
    kernels = []
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        names = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        kind = info["layerType"].astype(str) if "layerType" in info else operation.get_type_name()
        block = _block_of(f"{names},{operation.get_friendly_name()}", attentions)
        if block is not None and (kind in ("ScaledDotProductAttention", "MHA") or "/Softmax" in names):
            fused = kind in ("ScaledDotProductAttention", "MHA") or names.count("/MatMul") >= 2
            kernels.append(AttentionKernel(block, kind, fused))
    reason = ("OpenVINO does not fuse this pattern", "")
    return by_block(kernels, len(attentions), dict.fromkeys(range(len(attentions)), reason))
