"""The summary of a parity report."""

from __future__ import annotations

from pathlib import Path

from toolkit import records
from toolkit.recipe import Recipe
from toolkit.records import Comparison, DomainParity, ParityReport, Verdict
from toolkit.runfolder import RunFolder
from toolkit.stages import PARITY, Run
from toolkit.stages.parity import Parity


def run_with(report: ParityReport, folder: Path) -> Run:
    (folder / PARITY).mkdir()
    records.save(report, folder / PARITY / "parity.json")
    return Run(Recipe(), RunFolder(folder))


def report_of(verdicts: dict[str, Verdict]) -> ParityReport:
    """One held-out domain in which slim lost 5.8 points against dense, and the verdict of each export against slim."""
    comparisons = [Comparison("dense", "slim", 0.9, -0.058, -0.104, -0.012, None)]
    comparisons += [Comparison("slim", side, 1.0, 0.0, -0.005, 0.005, verdict) for side, verdict in verdicts.items()]
    accuracy = {"dense": 0.61, "slim": 0.552, **dict.fromkeys(verdicts, 0.552)}
    domain = DomainParity("texture", True, (0,) * 359, {}, accuracy, tuple(comparisons))
    return ParityReport(0.01, dict.fromkeys(accuracy, "0" * 64), (domain,), "pass")


def test_a_verdict_names_its_pair(tmp_path: Path) -> None:
    run = run_with(report_of({"onnx-fp32": "pass"}), tmp_path)
    assert Parity().summary_lines(run) == [
        "texture (never trained on), 359 images: dense 61.0%, slim 55.2%, onnx-fp32 55.2%; onnx-fp32 vs slim: pass"
    ]


def test_every_export_has_its_own_verdict(tmp_path: Path) -> None:
    run = run_with(report_of({"onnx-fp32": "pass", "onnx-int8": "fail"}), tmp_path)
    (line,) = Parity().summary_lines(run)
    assert line.endswith("; onnx-fp32 vs slim: pass, onnx-int8 vs slim: fail")
