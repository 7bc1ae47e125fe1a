"""What became of every block's attention: one kernel, or its parts one by one.

A product, a softmax and a product that are one kernel never write the attention weights to memory, tokens^2 of them for
each head. Whether a runtime does so depends on the pattern, the number format and the heads' widths, and it does not
say so when it does not: it has to be looked up in what it made of the graph.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.export.choices import STANDARD_SINCE
from toolkit.records import Fusion, FusionStatus, HeadLayout

if TYPE_CHECKING:
    from toolkit.export.engine import EngineLayer

_ATTENTION = re.compile(r"blocks\.(\d+)\.attn/")


class Step(NamedTuple):
    """A kernel that computes attention of some heads of a block, or a part of it."""

    block: int
    kernel: str
    fused: bool


def report(steps: Iterable[Step], blocks: int, why: Mapping[int, tuple[str, str]]) -> tuple[Fusion, ...]:
    """One verdict for each block; `why` holds reason and mend for those that are not fused."""
    by_block: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        by_block[step.block].append(step)
    found = []
    for block in range(blocks):
        own = by_block[block]
        if not own:
            found.append(Fusion(block, "unknown", (), "no kernel that is listed names its attention"))
            continue
        status: FusionStatus = (
            "fused" if all(step.fused for step in own) else "partly" if any(step.fused for step in own) else "not"
        )
        kernels = tuple(dict.fromkeys(step.kernel for step in own))
        found.append(Fusion(block, status, kernels, *(() if status == "fused" else why.get(block, ("", "")))))
    return tuple(found)


def in_engine(layers: Sequence[EngineLayer], layouts: Sequence[HeadLayout], precision: str) -> tuple[Fusion, ...]:
    """From the list of layers of a TensorRT engine: fused is a kernel that holds a softmax and both products, or the
    custom node's."""
    from toolkit.export.attention import NODE

    steps = []
    for layer in layers:
        own = [node for node in layer.nodes if _ATTENTION.match(node) and ("/Softmax" in node or NODE in node)]
        if own:
            block = int(_ATTENTION.match(own[0])[1])  # type: ignore[index]
            products = sum("/MatMul" in node for node in layer.nodes)
            fused = NODE in own[0] or "mha" in layer.name.lower() or products >= 2
            steps.append(Step(block, layer.kernel or layer.name, fused))
    why = {block: _engines_reason(layout, precision) for block, layout in enumerate(layouts)}
    return report(steps, len(layouts), why)


def _engines_reason(layout: HeadLayout, precision: str) -> tuple[str, str]:
    """What TensorRT's documentation asks of a fused attention and this layer lacks."""
    widths = sorted({width for head in layout.heads for width in head})
    if precision == "fp32":
        return "TensorRT fuses attention in half precision only", "--precision fp16 or bf16"
    if any(width % 8 for width in widths):
        return f"head widths {widths} are not all multiples of 8", "prune with --round-to 8"
    if widths[0] < 16:
        return f"head widths {widths} are below 16", "prune with --round-to 16"
    if any(qk != v for qk, v in layout.heads):
        return "queries and values differ in width", "prune without the axes qk and v"
    return "the builder chose otherwise", "another --builder-level"


def in_onnxruntime(file: Path, optimised: Path, blocks: int, opset: int) -> tuple[Fusion, ...]:
    """From the graph that onnxruntime makes of a file."""
    import onnx

    from toolkit.export.attention import DOMAIN, NODE

    steps = [
        Step(int(found[1]), f"{node.domain}::{node.op_type}".removeprefix("::"), "Attention" in node.op_type)
        for node in onnx.load(optimised, load_external_data=False).graph.node
        if (found := _ATTENTION.match(node.name)) and ("Attention" in node.op_type or "MatMul" in node.op_type)
    ]
    mend = "--attention standard" if opset >= STANDARD_SINCE else f"--opset {STANDARD_SINCE}, which has an Attention"
    why = ("onnxruntime's processor kernels run plain operators one by one", mend)
    custom = [
        Step(int(found[1]), f"{DOMAIN}::{NODE}", fused=False)  # its function is inlined, and names nothing
        for node in onnx.load(file, load_external_data=False).graph.node
        if node.domain == DOMAIN and (found := _ATTENTION.match(node.name))
    ]
    return report(steps + custom, blocks, dict.fromkeys(range(blocks), why))


def in_openvino(compiled: Any, blocks: int) -> tuple[Fusion, ...]:
    """From the model that OpenVINO runs."""
    steps = []
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        names = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        kind = info["layerType"].astype(str) if "layerType" in info else operation.get_type_name()
        found = _ATTENTION.search(names) or _ATTENTION.search(operation.get_friendly_name())
        if found and (kind in ("ScaledDotProductAttention", "MHA") or "/Softmax" in names):
            fused = kind in ("ScaledDotProductAttention", "MHA") or names.count("/MatMul") >= 2
            steps.append(Step(int(found[1]), kind, fused))
    return report(steps, blocks, dict.fromkeys(range(blocks), ("OpenVINO does not know this pattern", "")))
