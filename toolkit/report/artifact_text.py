"""The record of an exported file as text, for the command line, `toolkit inspect` and the page."""

from __future__ import annotations

from toolkit.records import Artifact, Fusion, Lowered

STATUS = {"partly": "partly fused", "not": "not fused", "unknown": "fusion unknown"}
"""Text for each fusion status of attention that is not one kernel."""


def difference(artifact: Artifact) -> str:
    """Difference between the file's logits and PyTorch's, or a note that it was not measured."""
    if artifact.max_abs_difference is not None:
        return f"logits differ from PyTorch's by at most {artifact.max_abs_difference:.1e}"
    if artifact.graph_difference is None:
        return "not run on this machine; not compared with PyTorch"
    return (
        f"not run on this machine; its graph's logits differ from PyTorch's by at most {artifact.graph_difference:.1e}"
    )


def rewrites(artifact: Artifact) -> str:
    """Names of the applied rewrites, with the number of places."""
    return ", ".join(f"{name} x {count}" for name, count in artifact.rewrites.items() if count) or "none"


def made_for(artifact: Artifact) -> str:
    """The devices on which the file runs."""
    later = " and newer" if artifact.engine and artifact.engine.hardware_compatible else ""
    return f"{artifact.device_architecture}{later}" if artifact.device_architecture else "any device"


def fusion_lines(artifact: Artifact) -> list[str]:
    """Number of blocks with fused attention; for the others, the reason and a hint. Empty if it is not known."""
    if not artifact.fusion:
        return []
    fused = sum(block.status == "fused" for block in artifact.fusion)
    lines = [f"attention is fused in {fused} of {len(artifact.fusion)} blocks"]
    groups: dict[tuple[str, str, str], list[int]] = {}
    for block in artifact.fusion:
        if block.status != "fused":
            groups.setdefault((block.status, block.reason, block.hint), []).append(block.block)
    for (status, reason, hint), blocks in groups.items():
        warning = "warning: " if hint else ""
        numbers = f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks))}"
        lines.append(f"{warning}{STATUS[status]} in {numbers}: {reason}{f'; try {hint}' if hint else ''}")
    return lines


def fusion_of(block: Fusion) -> str:
    """Fusion status of a block's attention, with kernels, or reason and hint."""
    if block.status == "fused":
        return f"fused ({', '.join(block.kernels)})"
    return f"{STATUS[block.status]}: {block.reason}{f'; try {block.hint}' if block.hint else ''}"


def kept_in_float32(lowered: Lowered) -> str:
    """Layers that are not in the lower precision."""
    kept = {
        "not in int8: blocks": lowered.unquantised,
        "float32: blocks": lowered.blocks,
        "norms": lowered.norms,
        "softmax of": lowered.softmax,
        "the residual sum": ("",) if lowered.residual else (),
    }
    return (
        "; ".join(f"{what} {', '.join(map(str, names))}".strip() for what, names in kept.items() if names) or "nothing"
    )


def accuracy_changes(lowered: Lowered) -> str:
    """Accuracy on the sample of each source domain, in float32 and in the lower precision."""
    changes = (f"{name} {lowered.reference[name]:.1%} -> {accuracy:.1%}" for name, accuracy in lowered.accuracy.items())
    return ", ".join(changes)
