"""Files of every released schema, written by the version that had it, are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from toolkit import records
from toolkit.dg.image_check import CheckedImages
from toolkit.dg.summary import DataSummary
from toolkit.errors import RecordError
from toolkit.export.engine import EngineLayers
from toolkit.models import store
from toolkit.records import (
    Artifact,
    BatchRange,
    BenchReport,
    EngineTraits,
    Environment,
    LatencyTable,
    ModelInfo,
    ParityReport,
    PruneComparison,
    PrunePlan,
    StageRecord,
    TrainingHistory,
    ValidationReport,
)
from toolkit.records.schema import current_schema
from toolkit.runfolder import RunFolder

GOLDEN = Path(__file__).parent / "golden"
KINDS = {
    kind.__name__: kind
    for kind in (
        Artifact,
        BenchReport,
        DataSummary,
        EngineLayers,
        Environment,
        CheckedImages,
        LatencyTable,
        ModelInfo,
        ParityReport,
        PruneComparison,
        PrunePlan,
        StageRecord,
        TrainingHistory,
        ValidationReport,
    )
}
OLD_MODEL = re.compile(r'"merges": \[[^]]*\],\s*"schema": [12]\b')
"""A record of a model inside another record, without the fields of today's schema."""
FILES = sorted(GOLDEN.glob("schema-*/*.json"))


def kind_of(file: Path) -> type:
    return KINDS[file.stem.partition("-")[0]]


def schema_of(file: Path) -> int:
    schema: int = json.loads(file.read_text())["schema"]
    return schema


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_golden_file_is_read(file: Path) -> None:
    """A failure for a file of the current schema: the fields changed, so raise the schema number of the record."""
    record = records.load(kind_of(file), file)
    assert f"schema-{schema_of(file)}" == file.parent.name
    if schema_of(file) == current_schema(kind_of(file)) and not OLD_MODEL.search(file.read_text()):
        assert records.dumps(record) == file.read_text()
    else:
        assert records.loads(kind_of(file), records.dumps(record)) == record


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_schema_of_a_kind_has_a_golden_file(kind: type) -> None:
    current = current_schema(kind)
    assert current is not None
    numbers = {schema_of(file) for file in FILES if kind_of(file) is kind}
    assert numbers == set(range(1, current + 1))


def test_every_numbered_record_of_the_package_has_golden_files() -> None:
    numbered = {name for name in records.__all__ if hasattr(getattr(records, name), "schema")}
    assert numbered - {"Measurement"} <= KINDS.keys()  # a measurement is always in a report


def test_old_names_are_converted() -> None:
    folder = GOLDEN / "schema-1"
    artifact = records.load(Artifact, folder / "Artifact.json")
    assert artifact.extra_files == {"model.onnx.data": artifact.sha256}
    assert (artifact.opset, artifact.attention, artifact.batch) == (23, "standard", BatchRange())
    assert [block.hint for block in artifact.fusion] == ["", "--precision fp16 or bf16"]
    assert (artifact.schema, artifact.model.schema) == (2, 3)
    assert records.load(PrunePlan, folder / "PrunePlan.json").achieved == pytest.approx(0.497, abs=1e-3)
    report = records.load(BenchReport, folder / "BenchReport.json")
    assert (report.environment.cores, report.measurements[1].clock) == (2, "host")
    info = records.load(ModelInfo, folder / "ModelInfo.json")
    assert (info.preprocessing.mean[0], info.preprocessing.crop_mode, info.merges) == (0.485, "squash", ())


def test_options_of_engines_are_converted() -> None:
    content = json.loads((GOLDEN / "schema-1" / "Artifact.json").read_text())
    content["options"] |= {
        "least_batch": 1,
        "usual_batch": 8,
        "largest_batch": 64,
        "builder_level": 3,
        "version_compatible": False,
        "hardware_compatible": True,
        "graph_difference": 1e-6,
    }
    artifact = records.loads(Artifact, json.dumps(content))
    assert (artifact.batch, artifact.engine) == (BatchRange(1, 8, 64), EngineTraits(3, False, True))
    assert (artifact.graph_difference, artifact.compiled) == (1e-6, False)
    content["inputs"][0]["shape"][0] = 4
    content["options"] = {"compiled": True}
    fixed = records.loads(Artifact, json.dumps(content))
    assert (fixed.batch, fixed.compiled, fixed.engine) == (BatchRange.of([4]), True, None)


def test_an_old_name_is_refused_in_a_new_file() -> None:
    content = json.loads(records.dumps(records.load(PrunePlan, GOLDEN / "schema-1" / "PrunePlan.json")))
    content["met"] = content.pop("achieved")
    with pytest.raises(RecordError, match=r"required field missing @ PrunePlan\.achieved"):
        records.loads(PrunePlan, json.dumps(content))


def test_a_result_of_schema_1_is_read() -> None:
    model = store.load(GOLDEN / "schema-1" / "pruned")
    assert model.info.parameters == sum(parameter.numel() for parameter in model.module.parameters())
    assert model.info.macs == model.cost.macs
    stage = RunFolder(GOLDEN / "schema-1").stage("pruned")
    assert stage is not None
    assert (stage.stage, stage.inputs["seed"]) == ("pruned", "0")
    plan = RunFolder(GOLDEN / "schema-1").read("pruned", "plan.json", PrunePlan)
    assert plan.model_sha256 == model.info.made_from
