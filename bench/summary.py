"""Medians and ratios of a measurement, as text."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.bench.statistics import percentiles, ratio_of_medians
from toolkit.records import BenchReport


@dataclass(frozen=True)
class Latencies:
    """All samples of a measurement (`report`); as text, medians and ratios to the first subject."""

    report: BenchReport

    def __str__(self) -> str:
        return "\n".join(latency_lines(self.report))


def latency_lines(report: BenchReport) -> list[str]:
    """One line per batch size: the median of every subject, and the ratio of the first one's to each of the others."""
    lines = []
    for size in sorted({result.batch_size for result in report.measurements}):
        results = [result for result in report.measurements if result.batch_size == size]
        medians = [f"{result.subject} {percentiles(result.latency_ms, [50])[0]:.2f} ms" for result in results]
        first, *others = results
        ratios = [(other, ratio_of_medians(first.latency_ms, other.latency_ms)) for other in others]
        lines.append(
            f"{'' if all(result.valid for result in results) else 'INVALID: '}batch {size}: "
            + ", ".join(
                medians
                + [
                    f"{first.subject} / {other.subject} {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
                    for other, ratio in ratios
                ]
            )
        )
    return lines
