from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from toolkit import recipe
from toolkit.dg.domains import read_domains
from toolkit.dg.summary import DataSummary, lines_of, summarise

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_counts_come_first_then_all_that_is_to_be_known() -> None:
    summary = DataSummary(
        domains={"ink": 1200, "a\nb": 1},
        held_out="ink",
        classes=("cat", "dog"),
        left_out={"empty": tuple("abcdefg")},
        remarks={"transparent, laid on white": 1},
        notes=("of note",),
    )
    assert lines_of(summary) == [
        r"2 domains (a\nb 1; held out: ink 1,200), 2 classes, 1,201 images",
        "7 left out, empty: a, b, c, d, e and 2 more",
        "1 image: transparent, laid on white",
        "of note",
    ]
    assert lines_of(replace(summary, domains={"b": 1}, held_out=None))[0] == "1 domain (b 1), 2 classes, 1 image"


def test_classes_that_are_never_validated_are_named(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 1, "art/b": 5, "photo/a": 5, "photo/b": 5, "sketch/a": 1, "sketch/b": 5})
    domains = read_domains(recipe.Data(path=str(root), hold_out="sketch"), 0)
    assert summarise(domains).notes == ("1 class with one image in domain art, trained on and never validated: a",)
