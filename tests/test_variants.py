"""What `--compare KEY=VALUE,VALUE` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from toolkit import resolve
from toolkit.errors import RecipeError, UnknownName
from toolkit.resolve import Flags, Resolved
from toolkit.variants import Variant, name_of, variants_of


def compared(*words: str, flags: Flags | None = None) -> Sequence[Variant]:
    """The variants of a command with these words and flags, in a folder without a recipe."""
    given, written = flags or {}, {name: f"--{name.rpartition('.')[2]}" for name in flags or {}}

    def resolved(more: Flags, origins: Mapping[str, str]) -> Resolved:
        return resolve.resolve(None, None, {**given, **more}, {**written, **origins})

    return variants_of(words, written, resolved)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


def test_one_setting() -> None:
    grouped, oneshot = compared("method=grouped,oneshot", flags={"prune.budget": "macs=0.6"})
    assert [grouped.name, oneshot.name] == ["method-grouped", "method-oneshot"]
    assert oneshot.settings == {"method": "oneshot"}
    assert (grouped.prune.method, grouped.prune.budget) == ("grouped", "macs=0.6")
    assert (oneshot.prune.method, oneshot.prune.budget) == ("oneshot", "macs=0.6")
    assert oneshot.prune.axes == ("qk", "v", "mlp"), "the defaults that the method brings"
    assert grouped.prune.axes == ("head", "mlp")


def test_several_settings_are_combined() -> None:
    found = compared("scope=local,global", "steps=1,2,3")
    assert [variant.name for variant in found] == [
        "scope-local,steps-1", "scope-local,steps-2", "scope-local,steps-3",
        "scope-global,steps-1", "scope-global,steps-2", "scope-global,steps-3",
    ]  # fmt: skip
    assert [(each.prune.scope, each.prune.steps) for each in found[2:4]] == [("local", 3), ("global", 1)]


def test_a_budget_in_a_value() -> None:
    found = compared("budget=macs=0.6,params=0.5")
    assert [variant.prune.budget for variant in found] == ["macs=0.6", "params=0.5"]
    assert [variant.name for variant in found] == ["budget-macs=0.6", "budget-params=0.5"]
    (ratio,) = compared("ratio=0.25")
    assert (ratio.prune.ratio, ratio.prune.budget) == (0.25, None), "the recipe's budget is reset"


def test_settings_of_plugins_and_lists() -> None:
    first, second = compared("optin.tau=true,false", "axes=head+mlp", flags={"prune.method": "optin"})
    assert [getattr(each.prune.own("optin"), "tau", None) for each in (first, second)] == [True, False]
    assert first.prune.axes == ("head", "mlp")
    assert first.name == "optin.tau-true,axes-head+mlp"


@pytest.mark.parametrize("written", ["round_to=4,8", "round-to=4,8", "prune.round_to=4,8"])
def test_a_setting_is_written_as_in_the_recipe_or_as_a_flag(written: str) -> None:
    found = compared(written)
    assert [variant.prune.round_to for variant in found] == [4, 8]
    assert [variant.name for variant in found] == ["round_to-4", "round_to-8"]


def test_names_are_names_of_folders_and_differ() -> None:
    odd = [name_of({"basis": text}) for text in ("a/b", "a b", "a-b", "../x", "\x1b", "é", "x" * 500, "x" * 501)]
    assert len({*odd}) == len(odd)
    assert all(name.isascii() and "/" not in name and len(name) < 120 and name.startswith("basis-") for name in odd)
    assert odd[2] == "basis-a-b"
    assert name_of({"basis": "a/b"}) == odd[0]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["method"], "--compare 'method' does not have the form KEY=VALUE,VALUE", "method=grouped,oneshot"),
        (["=grouped"], "--compare '=grouped' does not have the form KEY=VALUE,VALUE", "for example"),
        (["method="], "--compare 'method=' names no values", "for example"),
        (["method= , "], "names no values", "for example"),
        (["method=grouped,,optin"], "--compare 'method=grouped,,optin' has an empty value", "method=grouped,optin"),
        (["ratio=0.5,0.50"], "--compare ratio has the value '0.50' twice", "keep one"),
        (["axes=head+mlp,mlp,head+mlp"], "--compare axes has the value 'head+mlp' twice", "keep one"),
        (["method=optin", "method=grouped"], "--compare method is given twice", "at once"),
        (["round-to=4", "round_to=8"], "--compare round_to is given twice", "at once"),
        (["criterion=[,lamp"], "the value '[' of --compare criterion: invalid YAML: an unclosed bracket", "close it"),
        (["steps=1,two"], "--compare steps: prune.steps = 'two': it should be a whole number", ""),
        (["axes=head+tail"], "--compare axes: prune.axes.1 = 'tail'", ""),
        (["optin.tau=1.5,true"], "--compare optin.tau: prune.optin.tau = 1.5: it should be true or false", ""),
        (
            ["ratio=0.5", "budget=macs=0.5"],
            "(--compare ratio) and prune.budget = 'macs=0.5' (--compare budget)",
            "keep",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_compared(words: list[str], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as found:
        compared(*words)
    assert message in found.value.message
    assert hint in found.value.hint


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("metod", "did you mean method?"),
        ("optin.taau", "did you mean optin.tau"),
        ("optn.tau", "did you mean optin.tau"),
        ("train.epochs", "known: aggregate, at_batch, axes, basis"),
        ("seed", "known: aggregate, at_batch"),
        ("oneshot", "known: aggregate, at_batch"),
        ("prune.", "did you mean"),
    ],
)
def test_a_setting_that_prune_does_not_have(key: str, hint: str) -> None:
    with pytest.raises(UnknownName) as found:
        compared(f"{key}=1,2")
    assert found.value.message == f"unknown setting of prune {key!r}"
    assert hint in found.value.hint


def test_a_setting_that_another_flag_sets() -> None:
    with pytest.raises(RecipeError, match=r"prune\.method is set by --method and by --compare method"):
        compared("method=grouped,optin", flags={"prune.method": "oneshot"})
    with pytest.raises(
        RecipeError, match=r"prune\.ratio = 0.3 \(--compare ratio\) and prune\.budget = 'macs=0.5' \(--bu"
    ):
        compared("ratio=0.3,0.5", flags={"prune.budget": "macs=0.5"})


def test_values_that_choose_different_methods() -> None:
    model = {"model.name": "deit_tiny_patch16_224"}
    with pytest.raises(
        RecipeError, match="values of --compare axes choose different methods: grouped, oneshot"
    ) as told:
        compared("axes=head+mlp,mlp", flags=model)
    assert told.value.hint == "--method grouped"
    methods = [
        variant.prune.method for variant in compared("axes=head+mlp,mlp", flags={**model, "prune.scope": "local"})
    ]
    assert methods == ["grouped", "grouped"]
    assert {variant.prune.method for variant in compared("method=grouped,oneshot", flags=model)} == {
        "grouped",
        "oneshot",
    }
