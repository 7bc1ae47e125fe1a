"""Prunings of one model side by side: the cells of the table, and the table as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from toolkit.characters import counted, printable, printable_lines
from toolkit.records import DENSE, ModelCost, PruneComparison, PrunedVariant
from toolkit.report import numbers
from toolkit.report.contents import LatencyRow, Load, SpeedUp
from toolkit.report.summary import backend_name, load_name

FAILED, NOT_MEASURED = "failed", "not measured"
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")
"""Characters that Markdown may take for markup."""


@dataclass(frozen=True)
class Sheet:
    """A table as text: formatted cells, with units."""

    title: str
    headings: tuple[str, ...]
    labels: int
    """Number of columns with texts; numbers follow."""
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sheet_of(comparison: PruneComparison, latency: Sequence[LatencyRow], speedups: Sequence[SpeedUp]) -> Sheet:
    """The table: a row for the dense model and one for every variant. `latency` and `speedups` are the statistics of
    `comparison.latency`."""
    keys = tuple(comparison.variants[0].settings)
    loads = tuple(dict.fromkeys(row.load for row in latency))
    sizes = len({cost.image_size for cost in (comparison.dense, *(each.model for each in comparison.variants)) if cost})
    columns = _Columns(comparison, latency, speedups, loads, image_size=sizes > 1)
    rows = [(DENSE, *[""] * (len(keys) - 1), *columns.cells(DENSE, comparison.dense, None))]
    for variant in comparison.variants:
        cells = columns.cells(variant.name, variant.model, variant.seconds) if variant.model else columns.of_failed()
        rows.append((*variant.settings.values(), *cells))
    budgets = dict.fromkeys(variant.budget for variant in comparison.variants if variant.budget)
    return Sheet(
        title=f"{comparison.source} pruned to {' or '.join(budgets)}, not fine-tuned",
        headings=(*keys, *columns.headings()),
        labels=len(keys),
        rows=tuple(rows),
        notes=(*_notes(comparison), *_latency_notes(comparison, latency, loads)),
    )


def as_markdown(sheet: Sheet) -> str:
    """The table for an issue or a page."""
    rule = ("---",) * sheet.labels + ("---:",) * (len(sheet.headings) - sheet.labels)
    rows = [sheet.headings, *sheet.rows]
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    lines.insert(1, f"|{'|'.join(rule)}|")
    notes = (f"- {_escaped(note)}" for note in sheet.notes)
    return "\n".join([f"**{_escaped(sheet.title)}**", "", *lines, "", *notes, ""])


@dataclass(frozen=True)
class _Columns:
    """The columns with numbers."""

    comparison: PruneComparison
    latency: Sequence[LatencyRow]
    speedups: Sequence[SpeedUp]
    loads: tuple[Load, ...]
    image_size: bool
    """Whether models differ in it."""

    def headings(self) -> list[str]:
        sizes = [load.batch_size for load in self.loads]
        return [
            *(["pixels"] if self.image_size else []),
            "MACs",
            "params",
            *(f"accuracy {printable(domain.domain)}" for domain in self.comparison.validation.domains),
            "accuracy, mean",
            "same class as dense",
            "KL, nats",
            "time to prune",
            *(heading for size in sizes for heading in (f"latency, batch {size}", f"speed-up, batch {size}")),
        ]

    def cells(self, name: str, cost: ModelCost, seconds: float | None) -> list[str]:
        """seconds: None for the dense model, which agrees with itself."""
        dense, domains = self.comparison.dense, self.comparison.validation.domains
        accuracies = [domain.accuracy[name] for domain in domains]
        sizes = [numbers.scaled(dense.macs), numbers.scaled(dense.parameters)]
        compared = ["", "", ""]
        if seconds is not None:
            sizes = [numbers.percent(cost.macs / dense.macs), numbers.percent(cost.parameters / dense.parameters)]
            compared = [
                numbers.percent(fmean(domain.agreement[name] for domain in domains)),
                _divergence(fmean(domain.divergence_nats[name] for domain in domains)),
                numbers.duration(seconds),
            ]
        return [
            *([str(cost.image_size)] if self.image_size else []),
            *sizes,
            *map(numbers.percent, (*accuracies, fmean(accuracies))),
            *compared,
            *(cell for load in self.loads for cell in self._at(load, name)),
        ]

    def of_failed(self) -> list[str]:
        return [FAILED, *[""] * (len(self.headings()) - 1)]

    def _at(self, load: Load, name: str) -> tuple[str, str]:
        """Latency and speed-up."""
        row = next((row for row in self.latency if (row.load, row.subject) == (load, name)), None)
        if row is None:
            return NOT_MEASURED, ""
        median = numbers.milliseconds(row.median_ms)
        invalid = any(row.reasons for row in self.latency if row.load == load)
        found = next((each for each in self.speedups if (each.load, each.subject) == (load, name)), None)
        ratio = f"{numbers.times(found.ratio)} {numbers.times_interval(found.low, found.high)}" if found else ""
        return (f"{median} INVALID" if invalid else median), ratio


def _divergence(nats: float) -> str:
    return "<0.001" if 0 < nats < 0.0005 else f"{nats:.3f}"


def _notes(comparison: PruneComparison) -> list[str]:
    domains = comparison.validation.domains
    images = ", ".join(f"{printable(domain.domain)} {domain.images:,}" for domain in domains)
    total = counted(sum(domain.images for domain in domains), "validation image")
    notes = [f"accuracy: {total} of the source domains ({images})"]
    if comparison.held_out is not None:
        notes.append(
            f"the held-out domain {printable(comparison.held_out)} is not looked at: a choice by its images would no "
            "longer be tested on unseen ones"
        )
    notes.append(
        "same class as dense: images with its prediction; KL: KL(dense || pruned) of the predicted distributions; both "
        "are means over domains"
    )
    return notes + [f"{_name(variant)} failed: {variant.error}" for variant in comparison.variants if variant.error]


def _name(variant: PrunedVariant) -> str:
    return ", ".join(f"{key}={value}" for key, value in variant.settings.items())


def _latency_notes(comparison: PruneComparison, latency: Sequence[LatencyRow], loads: Sequence[Load]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in comparison.unmeasured.items():
        reasons.setdefault(reason, []).append(name)
    notes = [f"{NOT_MEASURED}: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    what = comparison.file_format or "model folders"
    notes += [
        f"latency: median per call of {what} in {backend}; speed-up over dense, with its 95 % interval"
        for backend in dict.fromkeys(map(backend_name, loads))
    ]
    for load in loads:
        why = dict.fromkeys(reason for row in latency if row.load == load for reason in row.reasons)
        if why:
            notes.append(f"INVALID measurement: {load_name(load)}: {'; '.join(why)}")
    return notes


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(printable_lines(text)))
