"""TensorRT for RTX: engines for RTX GPUs, built on any machine. See `tensorrt`, which does the work."""

from __future__ import annotations

from toolkit.export import Target
from toolkit.export.tensorrt import TensorRT

PLUGIN: Target = TensorRT("rtx")
