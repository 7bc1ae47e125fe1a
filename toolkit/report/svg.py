"""Matplotlib figures as inline SVG: themed by the CSS of the page, and deterministic.

Figures are drawn with placeholder colours, which are replaced by CSS variables for light mode, dark mode and print.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#100001"
MUTED = "#100002"
GRID = "#100003"
KEPT = "#100004"
"""Background of text, opaque for all of something and transparent for nothing of it."""
SERIES = ("#200001", "#200002", "#200003", "#200004", "#200005")
"""Placeholder colours of dense, slim and the exported models; repeated if there are more."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", KEPT: "--kept"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
_PLACEHOLDER = re.compile("|".join(_VARIABLES))
_SETTINGS: dict[str, str | float | bool] = {
    "svg.fonttype": "none",  # keep text as text: searchable, in the fonts of the page
    "svg.hashsalt": "vit-toolkit",
    "text.parse_math": False,  # folder names may contain dollar signs
    "path.simplify": False,  # draw every sample
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def plot_style() -> AbstractContextManager[None]:
    """Context with the plot style of the report; ignores the user's matplotlib settings and restores them on exit."""
    return matplotlib.style.context(_SETTINGS, after_reset=True)


def inline(figure: Figure, name: str, alt: str, description: str = "") -> str:
    """The figure as an <svg> element. `name` makes its ids unique within the page; `alt` is its text alternative, and
    `description` a longer one with all numbers."""
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    # A <style> element would apply to the whole page, whose CSS has the rules already.
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _rewritten(_local(key), value, name) for key, value in element.attrib.items()}
    for fixed in ("width", "height", "version"):
        root.attrib.pop(fixed, None)
    root.attrib |= {"role": "img", "aria-label": alt, "class": "plot"}
    if description:
        root.set("aria-describedby", f"{name}-description")
        element = ElementTree.Element("desc", {"id": f"{name}-description"})
        element.text = description
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _rewritten(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-", 1)
    if key == "style":
        return _PLACEHOLDER.sub(lambda match: f"var({_VARIABLES[match[0]]})", value)
    return value


def _local(name: str) -> str:
    """Name without its XML namespace, which inline SVG does not need."""
    return name.rsplit("}", 1)[-1]
