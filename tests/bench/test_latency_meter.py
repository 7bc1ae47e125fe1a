"""Cost tables are measured once for each model, device and runtime. Most files and sessions are those of plug-ins
that take no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import recipe, records
from toolkit.bench.deployment import deployment_of
from toolkit.bench.latency_meter import FOLDER, Meter, fingerprint_of, missing, random_sample
from toolkit.models.model import Model
from toolkit.prune.cost_table import shape_of, total
from toolkit.prune.grid import grid_of, key_of
from toolkit.prune.verified_search import LatencyMeter
from toolkit.records import LatencyTable, ProbeSession

PLUGINS = Path(__file__).parents[1] / "new_plugins"


@pytest.fixture
def settings(install: Callable[..., Path]) -> tuple[recipe.Export, recipe.Bench]:
    """Settings of a target and a runtime that do nothing."""
    files = {name: (PLUGINS / f"{name}.py").read_text(encoding="utf-8") for name in ("text", "constant")}
    install(files, [("target", "text", "text"), ("runtime", "constant", "constant")])
    bench = {"seconds": 0.01, "samples": 5, "threads": 1, "constant": {"value": 2.0}}
    return recipe.Export(targets=("text",)), recipe.Bench.model_validate(bench)


@pytest.fixture(scope="module")
def model(small: Callable[..., Model]) -> Model:
    return small(depth=3).identified()


def test_a_table_is_measured_once_and_extended(
    settings: tuple[recipe.Export, recipe.Bench], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.bench.latency_meter.SECONDS", 0.01)
    monkeypatch.setattr("toolkit.bench.latency_meter._reasons", lambda report: ())  # tests run side by side
    steps: list[str] = []

    def opened() -> Meter:
        deployment = deployment_of(recipe.Prune(budget="latency=0.5"), *settings)
        return Meter(deployment, tmp_path, lambda done, total, message="": steps.append(message))

    grid = grid_of(model, ("mlp",))
    with opened() as first:
        meter: LatencyMeter = first
        table = meter.table(model, grid)
        (record,) = first.tables.values()
    probes = [probe for session in record.sessions for probe in session.probes]
    assert len(probes) == 7
    assert len({len(probe.latency_ms) for probe in probes}) == 1
    assert min(min(probe.latency_ms) for probe in probes) > 0
    (file,) = (tmp_path / FOLDER).iterdir()
    assert records.load(LatencyTable, file) == record
    assert (record.device, record.runtime, record.target, record.batch_size) == ("local", "constant", "text", 1)
    measured_before = len(steps)
    with opened() as second:
        assert total(second.table(model, grid), shape_of(model)) == total(table, shape_of(model))
        assert len(steps) == measured_before, "a hit measures nothing"
        second.table(model, grid.refined(mlp=(20,)))
        (extended,) = second.tables.values()
    assert extended.sessions[:-1] == record.sessions
    assert [probe.block and probe.block.mlp for probe in extended.sessions[-1].probes] == [None, 8, 20]


def test_whole_models_are_measured(settings: tuple[recipe.Export, recipe.Bench], model: Model, tmp_path: Path) -> None:
    with Meter(deployment_of(recipe.Prune(), *settings), None) as meter:
        whole = meter.measure(model, (model, model))
        assert len(whole.models_ms) == 2
        assert min(whole.dense_ms, *whole.models_ms) > 0
        scratch = Path(meter._scratch.name)
        assert [folder.name for folder in scratch.iterdir()] == ["model-0"], "each model is exported once"
    assert not scratch.exists()


def test_real_files_are_measured_in_a_real_runtime(model: Model) -> None:
    bench = recipe.Bench(seconds=0.01, samples=5, threads=1)
    with Meter(deployment_of(recipe.Prune(at_batch=3), recipe.Export(), bench), None) as meter:
        whole = meter.measure(model, ())
        assert (meter.runtime, meter.batch_size, whole.models_ms) == ("onnxruntime", 3, ())
        assert whole.dense_ms > 0


def test_a_damaged_or_invalid_table_is_measured_again(
    settings: tuple[recipe.Export, recipe.Bench], model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deployment_of(recipe.Prune(), *settings)
    file = tmp_path / FOLDER / f"{fingerprint_of(model, deployment, None)[:16]}.json"
    grid = grid_of(model, ("mlp",))
    probes = grid.probes()
    sessions = ProbeSession(tuple(probes), ()), ProbeSession(tuple(probes), ("throttled",))
    with Meter(deployment, tmp_path) as meter:
        meter._keep(replace(meter._cached(model, None), sessions=sessions))
    with Meter(deployment, tmp_path) as meter:
        assert meter._cached(model, None).sessions == sessions[:1]
    file.write_text("{")
    with Meter(deployment, tmp_path) as meter:
        assert meter._cached(model, None).sessions == ()
    assert "measuring the cost table again" in caplog.text


def test_the_fingerprint_depends_on_the_model(
    settings: tuple[recipe.Export, recipe.Bench], model: Model, small: Callable[..., Model]
) -> None:
    deployment = deployment_of(recipe.Prune(), *settings)
    same = fingerprint_of(model, deployment, None)
    assert fingerprint_of(model, deployment, "grid") != same
    assert fingerprint_of(Model(model.module, replace(model.info, weights_sha256="other")), deployment, None) == same
    assert fingerprint_of(small(depth=3, embed_dim=48), deployment, None) != same
    assert fingerprint_of(small("beit_base_patch16_224", depth=3), deployment, None) != same


def test_missing_probes_come_with_their_references(model: Model) -> None:
    grid = grid_of(model, ("mlp",)).refined(mlp=range(9, 48))
    probes = grid.probes()
    sessions = missing(grid, ())
    assert max(map(len, sessions)) == 16
    assert {probe for session in sessions for probe in session} == {*probes}
    for session in sessions:
        for probe in session:
            assert all(reference in map(key_of, session) for reference in map(key_of, grid.references(key_of(probe))))
    assert missing(grid, [ProbeSession(tuple(probes), ())]) == []
    more = missing(grid_of(model, ("mlp",), matching="bipartite", image_sizes=(8,)), [ProbeSession(tuple(probes), ())])
    assert [len({probe.image_size for probe in session}) for session in more] == [1] * len(more)


def test_random_images_accept_any_precision(model: Model) -> None:
    sample = random_sample(model)
    assert sample.passes((0.0,), (1.0,))
    assert sample.calibration.shape[1:] == (3, 16, 16)
