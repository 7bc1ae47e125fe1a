"""Settings of the targets that are built from an ONNX graph."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolkit.section import Section

GRAPH_LIBRARIES = ("onnx", "onnxscript")
"""Packages needed to write and check graphs."""


class GraphSettings(Section):
    opset: Annotated[int, Field(ge=17, le=23)] | None = None
    """ONNX opset; default: the best one for the target."""
