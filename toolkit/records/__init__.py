"""Records that stages exchange: frozen dataclasses, written as JSON and read strictly.

Field names include units. Raw samples are stored, statistics are computed on reading. Records import neither torch nor
numpy, and need pure Python only, so that they load on any device. Tuples hold numbers or records, dicts map names to
values. Every file holds one record with its `schema` number; an unknown field, a missing field or a wrong type is a
`RecordError` that names the file and the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from toolkit import strict_json
from toolkit.records.artifact import Artifact, Fusion, FusionStatus, Lowered, TensorSpec
from toolkit.records.bench import BenchReport, Environment, Measurement, Telemetry
from toolkit.records.model import DENSE, SLIM, BlockSummary, HeadLayout, ModelInfo, ModelSummary, Setting
from toolkit.records.parity import Comparison, DomainParity, ParityReport, Verdict
from toolkit.records.plan import Axis, Cut, PrunePlan
from toolkit.records.run import StageRecord
from toolkit.records.schema import SCHEMA
from toolkit.records.training import Evaluation, TrainingHistory

__all__ = [
    "DENSE",
    "SCHEMA",
    "SLIM",
    "Artifact",
    "Axis",
    "BenchReport",
    "BlockSummary",
    "Comparison",
    "Cut",
    "DomainParity",
    "Environment",
    "Evaluation",
    "Fusion",
    "FusionStatus",
    "HeadLayout",
    "Lowered",
    "Measurement",
    "ModelInfo",
    "ModelSummary",
    "ParityReport",
    "PrunePlan",
    "Setting",
    "StageRecord",
    "Telemetry",
    "TensorSpec",
    "TrainingHistory",
    "Verdict",
    "dumps",
    "load",
    "loads",
    "save",
]

Record = TypeVar("Record")
dumps, save = strict_json.dumps, strict_json.save


def load(kind: type[Record], path: Path) -> Record:
    """Read a record; RecordError names the file and the field."""
    return strict_json.load(kind, path, SCHEMA)


def loads(kind: type[Record], text: str, source: str = "record") -> Record:
    """Read a record from a string; `source` names it in errors."""
    return strict_json.loads(kind, text, source, SCHEMA)
