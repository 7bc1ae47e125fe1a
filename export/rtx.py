"""TensorRT for RTX: engines for RTX GPUs, cross-compiled on any machine. Implemented in `tensorrt`."""

from __future__ import annotations

from toolkit.export import Target
from toolkit.export.tensorrt import TensorRT

PLUGIN: Target = TensorRT("rtx", flag="rtx", help="Build a TensorRT for RTX engine, for RTX GPUs, on any machine.")
