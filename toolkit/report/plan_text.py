"""The record of a plan as text, for the command line, `toolkit inspect` and the page."""

from __future__ import annotations

from toolkit.characters import counted
from toolkit.records import LatencyRecord, PrunePlan

LAST_BLOCK = "computes only the tokens that the classifier reads"


def lines(plan: PrunePlan, tokens: int | None = None) -> list[str]:
    """What a plan does apart from removing units. `tokens` is the number at the first block, if it is known."""
    found = [f"basis: {plan.basis}; compensation: {plan.compensation}", *merges(plan, tokens)]
    if plan.trim_last_block:
        found.append(f"the last block {LAST_BLOCK}")
    if plan.latency:
        found.append(latency(plan.latency))
    return found


def merges(plan: PrunePlan, tokens: int | None = None) -> list[str]:
    """A line for each block that merges tokens. `tokens` is the number at the first block, if it is known."""
    found = []
    for merge in plan.merges:
        change = f"{merge.tokens} tokens" if tokens is None else f"{tokens} -> {merge.tokens} tokens"
        found.append(f"after the attention of block {merge.block}: {change}, {merge.matching}")
        tokens = merge.tokens
    return found


def latency(record: LatencyRecord) -> str:
    """Requested, predicted and measured latency."""
    valid = f", INVALID: {', '.join(record.reasons)}" if record.reasons else ""
    return (
        f"latency in {record.runtime} on {record.device} at batch {record.batch_size}: dense {record.dense_ms:.2f} "
        f"ms, {record.asked_ms:.2f} ms requested, {record.predicted_ms:.2f} ms predicted, "
        f"{record.measured_ms:.2f} ms measured after {counted(record.searches, 'search', 'searches')}{valid}"
    )
