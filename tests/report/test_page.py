from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from toolkit.records import ParityReport
from toolkit.report.contents import Page
from toolkit.report.page import render

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Text and attributes of a page; fails on unclosed elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data.replace("\u00a0", " ").strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_page_shows_all_results(page: Page) -> None:
    text = Outline(render(page)).text
    for expected in (
        "1.90\u00d7 faster [1.85, 1.95] at batch 8, 50.0 % of the MACs, sketch accuracy 71.0 % \u2192 70.2 %",
        "Export parity: pass.",
        "runs/default \u00b7 deit_tiny_patch16_224",
        "Parameters 5.53 M 2.70 M",
        "onnx-fp32 vs slim 100.0 % 0.0 pp",
        "slim 3 31.6 ms 40.4 ms 253 images/s VALID",
        "170: photo 80, sketch 90 (never trained on)",
        "1 empty",
        "hessian",
        "50.0 % of the MACs left (macs=0.5)",
        "giraffe & co",
        "Example CPU 3000",
        "budget: macs=0.5",
        "a" * 64,
    ):
        assert expected in text
    assert "not run" not in text


def test_what_pruning_left_is_a_picture_with_a_caption(page: Page) -> None:
    html = render(page)
    section = html.split("<h2>Model, block by block</h2>")[1].split("<table")[0]
    assert "<h3>What pruning left</h3>" in section
    assert 'id="plan-cell-0-0"' in section
    text = Outline(html).text
    assert "Block 0: heads 2/3, query/key 96/192, value 112/192, MLP 392/768, tokens 101, MACs 50.0 %" in text


def test_stages_that_have_not_run_are_listed(bare: Page) -> None:
    text = Outline(render(bare)).text
    for stage in (
        "Accuracy per domain",
        "Latency of every call",
        "What pruning left",
        "Parity",
        "Bench",
        "Reading images",
        "Pruning",
    ):
        assert f"{stage}: not run." in text
    assert text.count("Training: not run.") == 2
    assert "Export: not run." in text
    assert "Export parity: not run." in text


def test_an_invalid_measurement_is_marked(page: Page) -> None:
    rows = tuple(replace(row, reasons=("CPU throttled <",)) for row in page.latency)
    text = Outline(render(replace(page, latency=rows))).text
    assert "INVALID measurement. batch 8, onnxruntime on local, 2 threads: CPU throttled <" in text
    assert " VALID" not in text


def test_the_page_loads_no_external_resources(page: Page) -> None:
    html = render(page)
    outline = Outline(html)
    tags = {tag for tag, _, _ in outline.attributes}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "<script" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    loaded = [value for _, name, value in outline.attributes if name in ("src", "href", "srcset", "data")]
    assert all(value.startswith("#") for value in loaded)
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", html))


def test_names_are_escaped_everywhere(page: Page, parity: ParityReport) -> None:
    evil = "<b>x</b>"
    domains = (replace(parity.domains[0], domain=evil), *parity.domains[1:])
    model = replace(page.artifacts[0].model, classes=(evil, '"><script>alert(1)</script>'))
    html = render(
        replace(
            page,
            title=evil,
            recipe=f"model: {evil}",
            parity=replace(parity, domains=domains, sides={**parity.sides, evil: "0"}),
            artifacts=(replace(page.artifacts[0], file=evil, model=model),),
        )
    )
    assert evil not in html
    assert "<script" not in html
    assert html.count("&lt;b&gt;x&lt;/b&gt;") >= 8
    assert evil in Outline(html).text


def test_a_name_with_surrogates_is_rendered(page: Page, parity: ParityReport) -> None:
    domains = (replace(parity.domains[0], domain="b\udcffd\x00"),)
    html = render(replace(page, recipe="x: \udcff", parity=replace(parity, domains=domains)))
    assert r"b\udcffd\x00" in html
    assert html.encode()


def test_rendering_is_deterministic(page: Page) -> None:
    assert render(page) == render(page)


def test_every_domain_has_its_verdict(page: Page, parity: ParityReport) -> None:
    first = parity.domains[0]
    failed = replace(first, comparisons=(replace(first.comparisons[1], verdict="fail"),))
    html = render(replace(page, parity=replace(parity, domains=(failed, *parity.domains[1:]), verdict="fail")))
    assert html.count('<b class="tone fail">fail</b>') == 1
    assert html.count('<b class="tone pass">pass</b>') == 2
    assert "Export parity: fail." in html


def test_a_domain_without_comparisons_shows_not_run(page: Page, parity: ParityReport) -> None:
    alone = replace(parity.domains[0], accuracy={"dense": 0.9}, comparisons=())
    text = Outline(render(replace(page, parity=replace(parity, domains=(alone,))))).text
    assert "photo 200 90.0 % not run not run not run" in text


def test_heading_levels_are_not_skipped(page: Page) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", render(page))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(bare: Page, contrast: Callable[[str, str], float], theme: int) -> None:
    colours = dict(
        re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", render(bare).split(":root {")[1 + theme].split("}")[0])
    )
    texts = ("ink", "muted", "pass", "fail", "undecided", "not-run")
    assert all(contrast(colours[name], colours[ground]) >= 4.5 for name in texts for ground in ("paper", "raised"))
    assert all(contrast(colours[f"series-{number}"], colours["paper"]) >= 3 for number in range(1, 6))
    assert contrast(colours["ink"], colours["kept"]) >= 4.5
