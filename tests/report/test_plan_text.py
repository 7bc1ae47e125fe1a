"""A plan in words."""

from __future__ import annotations

from dataclasses import replace

from toolkit.records import LatencyRecord, Merge, PrunePlan
from toolkit.report import plan_text, tables

MERGES = (Merge(3, 137), Merge(6, 80, "grid"))
LATENCY = LatencyRecord(4.0, 3.9, 4.125, 8.0, "local", "onnxruntime", "fp32", 1, 2, ("busy",))


def test_merges_follow_one_another(plan: PrunePlan) -> None:
    merged = replace(plan, merges=MERGES)
    second = "after the attention of block 6: 137 -> 80 tokens, grid"
    assert plan_text.merges(merged, 197) == ["after the attention of block 3: 197 -> 137 tokens, bipartite", second]
    assert plan_text.merges(merged) == ["after the attention of block 3: 137 tokens, bipartite", second]
    assert plan_text.merges(plan) == []


def test_only_what_a_plan_has_is_listed(plan: PrunePlan) -> None:
    assert plan_text.lines(plan, 197) == ["basis: none; compensation: none"]
    full = replace(plan, basis="svd", compensation="obs", trim_last_block=True, merges=MERGES[:1], latency=LATENCY)
    assert plan_text.lines(full, 197) == [
        "basis: svd; compensation: obs",
        "after the attention of block 3: 197 -> 137 tokens, bipartite",
        "the last block computes only the tokens that the classifier reads",
        plan_text.latency(LATENCY),
    ]


def test_latency_has_all_numbers_and_whether_it_is_valid() -> None:
    assert plan_text.latency(LATENCY) == (
        "latency in onnxruntime on local at batch 1: dense 8.00 ms, 4.00 ms requested, 3.90 ms predicted, "
        "4.12 ms measured after 2 searches, INVALID: busy"
    )
    assert plan_text.latency(replace(LATENCY, reasons=(), searches=1)).endswith("measured after 1 search")


def test_the_page_has_the_same_facts(plan: PrunePlan) -> None:
    full = replace(plan, basis="svd", trim_last_block=True, merges=MERGES, latency=LATENCY)
    facts = tables.plan_facts(full, 197)
    assert [text for term, text in facts if term == "Tokens merged"] == [
        "after the attention of block 3: 197 \u2192 137 tokens, bipartite",
        "after the attention of block 6: 137 \u2192 80 tokens, grid",
    ]
    named = dict(facts)
    assert (named["Basis"], named["Compensation"]) == ("svd", "none")
    assert named["Last block"] == "computes only the tokens that the classifier reads"
    assert named["Latency"] == plan_text.latency(LATENCY)
    assert {"Tokens merged", "Last block", "Latency"}.isdisjoint(dict(tables.plan_facts(plan)))
