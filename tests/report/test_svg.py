from __future__ import annotations

import re

from matplotlib.figure import Figure

from toolkit.report import svg


def drawing(name: str) -> str:
    with svg.plot_style():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2], [1, 2], marker="o", color=svg.SERIES[2])
        axes.set_title("a < b & $c$")
        return svg.inline(figure, name, 'a "quoted" <alt>')


def test_two_drawings_have_distinct_ids() -> None:
    one, other = (set(re.findall(r' id="([^"]+)"', drawing(name))) for name in ("one", "other"))
    assert one
    assert not one & other


def test_references_stay_within_their_drawing() -> None:
    text = drawing("one")
    used = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert used
    assert set(used) <= set(re.findall(r' id="([^"]+)"', text))


def test_a_drawing_does_not_affect_the_page() -> None:
    text = drawing("one")
    assert text.startswith("<svg ")
    for foreign in ("<style", "<metadata", "xmlns", "<?xml", "<!DOCTYPE", " width=", "http"):
        assert foreign not in text.split("<defs", 1)[0]
    assert "<style" not in text
    assert "http" not in text


def test_colours_are_css_variables_and_text_stays_text() -> None:
    text = drawing("one")
    assert "var(--series-3)" in text
    assert svg.SERIES[2] not in text
    assert "a &lt; b &amp; $c$</text>" in text
    assert 'aria-label="a &quot;quoted&quot; &lt;alt&gt;"' in text
