"""TensorRT for RTX: engines for RTX GPUs, cross-compiled on any machine. Implemented in `tensorrt`."""

from __future__ import annotations

from toolkit.export import Target
from toolkit.export.tensorrt import TensorRT

PLUGIN: Target = TensorRT("rtx")
