"""Records: what is written is read back, and nothing else is read."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import records
from toolkit.dg.image_check import CheckedImages
from toolkit.dg.summary import DataSummary
from toolkit.errors import RecordError
from toolkit.preprocessing import Preprocessing
from toolkit.records import (
    Artifact,
    BenchReport,
    Cut,
    Environment,
    HeadLayout,
    Measurement,
    ModelInfo,
    ModelSummary,
    ParityReport,
    PrunePlan,
    StageRecord,
    Telemetry,
    TensorSpec,
    TrainingHistory,
)

KINDS = (
    Artifact,
    BenchReport,
    DataSummary,
    Environment,
    CheckedImages,
    Measurement,
    ModelInfo,
    ModelSummary,
    ParityReport,
    PrunePlan,
    StageRecord,
    TrainingHistory,
)

MODEL = ModelInfo(
    name="deit_tiny_patch16_224",
    args={"img_size": 160, "global_pool": None, "qkv_bias": True},
    classes=("dog", "giraffe"),
    image_size=160,
    preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic", 1.0, "squash", "timm"),
    removed_blocks=(3,),
    layouts=(HeadLayout(((64, 64), (64, 32))),),
    parameters=5_000_000,
    macs=1_250_000_000,
    weights_sha256="00ff",
)
GOLDEN = Path(__file__).parent / "golden"
PREPARED = json.loads(records.dumps(MODEL))["preprocessing"]


def changed(**fields: object) -> str:
    """MODEL as JSON, with these fields set to something else."""
    return json.dumps({**json.loads(records.dumps(MODEL)), **fields})


def every_field(kind: type) -> st.SearchStrategy[Any]:
    """Records with anything that their annotations allow, fields with a default included."""
    hints = get_type_hints(kind)
    # Files of other schemas are converted or refused, see below.
    drawn = {
        each.name: st.just(each.default) if each.name == "schema" else of(hints[each.name]) for each in fields(kind)
    }
    return st.builds(kind, **drawn)


def of(hint: Any) -> st.SearchStrategy[Any]:
    if is_dataclass(hint):
        return every_field(hint)
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return st.lists(of(get_args(hint)[0]), max_size=3).map(tuple)
    return st.from_type(hint)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=25)
def test_a_record_is_read_back_as_it_was_written(kind: type, data: st.DataObject) -> None:
    record = data.draw(every_field(kind))
    # Not ==: by its text, 1 differs from 1.0 and from True, and nan equals itself.
    text = records.dumps(record)
    assert repr(records.loads(kind, text)) == repr(records.loads(kind, text, validated=True)) == repr(record)


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    records.save(MODEL, tmp_path / "model.json")
    assert records.load(ModelInfo, tmp_path / "model.json") == MODEL


def test_a_list_of_numbers_stands_on_one_line() -> None:
    assert '"mean": [0.5, 0.5, 0.5],\n' in records.dumps(MODEL)
    assert all(len(line) < 120 for line in records.dumps(MODEL).splitlines())


@pytest.mark.parametrize("name", ["a\n b", "[ x ]", '", "', "{ }", "\\n", "ünï", "\udcff"])
def test_layout_of_the_file_leaves_names_alone(name: str) -> None:
    model = replace(MODEL, classes=(name, "dog"))
    assert records.loads(ModelInfo, records.dumps(model)).classes == (name, "dog")


@pytest.mark.parametrize(
    ("edits", "fault"),
    [
        ({"macs": "1"}, "expected int, got '1' @ ModelInfo.macs"),
        ({"macs": 1.0}, "expected int, got 1.0 @ ModelInfo.macs"),
        ({"macs": True}, "expected int, got True @ ModelInfo.macs"),
        ({"name": 3}, "expected str, got 3 @ ModelInfo.name"),
        ({"preprocessing": {**PREPARED, "mean": [0.5, "0.5"]}}, "got '0.5' @ ModelInfo.preprocessing.mean[1]"),
        ({"preprocessing": {**PREPARED, "interpolation": "cubic"}}, "'cubic' @ ModelInfo.preprocessing.interpolation"),
        ({"classes": "ab"}, "expected a list, got 'ab' @ ModelInfo.classes"),
        ({"classes": {"a": 1}}, "expected a list, got {'a': 1} @ ModelInfo.classes"),
        ({"classes": None}, "expected a list, got None @ ModelInfo.classes"),
        ({"args": {"depth": [1]}}, "expected int or float or bool or str or null, got [1] @ ModelInfo.args['depth']"),
        ({"args": [1]}, "expected an object, got [1] @ ModelInfo.args"),
        ({"layouts": [{"heads": [[64]]}]}, "required field missing @ ModelInfo.layouts[0].heads[0][1]"),
        (
            {"layouts": [{"heads": [[64, 64, 64]]}]},
            "expected a list of 2, got [64, 64, 64] @ ModelInfo.layouts[0].heads",
        ),
        ({"layouts": [{"heads": ["64"]}]}, "@ ModelInfo.layouts[0].heads[0]"),
        ({"colour": "red"}, "unknown field @ ModelInfo.colour"),
        ({"name": 3, "macs": "1"}, "got 3 @ ModelInfo.name; expected int"),
    ],
)
def test_what_we_did_not_write_is_refused_by_file_and_field(
    tmp_path: Path, edits: dict[str, object], fault: str
) -> None:
    path = tmp_path / "model.json"
    path.write_text(changed(**edits))
    with pytest.raises(RecordError, match=re.escape(fault)) as caught:
        records.load(ModelInfo, path)
    assert str(path) in caught.value.message


def test_a_missing_field_is_named() -> None:
    content = json.loads(records.dumps(MODEL))
    del content["classes"]
    with pytest.raises(RecordError, match=r"required field missing @ ModelInfo\.classes"):
        records.loads(ModelInfo, json.dumps(content))


def test_a_choice_must_be_one_of_its_values() -> None:
    text = json.dumps({"place": "blocks", "axis": "blok", "units": [1]})
    with pytest.raises(RecordError, match=r"expected one of block, head, .*, got 'blok' @ Cut\.axis"):
        records.loads(Cut, text)


def test_a_dimension_is_a_number_or_a_name() -> None:
    for shape in ([2.5], [None], [True], "ab"):
        with pytest.raises(RecordError, match=r"TensorSpec\.shape"):
            records.loads(TensorSpec, json.dumps({"name": "x", "dtype": "float32", "shape": shape}))
    spec = records.loads(TensorSpec, json.dumps({"name": "x", "dtype": "float32", "shape": ["batch", 3]}))
    assert spec.shape == ("batch", 3)


@pytest.mark.parametrize("text", ["[1]", '"text"', "null", "3", "true"])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="record is not a ModelInfo"):
        records.loads(ModelInfo, text)


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b"[" * 100_000], ids=len)
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=re.escape(f"{path} is not JSON")):
        records.load(ModelInfo, path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"model\.json does not exist"):
        records.load(ModelInfo, tmp_path / "model.json")


def test_a_newer_schema_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(RecordError, match=r"record has schema 99 @ ModelInfo, written by a newer version") as caught:
        records.loads(ModelInfo, json.dumps({"schema": 99, "anything": 1}))
    assert "pip install -U vit-toolkit" in caught.value.hint


def test_schemas_of_inner_records_are_checked() -> None:
    text = (GOLDEN / "schema-1" / "BenchReport.json").read_text()
    content = json.loads(text)
    content["measurements"][1]["schema"] = 99
    with pytest.raises(RecordError, match=r"schema 99 @ BenchReport\.measurements\[1\]"):
        records.loads(BenchReport, json.dumps(content))


@pytest.mark.parametrize("schema", ["1", True, 0, None, 1.0])
def test_a_schema_is_a_number_from_1(schema: object) -> None:
    with pytest.raises(RecordError, match=r"expected a number from 1 to 3, got .* @ ModelInfo\.schema"):
        records.loads(ModelInfo, changed(schema=schema))


def test_a_field_is_absent_in_files_that_are_older_than_it() -> None:
    content = json.loads(records.dumps(MODEL))
    del content["merges"]
    assert records.loads(ModelInfo, json.dumps({**content, "schema": 1})) == MODEL
    with pytest.raises(RecordError, match=r"required field missing @ ModelInfo\.merges"):
        records.loads(ModelInfo, json.dumps(content))


def test_widths_and_buckets_follow_from_the_heads() -> None:
    layout = HeadLayout(((64, 64), (64, 64), (64, 32), (16, 8)))
    assert (layout.qk_width, layout.v_width) == (208, 168)
    assert layout.buckets == ((2, 64, 64), (1, 64, 32), (1, 16, 8))


def test_a_measurement_is_valid_without_reasons() -> None:
    content = Measurement(
        subject="slim",
        artifact_sha256="00",
        runtime="onnxruntime",
        device="local",
        batch_size=1,
        threads=1,
        latency_ms=(1.0, 2.0),
        warmup_ms=(),
        load_ms=3.0,
        peak_memory_bytes=None,
        telemetry=Telemetry(),
        reasons=(),
    )
    assert content.valid
    assert not replace(content, reasons=("the machine was busy",)).valid
