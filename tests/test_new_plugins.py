"""A plug-in of every kind, each in one file of an installed package, is used from recipe, flags and help."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from toolkit import plugins, records
from toolkit.records import Artifact, BenchReport, PrunePlan, StageRecord, TrainingHistory

ROOT = Path(__file__).parents[1]
PLUGINS = Path(__file__).parent / "new_plugins"
NAMES = {
    "criterion": "position", "scope": "layers", "method": "renamed", "objective": "scaled", "target": "text",
    "runtime": "constant", "device": "here", "basis": "same", "compensation": "nothing", "clock": "fixed",
}  # fmt: skip
"""By kind: name of the plug-in, and of its file in PLUGINS."""


@pytest.fixture
def package(install: Callable[..., Path]) -> Path:
    """An installed package with a plug-in of every kind."""
    files = {name: (PLUGINS / f"{name}.py").read_text(encoding="utf-8") for name in NAMES.values()}
    return install(files, [(kind, name, name) for kind, name in NAMES.items()])


def test_plugins_of_every_kind_are_used(package: Path, here: Path, command: Callable[..., Any]) -> None:
    chosen = ("--method", "renamed", "--criterion", "position", "--scope", "layers", "--ratio", "0.3")
    chosen += ("--basis", "same", "--compensation", "nothing")
    settings = ("renamed.name=mine", "position.power=2", "same.refuse=false", "nothing.refuse=false")
    ended = command("prune", *chosen, *(word for setting in settings for word in ("--set", f"prune.{setting}")))
    assert ended.code == 0, ended.err
    run = here / "runs" / "default"
    plan = records.load(PrunePlan, run / "pruned" / "plan.json")
    assert (plan.method, plan.criterion, plan.scope) == ("mine", "position", "layers")
    assert plan.cuts[0].units == tuple(range(len(plan.cuts[0].units)))
    assert "PyYAML" in records.load(StageRecord, run / "pruned" / "stage.json").inputs

    ended = command("finetune", "--objective", "scaled", "--set", "finetune.scaled.factor=0", "--no-distill")
    assert ended.code == 0, ended.err
    history = records.load(TrainingHistory, run / "finetuned" / "history.json")
    assert {evaluation.train_loss for evaluation in history.evaluations} == {0.0}

    ended = command("export", "--plain-text", "--ending", ".words")
    assert ended.code == 0, ended.err
    artifact = records.load(Artifact, run / "artifacts" / "text-fp32" / "artifact.json")
    assert artifact.file == "model.words"
    assert "pyyaml" in {name.lower() for name in artifact.built_with}

    words = ("--set", "bench.constant.value=2", "--set", "bench.here.label=desk", "--allow-invalid")
    ended = command("bench", "--device", "here", "--clock", "fixed", "--set", "bench.fixed.factor=7", *words)
    assert ended.code == 0, ended.err
    report = records.load(BenchReport, run / "bench" / "constant-here" / "bench.json")
    assert {each.device for each in report.measurements} == {"desk"}
    assert {latency for each in report.measurements for latency in each.latency_ms} == {7.0}
    inputs = records.load(StageRecord, run / "bench" / "constant-here" / "stage.json").inputs
    assert "numpy" in inputs
    assert "torch" not in inputs

    again = command("bench", "--set", "bench.here.label=lap", "--dry-run").err
    assert "bench: bench/constant-here: changed: bench\n" in again
    unrelated = command("bench", "--set", "bench.here.label=desk", "--set", "export.onnx.opset=18", "--dry-run").err
    assert "bench: bench/constant-here: up to date\n" in unrelated


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (
            ["prune", "--method", "renamed"],
            ["Settings of method renamed", "Name in the plan. (default: nothing)"],
        ),
        (["prune", "--criterion=position"], ["prune.position.SETTING=VALUE", "Exponent of the position."]),
        (["prune", "--scope", "local"], ["Settings of scope local: none.", "isomorphic, layers, local"]),
        (["finetune", "--objective", "scaled"], ["erm, matching, scaled", "Factor of the loss."]),
        (["finetune", "--objective", "matching"], ["defaults of other settings are: learning_rate 5e-05, schedule"]),
        (["export"], ["--plain-text", "Write a text.", "--ending", "Settings of text"]),
        (["bench", "--device", "here", "--runtime", "constant"], ["here, local", "Name of the device", "Value of all"]),
    ],
    ids=lambda value: value[0],
)
def test_help_describes_the_settings_of_plugins(
    package: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: list[str], texts: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = command(*words, "--help")
    assert ended.code == 0
    assert [text for text in texts if text not in ended.out] == []


@pytest.mark.parametrize("name", ["prune", "export", "bench", "finetune"])
def test_help_lists_plugin_names_without_torch(name: str) -> None:
    program = "import sys, toolkit.cli; sys.argv[0] = 'toolkit'\ntry: toolkit.cli.main()\nfinally: print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program, name, "--help"], capture_output=True, text=True, check=True)
    assert {"torch", "onnx", "numpy", "onnxruntime"}.isdisjoint(ran.stdout.splitlines()[-1].split())


def test_init_lists_the_settings_of_plugins(package: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    assert command("init", tmp_path / "toolkit.yaml").code == 0
    text = (tmp_path / "toolkit.yaml").read_text()
    assert "  # Settings of method renamed:\n  # renamed:\n  #   # Name in the plan.\n  #   name: nothing\n" in text


def test_plugins_are_found_in_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "agent.pyz", "w") as archive:
        for folder, inside in ((ROOT / "toolkit", "toolkit"), (ROOT / "bench", "toolkit/bench"),
                               (ROOT / "export", "toolkit/export")):  # fmt: skip
            for file in folder.rglob("*.py"):
                archive.write(file, f"{inside}/{file.relative_to(folder)}")
    program = dedent("""
        import sys
        from toolkit import plugins
        assert ".pyz" in plugins.__file__
        print(*plugins.names("toolkit.bench.runtimes"), *plugins.names("toolkit.prune.criteria"))
        plugins.load("toolkit.bench.runtimes", "onnxruntime")
        print(*{"torch", "pydantic"} & set(sys.modules))
    """)
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "agent.pyz")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [*plugins.names("toolkit.bench.runtimes"), *plugins.names("toolkit.prune.criteria")]
    assert ran.stdout == f"{' '.join(names)}\n\n"
