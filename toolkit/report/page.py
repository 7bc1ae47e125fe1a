"""Render the report as one self-contained HTML page, for offline use and print, in light and dark mode."""

from __future__ import annotations

from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from toolkit.characters import printable
from toolkit.report import numbers, plan_svg, plots, summary, tables
from toolkit.report.contents import Page
from toolkit.report.plan_picture import picture_of


def render(page: Page) -> str:
    """The page as HTML. Rendering is deterministic, and all external text is escaped."""
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            headline=summary.headline(page),
            judgement=summary.judgement(page),
            invalid=summary.invalid_measurements(page),
            groups=[list(rows) for _, rows in groupby(summary.rows(page), key=lambda row: row.group)],
            plots=_plots(page),
            blocks=tables.block_rows(page),
            whole=tables.whole_model(page),
            block_columns=[name for name, _ in tables.BLOCK_COLUMNS],
            data=tables.data_facts(page.data) if page.data else None,
            plan=tables.plan_facts(page.plan, page.dense.blocks[0].tokens_in) if page.plan else None,
            trainings=tables.trainings(page),
            artifact_facts=tables.artifact_facts,
            environment=tables.environment_facts(page.environment),
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # folder names may contain surrogates


def _plots(page: Page) -> dict[str, Markup]:
    """Inline SVG by name, without the plots whose stages have not run."""
    drawings: dict[str, str] = {}
    if page.parity:
        drawings["accuracy"] = plots.accuracy(page.parity)
    if page.slim:
        drawings["plan"] = plan_svg.drawing_of(picture_of(page.dense, page.slim))
    if page.latency:
        drawings["latency"] = plots.latency(page.latency)
    return {name: Markup(drawing) for name, drawing in drawings.items()}  # svg.inline escapes its text


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("toolkit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "printable": printable,
        "percent": numbers.percent,
        "margin": numbers.margin,
        "points": numbers.points,
        "points_interval": numbers.points_interval,
        "milliseconds": numbers.milliseconds,
        "significant": numbers.significant,
        "times": numbers.times,
        "times_interval": numbers.times_interval,
        "load_name": summary.load_name,
    }
    return environment
