"""Results as a page of Markdown: what was asked for and what was measured, then all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from toolkit.bench.gpu.attention import best_of_pytorch
from toolkit.bench.gpu.names import BACKENDS, BUCKETS, DENSE, MODELS, MODES, OURS, PRUNED, TIMM
from toolkit.bench.statistics import ratio_of_medians

Result = Mapping[str, Any]
FASTER_THAN_PYTORCH = 1.2
FASTER_THAN_PADDING = 1.5
OF_THE_FLOOR = 0.5
ONLINE_AGAINST_PYTORCH = 0.9
OF_THE_MACS_RATIO = 0.9
BATCH = 128
"""What is asked for is asked for at this batch."""


@dataclass(frozen=True)
class Verdict:
    """One thing that was asked for."""

    what: str
    asked: str
    measured: str
    met: bool | None
    """None: not run."""


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Everything that is asked for, whether it was run or not."""
    return [*_right(results.get("checks")), *_kernels(results), *_models(results.get("models", ()))]


def _right(checks: Result | None) -> Iterator[Verdict]:
    what, asked = "error relative to float64, and the same bits twice", "below 5e-3 in bfloat16, in every test"
    if checks is None:
        yield Verdict(what, asked, "not run", None)
        yield Verdict("compute-sanitizer", "no finding", "not run", None)
        return
    tests = checks["tests"]
    passed, failed = tests.get("passed", 0), tests.get("failed", 0)
    yield Verdict(what, asked, f"{passed} passed, {failed} failed", tests["code"] == 0 and passed > 0)
    for tool, found in checks["sanitizer"].items():
        if "not_run" in found:
            yield Verdict(f"compute-sanitizer {tool}", "no finding", f"not run: {found['not_run'][:80]}", None)
        else:
            yield Verdict(
                f"compute-sanitizer {tool}", "no finding", f"{found['findings']} findings", found["findings"] == 0
            )


def _kernels(results: Mapping[str, Any]) -> Iterator[Verdict]:
    every = results.get("kernels", ())
    for name, tokens, heads, against, wanted in (
        ("dense", 197, 12, "the best of PyTorch's backends", FASTER_THAN_PYTORCH),
        ("uneven", 197, 8, "padding to the widest head and the best backend", FASTER_THAN_PADDING),
        ("dense 577", 577, 12, "the best of PyTorch's backends", ONLINE_AGAINST_PYTORCH),
    ):
        what = f"{heads} {name} heads, {tokens} tokens, batch {BATCH}: times faster than {against}"
        result = _case(every, name, tokens, heads)
        if fault := _fault(what, f"at least {wanted}", result):
            yield fault
            continue
        assert result is not None
        best, theirs = best_of_pytorch(result)
        ratio = ratio_of_medians(theirs, result["us"][OURS])
        shown = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], {best}"
        yield Verdict(what, f"at least {wanted}", shown, ratio.value >= wanted)
    what = f"12 dense heads, 197 tokens, batch {BATCH}: part of the memory's nominal bandwidth"
    result = _case(every, "dense", 197, 12)
    if fault := _fault(what, f"at least {OF_THE_FLOOR:.0%}", result):
        yield fault
        return
    assert result is not None
    part = _part_of_floor(result, results["nominal_bandwidth"])
    yield Verdict(what, f"at least {OF_THE_FLOOR:.0%}", f"{part:.0%}", part >= OF_THE_FLOOR)


def _fault(what: str, asked: str, result: Result | None) -> Verdict | None:
    """Why nothing can be said of a case; None if something can."""
    if result is None:
        return Verdict(what, asked, "not run", None)
    if OURS in result["errors"]:
        return Verdict(what, asked, result["errors"][OURS], met=False)
    if result["headwise_backend"] != "triton":
        return Verdict(what, asked, f"fell back to SDPA buckets: {result['reason']}", met=False)
    if not set(BACKENDS) & result["us"].keys():
        return Verdict(what, asked, "no backend of PyTorch's takes this", None)
    return None


def _case(every: Sequence[Result], name: str, tokens: int, heads: int) -> Result | None:
    """The one of that name that is asked for: inference in bfloat16."""
    for result in every:
        case = result["case"]
        found = (case["name"], case["tokens"], len(case["heads"]), case["batch"], case["dtype"])
        if found == (name, tokens, heads, BATCH, "bfloat16"):
            return result
    return None


def _part_of_floor(result: Result, bandwidth: float) -> float:
    return float(result["bytes_moved"] / bandwidth / (median(result["us"][OURS]) * 1e-6))


def _models(every: Sequence[Result]) -> Iterator[Verdict]:
    asked = f"at least {OF_THE_MACS_RATIO}"
    found = {(each["model"], each["mode"]): each for each in every if each["batch"] == BATCH}
    for name, mode in product(MODELS, MODES):
        what = f"{name}, {mode}, batch {BATCH}: pruned model's speed-up over its MACs ratio"
        result = found.get((name, mode))
        if result is None:
            yield Verdict(what, asked, "not run", None)
        elif fault := next((result["errors"][kind] for kind in (DENSE, PRUNED) if kind in result["errors"]), ""):
            yield Verdict(what, asked, fault, met=False)
        else:
            macs = result["macs"][DENSE] / result["macs"][PRUNED]
            faster = ratio_of_medians(result["us"][DENSE], result["us"][PRUNED]).value
            shown = f"{faster / macs:.2f} ({faster:.2f} times faster, {macs:.2f} times fewer MACs)"
            yield Verdict(what, asked, shown, faster / macs >= OF_THE_MACS_RATIO)


def page(results: Mapping[str, Any]) -> str:
    """The whole page."""
    return (
        "\n".join([*_head(results), *_verdict_table(results), *_kernel_table(results), *_model_table(results)]) + "\n"
    )


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield f"# {machine['gpu']}"
    yield ""
    yield ", ".join(
        f"{name} {machine[name]}" for name in ("driver", "torch", "triton", "timm", "cuda", "python", "commit")
    )
    yield ""
    for part, seen in results.get("watched", {}).items():
        if seen:
            clocks = [each["clocks.sm"] for each in seen]
            hottest = max(each["temperature.gpu"] for each in seen)
            yield f"- {part}: SM clock {min(clocks):.0f} to {max(clocks):.0f} MHz, up to {hottest:.0f} degrees"
    yield ""
    yield (
        "Kernels: CUDA graphs of many calls, subjects in turns, medians of 30 rounds. Bandwidth: "
        f"{results.get('nominal_bandwidth', 0) / 1e12:.2f} TB/s nominal, "
        f"{results.get('copy_bandwidth', 0) / 1e12:.2f} TB/s in a copy."
    )
    yield ""


def _verdict_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| asked for | at least | measured | |"
    yield "|---|---|---|---|"
    words = {True: "met", False: "**not met**", None: "not run"}
    for each in verdicts(results):
        measured = each.measured.replace("|", r"\|")  # it may be an error's first line
        yield f"| {each.what} | {each.asked} | {measured} | {words[each.met]} |"
    yield ""


def _kernel_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "Microseconds of a layer. PyTorch's backends get heads padded to the widest."
    yield ""
    yield "| heads | tokens | batch | type | ours | buckets | flash | cudnn | efficient | math | of the floor |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for result in results.get("kernels", ()):
        case = result["case"]
        times = [
            f"{median(result['us'][name]):.1f}" if name in result["us"] else "-" for name in (OURS, BUCKETS, *BACKENDS)
        ]
        large = not case["training"] and case["batch"] > 1
        ours = result["headwise_backend"] == "triton" and OURS in result["us"] and large
        part = f"{_part_of_floor(result, results['nominal_bandwidth']):.0%}" if ours else "-"
        heads = f"{len(case['heads'])}, {case['name']}"
        yield f"| {heads} | {case['tokens']} | {case['batch']} | {case['dtype']} | {' | '.join(times)} | {part} |"
    yield ""
    yield from (
        f"- {name}, {result['case']['name']}, {result['case']['tokens']} tokens: `{error}`"
        for result in results.get("kernels", ())
        for name, error in result["errors"].items()
    )
    yield ""


def _model_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "Milliseconds of a model, bfloat16. timm's uses the backend that PyTorch chooses."
    yield ""
    yield "| model | batch | mode | timm | dense | pruned | pruned faster than dense | fewer MACs |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results.get("models", ()):
        us = {kind: median(times) for kind, times in result["us"].items()}
        times = [f"{us[kind] / 1e3:.2f}" if kind in us else "-" for kind in (TIMM, DENSE, PRUNED)]
        faster = f"{us[DENSE] / us[PRUNED]:.2f}" if {DENSE, PRUNED} <= us.keys() else "-"
        macs = result["macs"][DENSE] / result["macs"][PRUNED]
        shown = f"{result['model']} | {result['batch']} | {result['mode']} | {' | '.join(times)}"
        yield f"| {shown} | {faster} | {macs:.2f} |"
    yield ""
