"""Plots of the report: accuracy per domain, and all latency samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from toolkit.characters import counted, printable
from toolkit.records import DENSE, SLIM, DomainParity, ParityReport
from toolkit.report import numbers, summary, svg
from toolkit.report.contents import LatencyRow

WIDTH_INCHES = 9.5
LONGEST_NAME = 24


def accuracy(parity: ParityReport) -> str:
    """Bar chart of the accuracy (0 to 100 %) of every side in every domain."""
    sides = _in_order(parity.sides)
    thickness = 0.8 / len(sides)
    with svg.plot_style():
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + len(parity.domains) * (0.16 + 0.21 * len(sides))))
        axes = figure.add_axes(_frame(figure, left=1.9, right=0.7, top=0.45, bottom=0.4))
        for index, side in enumerate(sides):
            for row, domain in enumerate(parity.domains):
                if side in domain.accuracy:
                    centre = row + (index - (len(sides) - 1) / 2) * thickness
                    _accuracy_bar(axes, domain.accuracy[side], centre, thickness, side=index, row=row)
        axes.set_yticks(range(len(parity.domains)), [_domain_label(domain) for domain in parity.domains], color=svg.INK)
        axes.set_ylim(len(parity.domains) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("top-1 accuracy in %")
        axes.grid(axis="x")
        _legend(figure, sides)
        return svg.inline(figure, "accuracy", _accuracy_alt(parity))


def latency(rows: Sequence[LatencyRow]) -> str:
    """Dot plot of all samples: latency on the x axis, time from top to bottom within the row of a subject."""
    loads = sorted({row.load for row in rows})
    subjects = _in_order(row.subject for row in rows)
    with svg.plot_style():
        figure = Figure(figsize=(WIDTH_INCHES, len(loads) * (0.85 + 0.55 * len(subjects))))
        frame = figure.subplots(len(loads), 1, squeeze=False)
        for panel, load in enumerate(loads):
            _latency_panel(frame[panel, 0], panel, [row for row in rows if row.load == load], subjects)
        height = figure.get_figheight()
        figure.subplots_adjust(
            left=1.0 / WIDTH_INCHES,
            right=1 - 0.9 / WIDTH_INCHES,
            top=1 - 0.3 / height,
            bottom=0.5 / height,
            hspace=0.75 / (0.55 * len(subjects)),
        )
        alt = "; ".join(
            f"{row.subject} at {summary.load_name(row.load)}: median {numbers.milliseconds(row.median_ms)}, "
            f"95th percentile {numbers.milliseconds(row.p95_ms)}, {len(row.samples_ms)} calls"
            for row in rows
        )
        return svg.inline(figure, "latency", f"Latency of every call. {printable(alt)}.")


def _accuracy_bar(axes: Axes, value: float, centre: float, thickness: float, *, side: int, row: int) -> None:
    (bar,) = axes.barh(centre, 100 * value, 0.88 * thickness, color=_colour(side))
    bar.set_gid(f"bar-{row}-{side}")
    axes.annotate(
        numbers.percent(value),
        (100 * value, centre),
        (4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9,
    )


def _domain_label(domain: DomainParity) -> str:
    lines = [_shortened(domain.domain), *(["never trained on"] if domain.held_out else [])]
    return "\n".join([*lines, counted(len(domain.labels), "image")])


def _accuracy_alt(parity: ParityReport) -> str:
    domains = (
        f"{summary.domain_name(domain)}{' (never trained on)' if domain.held_out else ''}: "
        + ", ".join(f"{printable(side)} {numbers.percent(value)}" for side, value in domain.accuracy.items())
        for domain in parity.domains
    )
    return f"Top-1 accuracy per domain. {'; '.join(domains)}."


def _latency_panel(axes: Axes, panel: int, rows: Sequence[LatencyRow], subjects: Sequence[str]) -> None:
    for row in rows:
        index = subjects.index(row.subject)
        axes.add_patch(_dots(row.samples_ms, index, _colour(index), f"samples-{panel}-{index}"))
        axes.vlines(row.median_ms, index - 0.42, index + 0.42, colors=svg.INK, linewidth=1.4)
        axes.vlines(row.p95_ms, index - 0.42, index + 0.42, colors=svg.INK, linewidth=0.9, linestyles=(0, (2, 2)))
    axes.set_xlim(0, 1.04 * max(max(row.samples_ms) for row in rows))
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.set_yticks(range(len(subjects)), [_shortened(subject) for subject in subjects], color=svg.INK)
    invalid = "" if all(row.valid for row in rows) else " \u2013 INVALID"
    axes.set_title(printable(summary.load_name(rows[0].load)) + invalid)
    axes.set_xlabel("ms per call (line: median, dashed: 95th percentile)")
    axes.grid(axis="x")


def _dots(samples_ms: Sequence[float], row: int, colour: str, name: str) -> PathPatch:
    """All samples as one path; each dot is a zero-length line with round caps, which keeps thousands of them small."""
    count = len(samples_ms)
    heights = [row + 0.7 * ((sample + 0.5) / count - 0.5) for sample in range(count)]
    vertices = [point for point in zip(samples_ms, heights, strict=True) for _ in range(2)]
    path = Path(vertices, [Path.MOVETO, Path.LINETO] * count)
    size = 3 if count <= 200 else 1.6
    return PathPatch(path, fill=False, edgecolor=colour, linewidth=size, capstyle="round", gid=name)


def _legend(figure: Figure, sides: Sequence[str]) -> None:
    """Legend in one line above the axes."""
    handles = [PathPatch(Path.unit_rectangle(), facecolor=_colour(index), linewidth=0) for index in range(len(sides))]
    labels = [_shortened(side) for side in sides]
    figure.legend(
        handles, labels, loc="upper left", ncols=len(sides), handlelength=1, handleheight=1, columnspacing=2.5
    )


def _frame(
    figure: Figure, *, left: float, right: float, top: float, bottom: float
) -> tuple[float, float, float, float]:
    """Axes rectangle (left, bottom, width, height), in fractions of the figure, from margins in inches."""
    width, height = figure.get_size_inches()
    return left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height


def _in_order(subjects: Iterable[str]) -> list[str]:
    """Distinct subjects, dense and slim first, so that they have the same colours in every plot."""
    return sorted(dict.fromkeys(subjects), key=lambda subject: {DENSE: 0, SLIM: 1}.get(subject, 2))


def _colour(index: int) -> str:
    return svg.SERIES[index % len(svg.SERIES)]


def _shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
