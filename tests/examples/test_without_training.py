"""The table of examples/without_training.py, for one variant."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "examples" / "without_training.py"


@pytest.mark.slow
def test_a_table_of_accuracies_and_latencies(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("without_training", FILE)
    assert spec
    assert spec.loader
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, example)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "VARIANTS", {"ridge": {"criterion": "taylor", "compensation": "ridge"}})
    monkeypatch.setattr(example, "RUNTIMES", ("onnx",))
    pictures = shared / "data/imagenet_samples"
    weights = shared / "weights/deit_tiny_patch16_224.safetensors"
    arguments = [weights, pictures, pictures / "wnids.txt", tmp_path, "--budgets", "0.9", "--latency"]
    monkeypatch.setattr(sys, "argv", ["without_training.py", *map(str, arguments)])
    example.main()
    header, _, dense, slim = (tmp_path / "0.9" / "table.md").read_text(encoding="utf-8").splitlines()
    assert header == "|  | MACs | parameters | accuracy | KL | onnx, batch size 1 | onnx, batch size 8 |"
    assert "| 1.000 | 1.000 | 77.6 % | 0.000 |" in dense
    assert "| 0.900 |" in slim
