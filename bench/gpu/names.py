"""What is compared, by name: shared by what measures and what judges."""

from __future__ import annotations

OURS, BUCKETS = "headwise", "buckets"
BACKENDS = ("flash", "cudnn", "efficient", "math")
"""PyTorch's, for heads of one width."""
MODELS = ("deit_small_patch16_224", "vit_base_patch16_224")
MODES = ("eager", "compiled", "graph")
TIMM, DENSE, PRUNED = "timm", "dense", "pruned"
