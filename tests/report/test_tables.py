from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.dg.summary import DataSummary
from toolkit.records import Artifact, Fusion, HeadLayout, Lowered, PrunePlan, TrainingHistory
from toolkit.report import tables
from toolkit.report.contents import Page


def plain(text: str) -> str:
    replaced = {"\u00a0": " ", "\u202f": " ", "\u00d7": "x", "\u2192": "->"}
    return "".join(replaced.get(one, one) for one in text)


def test_block_rows_pair_dense_and_slim(page: Page) -> None:
    kept, removed = tables.block_rows(page)
    assert kept.cells[:4] == (("3", "2"), ("192", "96"), ("192", "112"), ("768", "392"))
    assert plain(kept.shapes) == "1 x 64/64 + 1 x 32/48"
    assert removed.shapes == "block removed"
    assert {slim for _, slim in removed.cells} == {"\u2013"}


def test_block_rows_before_pruning(bare: Page) -> None:
    row = tables.block_rows(bare)[0]
    assert {slim for _, slim in row.cells} == {"not run"}
    assert plain(row.shapes) == "3 x 64/64"
    assert tables.whole_model(bare).cells[0] == ("6", "not run")


def test_the_whole_model_includes_embedding_and_classifier(page: Page) -> None:
    whole = tables.whole_model(page)
    assert [plain(cell) for cell in whole.cells[4]] == ["5.53 M", "2.70 M"]
    assert whole.cells[0] == ("6", "2")
    assert plain(whole.shapes) == "embedding 192 -> 152"


def test_head_shapes_are_grouped() -> None:
    assert plain(tables.head_shapes(HeadLayout(((64, 64), (64, 64), (8, 16))))) == "2 x 64/64 + 1 x 8/16"


@pytest.mark.parametrize(
    ("budget", "met", "requested", "achieved"),
    [
        ("macs=0.5", 0.498, "50.0 % of the MACs left (macs=0.5)", "49.8 % of the MACs left"),
        ("params=0.3", 0.301, "30.0 % of the parameters left (params=0.3)", "30.1 % of the parameters left"),
        ("ratio=0.75", 0.7, "75.0 % of the units removed (ratio=0.75)", "70.0 % of the units removed"),
        ("latency=0.5", 0.52, "latency=0.5", "52.0 %"),
        ("by hand", 0.52, "by hand", "52.0 %"),
    ],
)
def test_requested_and_achieved_budget(plan: PrunePlan, budget: str, met: float, requested: str, achieved: str) -> None:
    facts = dict(tables.plan_facts(replace(plan, budget=budget, achieved=met)))
    assert (plain(facts["Requested budget"]), plain(facts["Achieved budget"])) == (requested, achieved)


def test_data_counts_used_and_left_out_files() -> None:
    data = DataSummary(
        domains={"ink": 1200, "photo": 40},
        held_out="photo",
        classes=("cat", "dog"),
        left_out={"empty": ("a", "b"), "not an image file": ("c",)},
        remarks={"transparent, composited on white": 3},
        notes=("of note",),
    )
    assert tables.data_facts(data) == (
        ("Images", "1,240: ink 1,200, photo 40 (never trained on)"),
        ("Classes", "2"),
        ("Files and folders left out", "2 empty; 1 not an image file"),
        ("Images read as", "3: transparent, composited on white"),
        ("Note", "of note"),
    )


def test_plan_counts_units_by_axis(plan: PrunePlan) -> None:
    facts = dict(tables.plan_facts(plan))
    assert facts["Units removed"] == "head: 1 at 1 place; mlp: 3 at 1 place; block: 1 at 1 place"
    assert dict(tables.plan_facts(replace(plan, cuts=())))["Units removed"] == "none"


def test_training_shows_the_selected_checkpoint(page: Page) -> None:
    dense, slim = tables.trainings(page)
    assert dense.facts
    assert slim.facts
    assert {key: plain(text) for key, text in slim.facts.items()} == {
        "Objective": "erm",
        "Steps": "900",
        "Time": "1 h 2 min",
        "Selected checkpoint": "step 100",
        "Training loss at selection": "0.400",
        "Accuracy, validation images": "92.5 %, mean of 2 source domains",
    }
    assert plain(dense.facts["Accuracy, validation images"]).startswith("95.5 %")


def test_training_without_steps_or_not_run(page: Page) -> None:
    untrained = replace(page, training=TrainingHistory("erm", 0, 0.0, (), 0), finetuning=None)
    dense, slim = tables.trainings(untrained)
    assert dense.facts
    assert dense.facts["Objective"] == "none, used without training"
    assert slim.facts is None
    unknown = replace(page, training=TrainingHistory("erm", 10, 1.0, (), 10))
    facts = tables.trainings(unknown)[0].facts
    assert facts
    assert facts["Accuracy, validation images"] == "not run"


def test_unknown_environment_values_are_marked(page: Page) -> None:
    facts = dict(tables.environment_facts(page.environment))
    assert facts["CPU"] == "Example CPU 3000, 2 cores"
    assert plain(facts["Memory"]) == "4.00 GB"
    assert (facts["GPU"], facts["Clocks"]) == ("none", "unknown")
    clocked = replace(page.environment, clocks_mhz=(3000.0, 2400.0, 3000.0))
    assert plain(dict(tables.environment_facts(clocked))["Clocks"]) == "2400, 3000 MHz"


def test_artifact_shows_hashes_and_interface(artifact: Artifact) -> None:
    facts = dict(tables.artifact_facts(artifact))
    assert facts["Target"] == "onnx, fp32, opset 20, any batch size"
    assert facts["Inputs"] == "images: float32 [batch, 3, 160, 160]"
    assert facts["SHA-256, file"] == "a" * 64
    assert facts["SHA-256, model's weights"] == "5" * 64
    assert facts["Correctness"] == "logits differ from PyTorch's by at most 3.1e-06"
    not_run = replace(artifact, max_abs_difference=None)
    assert dict(tables.artifact_facts(not_run))["Correctness"] == "not run on this machine; not compared with PyTorch"


def test_artifact_shows_fusion_rewrites_precision_and_notes(artifact: Artifact) -> None:
    fusion = (
        Fusion(0, "fused", ("Attention",)),
        Fusion(1, "not", (), "heads of several widths", "--rewrites pad-heads"),
        Fusion(2, "not", (), "heads of several widths", "--rewrites pad-heads"),
    )
    lowered = Lowered({"art": 0.75}, {"art": 0.8}, blocks=(3,), softmax=("blocks.1.attn",), residual=True)
    full = replace(artifact, fusion=fusion, lowered=lowered, rewrites={"norms": 12, "softmax-scale": 0}, notes=("n",))
    facts = tables.artifact_facts(full)
    assert [text for term, text in facts if term == "Attention"] == [
        "attention is fused in 1 of 3 blocks",
        "warning: not fused in blocks 1, 2: heads of several widths; try --rewrites pad-heads",
    ]
    named = dict(facts)
    assert named["Exact rewrites"] == "norms x 12"
    assert named["Not in lower precision"] == "float32: blocks 3; softmax of blocks.1.attn; the residual sum"
    assert named["Accuracy on a sample"] == "art 80.0% -> 75.0%"
    assert named["Note"] == "n"
