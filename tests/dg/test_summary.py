from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from toolkit import recipe
from toolkit.dg.domains import read_domains
from toolkit.dg.summary import DataSummary, lines_of, summarise

MakeFolder = Callable[[Mapping[str, int]], Path]


def test_the_summary_lists_counts_files_left_out_conversions_and_notes() -> None:
    summary = DataSummary(
        domains={"ink": 1200, "a\nb": 1},
        held_out="ink",
        classes=("cat", "dog"),
        left_out={"empty": tuple("abcdefg")},
        remarks={"transparent, composited on white": 1},
        notes=("a note",),
    )
    assert lines_of(summary) == [
        r"2 domains (a\nb 1; held out: ink 1,200), 2 classes, 1,201 images",
        "7 left out, empty: a, b, c, d, e and 2 more",
        "1 image: transparent, composited on white",
        "a note",
    ]
    assert lines_of(replace(summary, domains={"b": 1}, held_out=None))[0] == "1 domain (b 1), 2 classes, 1 image"


def test_classes_without_validation_images_are_named(make_folder: MakeFolder) -> None:
    root = make_folder({"art/a": 1, "art/b": 5, "photo/a": 5, "photo/b": 5, "sketch/a": 1, "sketch/b": 5})
    domains = read_domains(recipe.Data(path=str(root), hold_out="sketch"), 0)
    assert summarise(domains).notes == (
        "1 class with a single image in domain art, used for training and not validated: a",
    )
