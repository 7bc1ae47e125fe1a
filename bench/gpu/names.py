"""Names of the compared implementations."""

from __future__ import annotations

OURS, BUCKETS = "headwise", "buckets"
BACKENDS = ("flash", "cudnn", "efficient", "math")
"""SDPA backends of PyTorch, for heads of equal width."""
MODELS = ("deit_small_patch16_224", "vit_base_patch16_224")
MODES = ("eager", "compiled", "graph")
TIMM, DENSE, PRUNED = "timm", "dense", "pruned"
