"""The whole chain through the command line, on the smallest model and a few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit import hashing, records

Command = Callable[..., Any]
Snapshot = Callable[..., dict[str, str]]
RESULTS = (
    "dense/model.safetensors",
    "dense/model.json",
    "dense/history.json",
    "dense/data.json",
    "pruned/plan.json",
    "pruned/model.safetensors",
    "finetuned/model.safetensors",
    "finetuned/history.json",
    "artifacts/onnx-fp32/model.onnx",
    "artifacts/onnx-fp32/artifact.json",
    "artifacts/onnx-fp32-dense/model.onnx",
    "parity/parity.json",
    "bench/onnxruntime-local/bench.json",
    "report.html",
    "recipe.yaml",
    "flags.yaml",
    "environment.json",
    "log.jsonl",
)


def bench_code(run: Path) -> int:
    """What the run has to end with: a busy machine makes a measurement INVALID."""
    report = records.load(records.BenchReport, run / "bench" / "onnxruntime-local" / "bench.json")
    return 0 if all(found.valid for found in report.measurements) else 3


def test_every_stage_leaves_its_result(finished: tuple[Path, Any]) -> None:
    run, ended = finished[0] / "runs" / "default", finished[1]
    assert [file for file in RESULTS if not (run / file).is_file()] == []
    assert ended.code == bench_code(run), ended.err
    assert ended.out == ""
    assert ended.made == [
        "dense", "pruned", "finetuned", "artifacts/onnx-fp32-dense", "artifacts/onnx-fp32", "parity",
        "bench/onnxruntime-local",
    ]  # fmt: skip
    assert not list(run.glob("**/.*.new"))
    assert "checkpoint.pt" not in {path.name for path in run.rglob("*")}


def test_a_run_ends_with_the_table_and_the_path_of_the_report(finished: tuple[Path, Any]) -> None:
    ended = finished[1]
    assert "MACs" in ended.err
    assert "report: runs/default/report.html" in ended.err
    if ended.code == 3:
        assert "the measurement is INVALID" in ended.err


def test_up_to_date_results_are_not_remade(here: Path, command: Command, snapshot: Snapshot) -> None:
    before = snapshot(here, "log.jsonl", "environment.json", "report.html")
    ended = command("run")
    assert ended.made == []
    assert "checking images" not in ended.err
    assert ended.err.count("is up to date") == 7
    assert snapshot(here, "log.jsonl", "environment.json", "report.html") == before


@pytest.mark.parametrize(
    ("words", "results"),
    [
        (("parity", "--batch-size", "7"), ["parity"]),
        (("finetune", "--epochs", "0"), ["finetuned"]),
        (("prune", "--ratio", "0.25"), ["pruned"]),
        (("prune", "--seed", "1"), ["dense", "pruned"]),
        (("report", "--set", "bench.samples=31"), ["bench/onnxruntime-local"]),
        (("train", "--force"), ["dense"]),
    ],
)
def test_a_setting_remakes_only_what_depends_on_it(
    here: Path, command: Command, words: tuple[str, ...], results: list[str]
) -> None:
    ended = command(*words)
    assert ended.code in (0, 3), ended.err
    assert ended.made == results


def test_results_that_depend_on_a_changed_result_are_remade(here: Path, command: Command) -> None:
    command("prune", "--ratio", "0.25")
    ended = command("parity")
    assert ended.code == 0, ended.err
    assert ended.made == ["finetuned", "artifacts/onnx-fp32", "parity"], "the dense model's file stays"


def test_a_stage_with_an_equal_result_stops_the_chain(here: Path, command: Command) -> None:
    assert command("train", "--force").made == ["dense"]
    assert command("parity").made == [], "the same seed gives the same weights"


def test_until_stops_after_the_stage(here: Path, command: Command) -> None:
    ended = command("run", "--until", "prune", "--run", "runs/short", "--set", "train.epochs=0")
    assert ended.code == 0, ended.err
    assert {path.name for path in (here / "runs" / "short").glob("[!.]*") if path.is_dir()} == {"dense", "pruned"}


@pytest.mark.parametrize("run", ["runs/default", "runs/new"])
def test_dry_run_writes_nothing(here: Path, command: Command, snapshot: Snapshot, run: str) -> None:
    before = snapshot(here)
    ended = command("run", "--run", run, "--recipe", "toolkit.yaml", "--dry-run", "--seed", "3")
    assert ended.code == 0
    assert "train: dense: " in ended.err
    assert "prune: prune: depends on train" in ended.err
    assert snapshot(here) == before


def test_dry_run_reports_up_to_date_results(here: Path, command: Command) -> None:
    lines = command("run", "--dry-run").err.splitlines()
    assert [line for line in lines if not line.endswith("up to date")] == [
        "data: 3 domains (ink 30, photo 30; held out: sketch 30), 3 classes, 90 images",
        "report: report.html: written every time",
    ]


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("train", records.ModelInfo),
        ("prune", records.PrunePlan),
        ("finetune", records.ModelInfo),
        ("parity", records.ParityReport),
        ("bench", records.BenchReport),
    ],
)
def test_json_prints_the_record_only(here: Path, command: Command, stage: str, kind: type) -> None:
    ended = command(stage, "--json")
    assert ended.code in (0, 3)
    assert isinstance(records.loads(kind, ended.out), kind)
    assert "up to date" in ended.err


def test_json_of_stages_with_several_records(here: Path, command: Command) -> None:
    (artifact,) = yaml.safe_load(command("export", "--json").out)
    assert artifact["sha256"] == hashing.sha256(here / "runs/default/artifacts/onnx-fp32/model.onnx")
    page = yaml.safe_load(command("report", "--json").out)
    assert page["dense"]["macs"] > page["slim"]["macs"] > 0


def test_quiet_prints_nothing(here: Path, command: Command) -> None:
    ended = command("prune", "-q", "--force")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_flags_of_earlier_commands_are_reused_until_overridden(here: Path, command: Command) -> None:
    run = here / "runs" / "default"
    plan = run / "pruned" / "plan.json"
    command("prune", "--ratio", "0.25")
    assert yaml.safe_load((run / "flags.yaml").read_text())["flags"] == {"prune.ratio": 0.25}
    assert "reusing flags from earlier commands (flags.yaml): prune.ratio=0.25" in command("prune").err
    assert records.load(records.PrunePlan, plan).budget == "ratio=0.25"
    command("prune", "--budget", "macs=0.7")
    assert yaml.safe_load((run / "flags.yaml").read_text())["flags"] == {"prune.budget": "macs=0.7"}
    assert records.load(records.PrunePlan, plan).budget == "macs=0.7"
    ended = command("prune", "--forget")
    assert "reusing" not in ended.err
    assert ended.made == ["pruned"]
    assert yaml.safe_load((run / "flags.yaml").read_text())["flags"] == {}
    assert records.load(records.PrunePlan, plan).budget != "macs=0.7"


def test_the_seed_determines_weights_and_is_recorded(here: Path, command: Command) -> None:
    run = here / "runs" / "default"
    before = records.load(records.ModelInfo, run / "dense" / "model.json").weights_sha256
    command("train", "--seed", "5")
    assert records.load(records.ModelInfo, run / "dense" / "model.json").weights_sha256 != before
    assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == 5


def test_failed_parity_ends_with_1_and_writes_the_report(here: Path, command: Command) -> None:
    page = here / "runs" / "default" / "report.html"
    page.unlink()
    ended = command("run", "--set", "parity.margin=0.001")
    assert ended.code == 1
    assert "parity is not shown within 0.1 pp" in ended.err
    assert "undecided: too few images" in ended.err
    assert "loses less than 0.1\N{NO-BREAK SPACE}pp in every domain" in page.read_text()


def test_an_invalid_measurement_ends_with_3_and_writes_the_report(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = here / "runs" / "default" / "bench" / "onnxruntime-local" / "bench.json"
    content = yaml.safe_load(file.read_text())
    content["measurements"][0]["reasons"] = ["the cat walked over the keyboard"]
    file.write_text(json.dumps(content))
    (here / "runs" / "default" / "report.html").unlink()
    ended = command("run", "--json")
    assert ended.code == 3
    assert "the cat walked over the keyboard" in ended.err
    assert "the cat walked" in (here / "runs" / "default" / "report.html").read_text()
    assert yaml.safe_load(ended.out)["title"] == "default", "the record is printed all the same"
    for words in (("run", "--allow-invalid"), ("bench", "--allow-invalid"), ("report", "--allow-invalid", "--quiet")):
        assert command(*words).code == 0
    allowed = command("run", "--allow-invalid")
    assert "bench: warning: the measurement is INVALID: dense at batch 1: the cat walked" in allowed.err
    assert "INVALID measurement" in allowed.err, "in the table"
    assert "the cat walked" in (here / "runs" / "default" / "report.html").read_text()
    assert command("run", "--allow-invalid", "--set", "parity.margin=0.001").code == 1, "other checks still count"
    assert command("bench").code == 3, "it holds for one command"


def test_names_of_files_and_classes_are_printed_literally(here: Path, command: Command) -> None:
    run = here / "runs" / "default"
    name = "[bold]<b>:smile:$x$[/b]"
    content = json.loads((run / "parity" / "parity.json").read_text())
    content["domains"][0]["domain"] = name
    (run / "parity" / "parity.json").write_text(json.dumps(content))
    ended = command("report", "--allow-invalid")
    assert ended.code == 0, ended.err
    assert f"Accuracy, {name}" in ended.err
    page = (run / "report.html").read_text()
    assert "<b>:smile:" not in page
    assert page.count("[bold]&lt;b&gt;:smile:$x$[/b]") >= 3, "in two tables and a plot"


def test_the_report_omits_measurements_of_former_models(here: Path, command: Command) -> None:
    file = here / "runs" / "default" / "bench" / "onnxruntime-local" / "bench.json"
    report = records.load(records.BenchReport, file)
    gone = [replace(made, artifact_sha256="0" * 64) if made.subject == "slim" else made for made in report.measurements]
    records.save(replace(report, measurements=tuple(gone)), file)
    assert {row["subject"] for row in yaml.safe_load(command("report", "--json").out)["latency"]} == {"dense"}


@pytest.mark.slow
def test_the_report_shows_measurements_of_current_models_in_other_runtimes(here: Path, command: Command) -> None:
    command("bench", "--runtime", "torch")
    assert {row["load"]["runtime"] for row in yaml.safe_load(command("report", "--json").out)["latency"]} == {
        "torch",
        "onnxruntime",
    }
    command("prune", "--ratio", "0.25")
    latency = yaml.safe_load(command("report", "--json").out)["latency"]
    assert {(row["load"]["runtime"], row["subject"]) for row in latency} == {
        ("onnxruntime", "dense"), ("torch", "dense"), ("torch", "slim"),
    }  # fmt: skip


def test_json_prints_no_earlier_record_after_an_error(here: Path, command: Command) -> None:
    ended = command("prune", "--json", "--criterion", "taylr")
    assert (ended.code, ended.out) == (2, "")
