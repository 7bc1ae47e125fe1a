"""A matplotlib figure as SVG that belongs inside a page: themed by the page's CSS, and the same bytes every time.

matplotlib draws with placeholder colours; each becomes a CSS variable, and one drawing serves light, dark and paper.
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
SERIES = ("#200001", "#200002", "#200003", "#200004", "#200005")
"""Dense, slim, then exported models; after the last colour they repeat."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
_PLACEHOLDER = re.compile("|".join(_VARIABLES))
_SETTINGS: dict[str, str | float | bool] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and the page's fonts apply
    "svg.hashsalt": "vit-toolkit",
    "text.parse_math": False,  # a folder's name may hold a dollar sign
    "path.simplify": False,  # every sample is drawn
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


def house_style() -> AbstractContextManager[None]:
    """For the time a figure is made and drawn; a user's own settings change nothing, and are put back afterwards."""
    return matplotlib.style.context(_SETTINGS, after_reset=True)


def inline(figure: Figure, name: str, alt: str) -> str:
    """An <svg> element. `name` makes its ids unique within the page, `alt` is read out in its place."""
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    # Its rules would apply to the whole page; the page's own CSS holds them.
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _rewritten(_local(key), value, name) for key, value in element.attrib.items()}
    for fixed in ("width", "height", "version"):
        root.attrib.pop(fixed, None)
    root.attrib |= {"role": "img", "aria-label": alt, "class": "plot"}
    return ElementTree.tostring(root, encoding="unicode")


def _rewritten(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-", 1)
    if key == "style":
        return _PLACEHOLDER.sub(lambda found: f"var({_VARIABLES[found[0]]})", value)
    return value


def _local(name: str) -> str:
    """A name without its namespace: inside HTML, svg needs none."""
    return name.rsplit("}", 1)[-1]
