"""Records that stages exchange: frozen dataclasses, written as JSON and read strictly.

Field names include units. Raw samples are stored, statistics are computed on reading. Tuples hold numbers or records,
dicts map names to values. Every file holds one record with its `schema` number (schema.py says when to raise it). Files
of older schemas are converted; a newer schema, an unknown field, a missing field or a wrong type is a `RecordError`
that names the file and the field. Devices read records with the standard library alone (`validated=True`).
"""

from __future__ import annotations

from toolkit.records.artifact import (
    Artifact,
    BatchRange,
    EngineTraits,
    Fusion,
    FusionStatus,
    Lowered,
    RewriteName,
    TensorSpec,
)
from toolkit.records.bench import BenchReport, Environment, GpuState, Measurement, Telemetry
from toolkit.records.comparison import (
    DomainValidation,
    ModelCost,
    PruneComparison,
    PrunedVariant,
    ValidationReport,
)
from toolkit.records.cost_table import BlockShape, LatencyTable, Probe, ProbeSession
from toolkit.records.files import dumps, load, loads, save
from toolkit.records.model import (
    DENSE,
    SLIM,
    BlockSummary,
    HeadLayout,
    Matching,
    Merge,
    ModelInfo,
    ModelSummary,
    Setting,
)
from toolkit.records.parity import Comparison, DomainParity, ParityReport, Verdict
from toolkit.records.plan import Aggregate, Axis, Cut, LatencyRecord, PrunePlan
from toolkit.records.run import StageRecord
from toolkit.records.schema import since
from toolkit.records.training import Evaluation, TrainingHistory

__all__ = [
    "DENSE",
    "SLIM",
    "Aggregate",
    "Artifact",
    "Axis",
    "BatchRange",
    "BenchReport",
    "BlockShape",
    "BlockSummary",
    "Comparison",
    "Cut",
    "DomainParity",
    "DomainValidation",
    "EngineTraits",
    "Environment",
    "Evaluation",
    "Fusion",
    "FusionStatus",
    "GpuState",
    "HeadLayout",
    "LatencyRecord",
    "LatencyTable",
    "Lowered",
    "Matching",
    "Measurement",
    "Merge",
    "ModelCost",
    "ModelInfo",
    "ModelSummary",
    "ParityReport",
    "Probe",
    "ProbeSession",
    "PruneComparison",
    "PrunePlan",
    "PrunedVariant",
    "RewriteName",
    "Setting",
    "StageRecord",
    "Telemetry",
    "TensorSpec",
    "TrainingHistory",
    "ValidationReport",
    "Verdict",
    "dumps",
    "load",
    "loads",
    "save",
    "since",
]
