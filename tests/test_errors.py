"""The error tree: exit codes, and a docstring that says what is there."""

from __future__ import annotations

import re

import pytest

from toolkit import errors
from toolkit.errors import BadInput, ToolkitError, UnknownName, suggestion


def subclasses(kind: type[ToolkitError]) -> list[type[ToolkitError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]


def tree_of(kind: type[ToolkitError], depth: int = 0) -> list[tuple[int, str]]:
    return [(depth, kind.__name__), *(line for child in kind.__subclasses__() for line in tree_of(child, depth + 1))]


def tree_in_docstring() -> list[tuple[int, str]]:
    """(depth, name) of every line of the tree drawn in the module's docstring."""
    drawn = re.findall(r"^    ((?:│   )*(?:[├└]── )?)([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    return [(len(lead) // 4, name) for lead, name in drawn]


def test_docstring_draws_the_tree_that_is_there() -> None:
    assert tree_in_docstring() == tree_of(ToolkitError)


def test_docstring_gives_the_exit_codes_that_are_there() -> None:
    drawn = re.findall(r"── (\w+) +(\d)  ", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {
        kind.__name__: kind.exit_code for kind in ToolkitError.__subclasses__()
    }


@pytest.mark.parametrize("kind", subclasses(BadInput), ids=lambda kind: kind.__name__)
def test_bad_input_of_every_kind_exits_with_2(kind: type[ToolkitError]) -> None:
    assert kind.exit_code == 2


def test_no_two_outcomes_share_an_exit_code() -> None:
    codes = [kind.exit_code for kind in ToolkitError.__subclasses__()]
    assert sorted(codes) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", subclasses(ToolkitError), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is_for(kind: type[ToolkitError]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != (kind.__base__.__doc__ if kind.__base__ else None)


def test_text_is_message_then_hint() -> None:
    assert str(ToolkitError("it broke", "mend it")) == "it broke\nmend it"
    assert str(ToolkitError("it broke")) == "it broke"


def test_unknown_name_suggests_the_closest() -> None:
    error = UnknownName("criterion", "tailor", ["taylor", "random"])
    assert (error.message, error.hint) == ("unknown criterion 'tailor'", "did you mean taylor?")
    assert error.known == ["random", "taylor"]


def test_suggestion_lists_what_there_is_when_nothing_is_close() -> None:
    assert suggestion("zzz", ["taylor", "random"]) == "known: taylor, random"
    assert suggestion("zzz", ["a1", "b2", "c3"], shown=2) == "known: a1, b2, ..."
    assert suggestion("zzz", []) == ""


def test_suggestion_offers_every_close_name() -> None:
    assert suggestion("magnitude-l", ["magnitude-l1", "magnitude-l2", "random"]) == (
        "did you mean magnitude-l2 or magnitude-l1?"
    )
