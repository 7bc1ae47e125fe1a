"""Selection of parametrised cases for the default test run, and of the cases that count for coverage."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

STRENGTHS = {"each_choice": 1, "pairwise": 2}


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    products: dict[tuple[str, int], list[pytest.Function]] = {}
    for item in items:
        for name, strength in STRENGTHS.items():
            if isinstance(item, pytest.Function) and item.get_closest_marker(name):
                products.setdefault((_name(item), strength), []).append(item)
    for (_, strength), cases in products.items():
        for case in _redundant(cases, strength):
            case.add_marker("slow")
    traced = set()
    for item in items:
        if _name(item) in traced:  # further cases rarely run other lines, and tracing doubles the time of an export
            item.add_marker("no_cover")
        elif not item.get_closest_marker("slow"):
            traced.add(_name(item))


def _name(item: pytest.Item) -> str:
    """Name of the test without its parameters."""
    return item.nodeid.partition("[")[0]


def _redundant(cases: list[pytest.Function], strength: int) -> list[pytest.Function]:
    """Cases that add no combination of `strength` values to the selected ones; greedy selection, rare values first."""
    values = {case: _values(case) for case in cases}
    left = {case: set(itertools.combinations(values[case], strength)) for case in cases}
    used = Counter[str]()
    while any(left.values()):
        best = max(left, key=lambda case: (len(left[case]), -sum(used[value] for value in values[case])))
        seen = left.pop(best)
        left = {case: combinations - seen for case, combinations in left.items()}
        used.update(values[best])
    return list(left)


def _values(case: pytest.Function) -> list[str]:
    """The value of each `parametrize` marker; arguments that are parametrised together are one value."""
    names = [mark.args[0] for mark in case.iter_markers("parametrize")]
    groups = [group.replace(" ", "").split(",") if isinstance(group, str) else group for group in names]
    return [repr([(name, case.callspec.params[name]) for name in group]) for group in groups]
