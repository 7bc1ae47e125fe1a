"""`toolkit prune --compare` on a finished run of the smallest model. The null device measures literals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from toolkit import records
from toolkit.dg.evaluate import accuracy, divergence, logits
from toolkit.errors import InvalidMeasurement, LibraryDied, StorageError, UnsupportedModel
from toolkit.models import store
from toolkit.records import BenchReport, PruneComparison, PrunePlan
from toolkit.resolve import resolve
from toolkit.runfolder import RunFolder
from toolkit.stages import Run

Command = Callable[..., Any]
RUN = Path("runs/default")
COMPARED = RUN / "compared"
NULL = ("--set", "bench.device='null'")
"""Measures literals: the first model takes a millisecond for an image, the second half of it, ..."""
BUDGET = ("--budget", "macs=0.6", "--round-to", "1")
AXES = ("prune", "--compare", "axes=head+mlp,head", *BUDGET, *NULL)
"""The first variant meets the budget, the second cannot: MLPs have more than 60 % of the MACs."""
SCOPES = ("prune", "--compare", "scope=local,global", "--criterion", "magnitude-l2", *BUDGET, *NULL)
BOTH = ["compared/scope-local", "compared/scope-global"]


def loaded() -> PruneComparison:
    return records.load(PruneComparison, COMPARED / "comparison.json")


@pytest.mark.usefixtures("here")
def test_variants_side_by_side_one_of_which_fails(command: Command, snapshot: Callable[..., dict[str, str]]) -> None:
    before = snapshot(RUN / "pruned")
    ended = command(*AXES, "--json")
    assert ended.code == 0, ended.err
    assert ended.made == [
        "compared/axes-head+mlp", "compared/axes-head",
        "compared/onnx-fp32-axes-head+mlp", "compared/latency", "compared/validation",
    ]  # fmt: skip
    assert "prune: compared/axes-head failed: macs=0.6 cannot be achieved: the closest achievable" in ended.err
    assert not (COMPARED / "axes-head").exists()
    assert snapshot(RUN / "pruned") == before, "the run's own result is another one"

    comparison = loaded()
    assert records.loads(PruneComparison, ended.out) == comparison
    slim, failed = comparison.variants
    assert failed.model is None
    assert failed.error.startswith("macs=0.6 cannot be achieved")
    assert "--round-to" in failed.error, "the hint, too"
    assert slim.model is not None
    assert 0.59 < slim.model.macs / comparison.dense.macs <= 0.6
    assert (slim.settings, slim.budget, comparison.held_out) == ({"axes": "head+mlp"}, "macs=0.6", "sketch")
    assert records.load(PrunePlan, COMPARED / "axes-head+mlp" / "plan.json").achieved == slim.achieved
    check_validation(comparison)
    latency = comparison.latency
    assert latency is not None
    assert [(each.subject, each.latency_ms[0]) for each in latency.measurements] == [
        ("dense", 1),
        ("axes-head+mlp", 0.5),
    ]
    assert ["speed-up,", "batch", "1", "2.00x", "[2.00,", "2.00]"] in [line.split() for line in ended.err.splitlines()]
    assert "| head | failed |" in (COMPARED / "comparison.md").read_text()
    flags = yaml.safe_load((RUN / "flags.yaml").read_text())["flags"]
    assert flags == {"prune.budget": "macs=0.6", "prune.round_to": 1, "bench.device": "null"}, (
        "--compare is not remembered"
    )

    again = command(*AXES)
    assert again.made == ["compared/axes-head"], "what failed is tried again, all else is up to date"
    assert loaded() == comparison


def check_validation(comparison: PruneComparison) -> None:
    """Check accuracies, agreement and divergence on the validation images of the two source domains."""
    run = Run(resolve(None, None, {}).recipe, RunFolder(RUN))
    models = {
        name: store.load(RUN / folder)
        for name, folder in (("dense", "dense"), ("axes-head+mlp", "compared/axes-head+mlp"))
    }
    images = run.domains.selection_images()
    assert [domain.domain for domain in comparison.validation.domains] == [*images] == ["ink", "photo"]
    for domain in comparison.validation.domains:
        shown = images[domain.domain]
        assert domain.images == len(shown)
        assert domain.accuracy == {name: accuracy(each.module, shown, each.info, 4) for name, each in models.items()}
        dense, slim = (logits(each.module, shown, each.info, 4) for each in models.values())
        assert domain.agreement == {"dense": 1.0, "axes-head+mlp": np.mean(dense.argmax(axis=1) == slim.argmax(axis=1))}
        assert domain.divergence_nats["dense"] == 0
        assert domain.divergence_nats["axes-head+mlp"] == pytest.approx(divergence(dense, slim), rel=1e-3)
        assert domain.divergence_nats["axes-head+mlp"] > 0


@pytest.mark.usefixtures("here")
def test_a_killed_comparison_goes_on_and_latencies_come_later(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.stages import prune

    def dying(run: Run, result: str, *rest: Any) -> None:
        if result == BOTH[1]:
            raise KeyboardInterrupt
        pruned(run, result, *rest)

    pruned = prune._prune
    with monkeypatch.context() as patch:
        patch.setattr(prune, "_prune", dying)
        ended = command(*SCOPES, "--no-latency")
    assert (ended.code, ended.made) == (130, BOTH)
    assert [path.name for path in COMPARED.glob("[!.]*")] == ["scope-local"]
    ended = command(*SCOPES, "--no-latency")
    assert (ended.code, ended.made) == (0, [BOTH[1], "compared/validation"])
    assert loaded().latency is None
    assert "latency" not in (COMPARED / "comparison.md").read_text()
    ended = command(*SCOPES)
    files = ["compared/onnx-fp32-scope-local", "compared/onnx-fp32-scope-global"]
    assert (ended.code, ended.made) == (0, [*files, "compared/latency"]), ended.err
    assert loaded().latency is not None
    assert command(*SCOPES, "--force", "--no-latency").made == [*BOTH, "compared/validation"]


@pytest.mark.usefixtures("here")
def test_an_invalid_measurement_is_shown_and_repeated(command: Command) -> None:
    assert command(*SCOPES).code == 0
    file = COMPARED / "latency" / "bench.json"
    content = json.loads(file.read_text())
    content["measurements"][1]["reasons"] = ["the cat walked over the keyboard"]
    file.write_text(json.dumps(content))
    planned = command(*SCOPES, "--dry-run")
    assert "bench: compared/latency: it was INVALID" in planned.err
    assert "prune: compared/scope-local: up to date" in planned.err
    allowed = command(*SCOPES, "--allow-invalid")
    assert (allowed.code, allowed.made) == (0, [])
    assert "bench: warning: the measurement is INVALID: batch 1: the cat walked over the keyboard" in allowed.err
    assert "INVALID measurement: batch 1, onnxruntime on null, 1 thread: the cat" in allowed.err
    assert "1.00 ms INVALID" in (COMPARED / "comparison.md").read_text().replace("\u00a0", " ")
    repeated = command(*SCOPES)
    assert (repeated.code, repeated.made) == (0, ["compared/latency"])


@pytest.mark.usefixtures("here")
def test_an_invalid_measurement_ends_with_3(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.stages.compared_latency import VariantBench

    error = InvalidMeasurement("the measurement is INVALID: batch 1: busy", "again")
    monkeypatch.setattr(VariantBench, "failure", lambda self, run: error)
    ended = command(*SCOPES, "--json")
    assert ended.code == 3
    assert records.loads(PruneComparison, ended.out) == loaded(), "everything else is there"


@pytest.mark.usefixtures("here")
def test_a_model_that_cannot_be_exported_is_not_measured(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.stages import export

    def refusing(run: Run, name: str, model: str, out: Path) -> None:
        if model in refused:
            raise UnsupportedModel(f"{model} cannot be exported", "prune it otherwise")
        exported(run, name, model, out)

    exported, refused = export._export, ["compared/scope-global"]
    monkeypatch.setattr(export, "_export", refusing)
    ended = command(*SCOPES)
    assert ended.code == 0, ended.err
    comparison = loaded()
    assert comparison.unmeasured == {"scope-global": "compared/scope-global cannot be exported (prune it otherwise)"}
    assert comparison.latency is not None
    assert [each.subject for each in comparison.latency.measurements] == ["dense", "scope-local"]
    assert "| global | 59." in (COMPARED / "comparison.md").read_text().replace("\u00a0", " ")

    refused.append("compared/scope-local")
    ended = command(*SCOPES, "--set", "export.onnx.opset=21")
    assert (ended.code, "error: compared/scope-local cannot be exported" in ended.err) == (2, True)
    assert (loaded().latency, {*loaded().unmeasured}) == (None, {"dense", "scope-local", "scope-global"})

    refused[:] = ["dense"]
    ended = command(*SCOPES, "--set", "export.onnx.opset=20")
    assert (ended.code, "error: dense cannot be exported" in ended.err) == (2, True), "nothing can be compared with it"
    assert (loaded().latency, {*loaded().unmeasured}) == (None, {"dense", "scope-local", "scope-global"})
    assert "not measured: dense, scope-local, scope-global: dense cannot be exported" in ended.err


@pytest.mark.usefixtures("here")
def test_a_runtime_that_dies_leaves_the_rest(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.stages import bench

    def dying(*_: object) -> None:
        raise LibraryDied("the benchmark process crashed", "another runtime")

    monkeypatch.setattr(bench, "_bench", dying)
    ended = command(*SCOPES)
    assert (ended.code, "error: the benchmark process crashed" in ended.err) == (1, True)
    assert loaded().unmeasured.keys() == {"dense", "scope-local", "scope-global"}
    assert "accuracy, mean" in ended.err, "the table"


@pytest.mark.usefixtures("here")
def test_a_full_disk_ends_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.stages import prune

    def full(run: Run, result: str, *_: object) -> None:
        raise StorageError(f"the disk is full: {result}", "free space")

    monkeypatch.setattr(prune, "_prune", full)
    ended = command(*SCOPES)
    assert (ended.code, ended.made) == (2, BOTH[:1]), "the second variant would end with it as well"
    assert "error: the disk is full: compared/scope-local" in ended.err


@pytest.mark.usefixtures("here")
def test_variants_with_the_same_effect_are_made_once(command: Command) -> None:
    words = ("prune", "--compare", "method=grouped,optin", "--compare", "optin.tau=true,false", "--dry-run")
    ended = command(*words, "--no-latency")
    assert (
        "prune: method-grouped,optin.tau-false is left out: its settings have the effect of method-grouped" in ended.err
    )
    assert [line for line in ended.err.splitlines() if line.endswith(": does not exist yet")] == [
        f"prune: compared/{name}: does not exist yet"
        for name in ("method-grouped,optin.tau-true", "method-optin,optin.tau-true", "method-optin,optin.tau-false")
    ]


@pytest.mark.usefixtures("here")
def test_a_dry_run_lists_variants_before_there_is_a_model(command: Command) -> None:
    ended = command(*AXES, "--run", "runs/new", "--recipe", "toolkit.yaml", "--dry-run")
    assert ended.code == 0, ended.err
    assert "prune: compared/axes-head failed: macs=0.6 cannot be achieved" in ended.err
    assert "prune: compared/axes-head+mlp: depends on train" in ended.err
    assert "compare: compared/comparison.md: depends on " in ended.err
    assert not Path("runs/new").exists()


@pytest.mark.usefixtures("here")
def test_models_of_other_sizes_in_a_runtime_of_model_folders(command: Command) -> None:
    words = ("--compare", "method=grouped,resolution", "--budget", "macs=0.6", "--set", "bench.runtime=torch", *NULL)
    ended = command("prune", *words, "--set", "prune.axes=[mlp]")
    assert ended.code == 0, ended.err
    assert ended.made == [
        "compared/method-grouped", "compared/method-resolution", "compared/latency", "compared/validation",
    ]  # fmt: skip
    assert "median per call of model folders in torch on null" in " ".join(ended.err.split())
    sizes = [variant.model.image_size for variant in loaded().variants if variant.model]
    assert sizes[0] == 32 > sizes[1]
    assert "pixels" in ended.err


@pytest.mark.slow
def test_real_latencies_of_a_model_without_training(here: Path, command: Command) -> None:
    """The methods of the README, in a run of its own; no duration is asserted."""
    words = ("--run", "runs/untrained", "--recipe", "toolkit.yaml", "--set", "train.epochs=0", "--allow-invalid")
    (here / "toolkit.yaml").write_text((here / "toolkit.yaml").read_text().replace(", axes: [head, mlp]", ""))
    ended = command("prune", "--compare", "method=grouped,oneshot", "--budget", "macs=0.5", *words)
    assert ended.code == 0, ended.err
    report = records.load(BenchReport, here / "runs/untrained/compared/latency/bench.json")
    assert {each.subject for each in report.measurements} == {"dense", "method-grouped", "method-oneshot"}
    assert len({len(each.latency_ms) for each in report.measurements}) == 1, "interleaved"
