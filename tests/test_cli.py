"""The whole chain through the command line, on the smallest model and a few images."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit import __version__, hashing, records
from toolkit.cli import STAGE_HELP
from toolkit.recipe import Recipe

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


def test_a_run_ends_with_the_table_and_the_path_of_the_page(finished: tuple[Path, Any]) -> None:
    ended = finished[1]
    assert "MACs" in ended.err
    assert "report: runs/default/report.html" in ended.err
    if ended.code == 3:
        assert "the measurement is INVALID" in ended.err


def test_what_is_up_to_date_is_not_made_again(here: Path, command: Command, snapshot: Snapshot) -> None:
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
def test_only_what_follows_from_a_setting_is_made(
    here: Path, command: Command, words: tuple[str, ...], results: list[str]
) -> None:
    ended = command(*words)
    assert ended.code in (0, 3), ended.err
    assert ended.made == results


def test_what_needs_a_result_that_changed_is_made_again(here: Path, command: Command) -> None:
    command("prune", "--ratio", "0.25")
    ended = command("parity")
    assert ended.code == 0, ended.err
    assert ended.made == ["finetuned", "artifacts/onnx-fp32", "parity"], "the dense model's file stays"


def test_a_stage_with_an_equal_result_stops_the_chain(here: Path, command: Command) -> None:
    assert command("train", "--force").made == ["dense"]
    assert command("parity").made == [], "the same seed gives the same weights"


def test_until_stops_there(here: Path, command: Command) -> None:
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


def test_dry_run_says_that_all_is_up_to_date(here: Path, command: Command) -> None:
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
def test_json_is_the_record_and_nothing_else(here: Path, command: Command, stage: str, kind: type) -> None:
    ended = command(stage, "--json")
    assert ended.code in (0, 3)
    assert isinstance(records.loads(kind, ended.out), kind)
    assert "up to date" in ended.err


def test_json_of_stages_with_several_records(here: Path, command: Command) -> None:
    (artifact,) = yaml.safe_load(command("export", "--json").out)
    assert artifact["sha256"] == hashing.sha256(here / "runs/default/artifacts/onnx-fp32/model.onnx")
    page = yaml.safe_load(command("report", "--json").out)
    assert page["dense"]["macs"] > page["slim"]["macs"] > 0


def test_quiet_says_nothing_even_while_it_works(here: Path, command: Command) -> None:
    ended = command("prune", "-q", "--force")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_flags_of_earlier_commands_hold_until_taken_back(here: Path, command: Command) -> None:
    run = here / "runs" / "default"
    plan = run / "pruned" / "plan.json"
    command("prune", "--ratio", "0.25")
    assert yaml.safe_load((run / "flags.yaml").read_text())["flags"] == {"prune.ratio": 0.25}
    assert "reusing flags from earlier commands (flags.yaml): prune.ratio=0.25" in command("prune").err
    assert records.load(records.PrunePlan, plan).budget == "ratio=0.25"
    command("prune", "--budget", "macs=0.7")
    assert yaml.safe_load((run / "flags.yaml").read_text())["flags"] == {"prune.budget": "macs=0.7"}
    assert records.load(records.PrunePlan, plan).budget == "macs=0.7"


def test_seed_reaches_weights_and_record(here: Path, command: Command) -> None:
    run = here / "runs" / "default"
    before = records.load(records.ModelInfo, run / "dense" / "model.json").weights_sha256
    command("train", "--seed", "5")
    assert records.load(records.ModelInfo, run / "dense" / "model.json").weights_sha256 != before
    assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == 5


def test_parity_that_is_not_shown_ends_with_1_and_the_page_is_written(here: Path, command: Command) -> None:
    page = here / "runs" / "default" / "report.html"
    page.unlink()
    ended = command("run", "--set", "parity.margin=0.001")
    assert ended.code == 1
    assert "parity is not shown within 0.1 pp" in ended.err
    assert "undecided: too few images" in ended.err
    assert "loses less than 0.1\N{NO-BREAK SPACE}pp in every domain" in page.read_text()


def test_bench_that_is_invalid_ends_with_3_and_the_page_is_written(
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


def test_names_from_outside_are_shown_to_the_letter(here: Path, command: Command) -> None:
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


def test_the_page_leaves_out_measurements_of_models_that_are_gone(here: Path, command: Command) -> None:
    file = here / "runs" / "default" / "bench" / "onnxruntime-local" / "bench.json"
    report = records.load(records.BenchReport, file)
    gone = [replace(made, artifact_sha256="0" * 64) if made.subject == "slim" else made for made in report.measurements]
    records.save(replace(report, measurements=tuple(gone)), file)
    assert {row["subject"] for row in yaml.safe_load(command("report", "--json").out)["latency"]} == {"dense"}


@pytest.mark.slow
def test_the_page_shows_what_was_measured_in_other_runtimes_of_models_that_are_there(
    here: Path, command: Command
) -> None:
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


def test_an_error_prints_no_record_of_an_earlier_result(here: Path, command: Command) -> None:
    ended = command("prune", "--json", "--criterion", "taylr")
    assert (ended.code, ended.out) == (2, "")


def test_version(command: Command) -> None:
    assert command("--version").out == f"toolkit {__version__}\n"


def test_doctor_names_what_is_there(command: Command) -> None:
    ended = command("doctor")
    assert (ended.code, ended.out) == (0, "")
    for name in ("CPU", "torch", "timm", "onnxruntime", "TensorRT"):
        assert name in ended.err


def test_init_writes_the_defaults_once(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "toolkit.yaml"
    assert command("init", file).code == 0
    assert Recipe.model_validate(yaml.safe_load(file.read_text())) == Recipe()
    file.write_text("seed: 4\n")
    ended = command("init", file)
    assert ended.code == 2
    assert "--force" in ended.err
    assert file.read_text() == "seed: 4\n"
    assert command("init", file, "--force").code == 0
    assert Recipe.model_validate(yaml.safe_load(file.read_text())) == Recipe()


def test_init_into_a_folder_that_is_not_there(tmp_path: Path, command: Command) -> None:
    ended = command("init", tmp_path / "nowhere" / "toolkit.yaml")
    assert ended.code == 2
    assert "No such file or directory" in ended.err


HELP = (
    "import sys, toolkit.cli; sys.argv = ['toolkit', '--help']\ntry: toolkit.cli.main()\nfinally: print(*sys.modules)"
)


def test_help_lists_what_is_built_and_loads_next_to_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    text, _, modules = ran.stdout.strip().rpartition("\n")
    loaded = set(modules.split())
    assert {"torch", "timm", "numpy", "scipy", "pydantic", "yaml"} & loaded == set()
    ours = {name for name in loaded if name.split(".")[0] == "toolkit"}
    assert ours == {"toolkit", "toolkit.cli", "toolkit.errors", "toolkit.characters"}
    for name in (*STAGE_HELP, "run", "inspect", "init", "doctor"):
        assert re.search(rf"^\W*{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("name", ["", *STAGE_HELP, "run"])
def test_help_lists_nothing_that_is_not_built(command: Command, name: str) -> None:
    text = command(*name.split(), "--help").out.lower()
    for word in ("jetson", "ssh", "optin", "gohsp", "p3b", "latency="):
        assert word not in text


def test_help_is_quick(untraced: dict[str, str]) -> None:
    """At most four times what its library needs to load, whatever the machine: the best of runs that take turns."""

    def seconds(*program: str) -> float:
        """Of the processor, which other programs on the machine do not change much."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", *program], check=True, stdout=subprocess.DEVNULL, env=untraced)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    programs = ("from toolkit.cli import main; main()", "--help"), ("import typer",)
    taken = [[seconds(*program) for program in programs] for _ in range(5)]
    shown, loaded = (min(each) for each in zip(*taken, strict=True))
    assert shown < 4 * loaded
