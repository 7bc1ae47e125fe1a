"""Comparisons that cannot be made: nothing is written, and the message says what to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]
COMPARE = ("prune", "--compare")


@pytest.mark.each_choice
@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((*COMPARE, "method"), "--compare 'method' does not have the form KEY=VALUE,VALUE", "method=grouped,oneshot"),
        ((*COMPARE, "method="), "--compare 'method=' names no values", "for example --compare"),
        ((*COMPARE, "method=grouped,grouped"), "--compare method has the value 'grouped' twice", "keep one"),
        ((*COMPARE, "metod=grouped,oneshot"), "unknown setting of prune 'metod'", "did you mean method?"),
        ((*COMPARE, "optin.taau=true,false"), "unknown setting of prune 'optin.taau'", "did you mean optin.tau"),
        ((*COMPARE, "method=grouped,onshot"), "unknown method 'onshot'", "did you mean oneshot?"),
        ((*COMPARE, "scope=local,globl"), "unknown scope 'globl'", "did you mean global"),
        ((*COMPARE, "basis=none,svdd"), "unknown basis 'svdd'", "did you mean svd?"),
        ((*COMPARE, "budget=macs=0.5,mac=0.4"), "unknown budget 'mac' in prune.budget", "did you mean macs?"),
        ((*COMPARE, "budget=macs=0.5,macs=2"), "prune.budget 'macs=2' needs a fraction between 0 and 1", "macs=0.5"),
        ((*COMPARE, "ratio=0.5,2"), "--compare ratio: prune.ratio = 2: it should be less than 1", ""),
        ((*COMPARE, "ratio=0.3,0.5", "--budget", "macs=0.5"), "are mutually exclusive", "keep one of them"),
        (
            (*COMPARE, "method=grouped,optin", "--method", "oneshot"),
            "prune.method is set by --method and by",
            "leave one",
        ),
        ((*COMPARE, "method=grouped", *COMPARE[1:], "method=optin"), "--compare method is given twice", "at once"),
        ((*COMPARE, "optin.tau=true,false"), "all 2 variants are the same: optin.tau has no effect", "--method optin"),
        ((*COMPARE, "at-batch=1,8"), "all 2 variants are the same: at_batch has no effect", "a latency budget"),
        ((*COMPARE, "scope=local,global", "--criterion", "tylor"), "unknown criterion 'tylor'", "did you mean taylor?"),
        (
            (*COMPARE, "method=grouped,oneshot", "--set", "bench.runtime=onnxruntim"),
            "unknown runtime 'onnxruntim'",
            "did you mean onnxruntime?, or leave latencies out: --no-latency",
        ),
        (
            (*COMPARE, "scope=local,global", "--set", "export.batch_size=4"),
            "bench.batch_size is 1, but files are exported for batch size 4",
            "--set bench.batch_size=4, or leave latencies out: --no-latency",
        ),
        (
            (*COMPARE, "budget=latency=0.5,latency=4ms"),
            "all 2 variants failed: budget-latency=0.5: prune.method 'grouped' cannot prune to a budget of latency",
            "--method oneshot",
        ),
        ((*COMPARE, "method=oneshot"), "oneshot prunes qk, v, mlp, not head", "--axes qk,v,mlp"),
        (("prune", "--no-latency"), "--no-latency is for comparisons", "--compare method=grouped,oneshot"),
        (("prune", "--allow-invalid"), "--allow-invalid is for comparisons", "--compare method=grouped,oneshot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("run", ["runs/default", "runs/new"])
def test_bad_comparison(  # noqa: PLR0913
    same_here: Path,
    command: Command,
    unchanged: Unchanged,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
    hint: str,
    run: str,
) -> None:
    monkeypatch.chdir(same_here)
    with unchanged(same_here):
        ended = command(*words, "--recipe", "toolkit.yaml", "--run", run)
    assert message in in_our_words(ended)
    assert hint in ended.err
    assert not list(Path("runs").glob("new"))


@pytest.mark.usefixtures("here")
def test_a_budget_that_no_variant_meets(command: Command, in_our_words: Callable[[Any], str]) -> None:
    """Before training, and with a trained model: the message of the error, once if it is the same for all."""
    words = (*COMPARE, "criterion=magnitude-l1,lamp", "--budget", "macs=0.01", "--no-latency")
    early = command(*words, "--run", "runs/new", "--recipe", "toolkit.yaml")
    assert early.made == []
    late = command(*words)
    assert late.made == ["compared/criterion-magnitude-l1", "compared/criterion-lamp"]
    for ended in (early, late):
        error = in_our_words(ended)
        assert error.startswith("error: macs=0.01 cannot be achieved: the closest achievable budget is macs=")
        assert "--round-to" in ended.err
    assert not Path("runs/new").exists()
    assert not [*Path("runs/default/compared").glob("[!.]*")]


@pytest.mark.usefixtures("here")
def test_flags_of_a_comparison_that_ends_with_bad_input_are_not_remembered(command: Command) -> None:
    flags = Path("runs/default/flags.yaml")
    before = flags.read_text()
    assert command(*COMPARE, "scope=local,global", "--budget", "macs=0.01").code == 2
    assert flags.read_text() == before


@pytest.mark.parametrize("name", ["train", "run", "finetune", "bench"])
def test_only_prune_compares(command: Command, name: str) -> None:
    ended = command(name, "--compare", "method=grouped,oneshot")
    assert ended.code == 2
    assert "No such option" in ended.err
