"""Results as a Markdown page: requirements first, then all measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from toolkit.bench.gpu.attention import fastest_sdpa
from toolkit.bench.gpu.names import BACKENDS, BUCKETS, DENSE, MODELS, MODES, OURS, PRUNED, TIMM
from toolkit.bench.statistics import ratio_of_medians

Result = Mapping[str, Any]
MIN_SPEEDUP_OVER_SDPA = 1.2
MIN_SPEEDUP_OVER_PADDING = 1.5
MIN_SPEEDUP_LONG_SEQUENCE = 0.9
MIN_BANDWIDTH_FRACTION = 0.5
MIN_SPEEDUP_PER_MACS_RATIO = 0.9
BATCH = 128
"""Batch size the requirements refer to."""


@dataclass(frozen=True)
class Requirement:
    """An acceptance limit and the measurement that it applies to."""

    quantity: str
    limit: str
    measured: str
    passed: bool | None
    """None: not run."""


def requirements(results: Mapping[str, Any]) -> list[Requirement]:
    """All requirements, whether they were run or not."""
    return [*_correctness(results.get("checks")), *_kernels(results), *_models(results.get("models", ()))]


def _correctness(checks: Result | None) -> Iterator[Requirement]:
    quantity, limit = "error relative to float64, and bitwise reproducibility", "below 5e-3 in bfloat16, in every test"
    if checks is None:
        yield Requirement(quantity, limit, "not run", None)
        yield Requirement("compute-sanitizer", "no finding", "not run", None)
        return
    tests = checks["tests"]
    passed, failed = tests.get("passed", 0), tests.get("failed", 0)
    yield Requirement(quantity, limit, f"{passed} passed, {failed} failed", tests["code"] == 0 and passed > 0)
    for tool, result in checks["sanitizer"].items():
        quantity = f"compute-sanitizer {tool}"
        if "not_run" in result:
            yield Requirement(quantity, "no finding", f"not run: {result['not_run'][:80]}", None)
        else:
            yield Requirement(quantity, "no finding", f"{result['findings']} findings", result["findings"] == 0)


def _kernels(results: Mapping[str, Any]) -> Iterator[Requirement]:
    measurements = results.get("kernels", ())
    for name, tokens, heads, baseline, minimum in (
        ("dense", 197, 12, "PyTorch's fastest SDPA backend", MIN_SPEEDUP_OVER_SDPA),
        ("uneven", 197, 8, "padding to the widest head and the fastest SDPA backend", MIN_SPEEDUP_OVER_PADDING),
        ("dense 577", 577, 12, "PyTorch's fastest SDPA backend", MIN_SPEEDUP_LONG_SEQUENCE),
    ):
        quantity = f"{heads} {name} heads, {tokens} tokens, batch {BATCH}: speed-up over {baseline}"
        limit = f"at least {minimum}"
        result = _find_case(measurements, name, tokens, heads)
        if unavailable := _unavailable(quantity, limit, result):
            yield unavailable
            continue
        assert result is not None
        backend, times = fastest_sdpa(result)
        ratio = ratio_of_medians(times, result["us"][OURS])
        measured = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], {backend}"
        yield Requirement(quantity, limit, measured, ratio.value >= minimum)
    quantity = f"12 dense heads, 197 tokens, batch {BATCH}: fraction of the theoretical memory bandwidth"
    limit = f"at least {MIN_BANDWIDTH_FRACTION:.0%}"
    result = _find_case(measurements, "dense", 197, 12)
    if unavailable := _unavailable(quantity, limit, result):
        yield unavailable
        return
    assert result is not None
    fraction = _bandwidth_fraction(result, results["nominal_bandwidth"])
    yield Requirement(quantity, limit, f"{fraction:.0%}", fraction >= MIN_BANDWIDTH_FRACTION)


def _unavailable(quantity: str, limit: str, result: Result | None) -> Requirement | None:
    """The requirement with the reason why it cannot be measured, or None if it can."""
    if result is None:
        return Requirement(quantity, limit, "not run", None)
    if OURS in result["errors"]:
        return Requirement(quantity, limit, result["errors"][OURS], passed=False)
    if result["headwise_backend"] != "triton":
        return Requirement(quantity, limit, f"fell back to SDPA buckets: {result['reason']}", passed=False)
    if not set(BACKENDS) & result["us"].keys():
        return Requirement(quantity, limit, "no SDPA backend supports this case", None)
    return None


def _find_case(measurements: Sequence[Result], name: str, tokens: int, heads: int) -> Result | None:
    """Result of the case that a requirement refers to: inference in bfloat16 at `BATCH`."""
    for result in measurements:
        case = result["case"]
        key = (case["name"], case["tokens"], len(case["heads"]), case["batch"], case["dtype"])
        if key == (name, tokens, heads, BATCH, "bfloat16"):
            return result
    return None


def _bandwidth_fraction(result: Result, bandwidth: float) -> float:
    return float(result["bytes_moved"] / bandwidth / (median(result["us"][OURS]) * 1e-6))


def _models(measurements: Sequence[Result]) -> Iterator[Requirement]:
    limit = f"at least {MIN_SPEEDUP_PER_MACS_RATIO}"
    by_mode = {(result["model"], result["mode"]): result for result in measurements if result["batch"] == BATCH}
    for name, mode in product(MODELS, MODES):
        quantity = f"{name}, {mode}, batch {BATCH}: speed-up of the pruned model over its MACs ratio"
        result = by_mode.get((name, mode))
        if result is None:
            yield Requirement(quantity, limit, "not run", None)
        elif error := next((result["errors"][kind] for kind in (DENSE, PRUNED) if kind in result["errors"]), ""):
            yield Requirement(quantity, limit, error, passed=False)
        else:
            macs_ratio = result["macs"][DENSE] / result["macs"][PRUNED]
            speedup = ratio_of_medians(result["us"][DENSE], result["us"][PRUNED]).value
            measured = f"{speedup / macs_ratio:.2f} ({speedup:.2f}x faster, {macs_ratio:.2f}x fewer MACs)"
            yield Requirement(quantity, limit, measured, speedup / macs_ratio >= MIN_SPEEDUP_PER_MACS_RATIO)


def markdown(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    lines = [*_head(results), *_requirement_table(results), *_kernel_table(results), *_model_table(results)]
    return "\n".join(lines) + "\n"


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield f"# {machine['gpu']}"
    yield ""
    yield ", ".join(
        f"{name} {machine[name]}" for name in ("driver", "torch", "triton", "timm", "cuda", "python", "commit")
    )
    yield ""
    for part, samples in results.get("watched", {}).items():
        if samples:
            clocks = [sample["clocks.sm"] for sample in samples]
            hottest = max(sample["temperature.gpu"] for sample in samples)
            yield f"- {part}: SM clock {min(clocks):.0f} to {max(clocks):.0f} MHz, up to {hottest:.0f} degrees C"
    yield ""
    yield (
        "Kernels: CUDA graphs of many calls, interleaved, medians of 30 rounds. Memory bandwidth: "
        f"{results.get('nominal_bandwidth', 0) / 1e12:.2f} TB/s theoretical, "
        f"{results.get('copy_bandwidth', 0) / 1e12:.2f} TB/s in a copy."
    )
    yield ""


def _requirement_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| requirement | limit | measured | result |"
    yield "|---|---|---|---|"
    words = {True: "met", False: "**not met**", None: "not run"}
    for requirement in requirements(results):
        measured = requirement.measured.replace("|", r"\|")  # may be the first line of an error
        yield f"| {requirement.quantity} | {requirement.limit} | {measured} | {words[requirement.passed]} |"
    yield ""


def _kernel_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "Time of one layer in microseconds. Heads are padded to the widest for PyTorch's SDPA backends."
    yield ""
    yield "| heads | tokens | batch | dtype | ours | buckets | flash | cudnn | efficient | math | bandwidth |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for result in results.get("kernels", ()):
        case = result["case"]
        times = [
            f"{median(result['us'][name]):.1f}" if name in result["us"] else "-" for name in (OURS, BUCKETS, *BACKENDS)
        ]
        memory_bound = not case["training"] and case["batch"] > 1
        applies = result["headwise_backend"] == "triton" and OURS in result["us"] and memory_bound
        fraction = f"{_bandwidth_fraction(result, results['nominal_bandwidth']):.0%}" if applies else "-"
        heads = f"{len(case['heads'])}, {case['name']}"
        yield f"| {heads} | {case['tokens']} | {case['batch']} | {case['dtype']} | {' | '.join(times)} | {fraction} |"
    yield ""
    yield from (
        f"- {name}, {result['case']['name']}, {result['case']['tokens']} tokens: `{error}`"
        for result in results.get("kernels", ())
        for name, error in result["errors"].items()
    )
    yield ""


def _model_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "Time of one forward pass in milliseconds, bfloat16. timm uses the SDPA backend that PyTorch selects."
    yield ""
    yield "| model | batch | mode | timm | dense | pruned | speed-up, dense to pruned | MACs ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results.get("models", ()):
        us = {kind: median(times) for kind, times in result["us"].items()}
        times = [f"{us[kind] / 1e3:.2f}" if kind in us else "-" for kind in (TIMM, DENSE, PRUNED)]
        speedup = f"{us[DENSE] / us[PRUNED]:.2f}" if {DENSE, PRUNED} <= us.keys() else "-"
        macs_ratio = result["macs"][DENSE] / result["macs"][PRUNED]
        key = f"{result['model']} | {result['batch']} | {result['mode']}"
        yield f"| {key} | {' | '.join(times)} | {speedup} | {macs_ratio:.2f} |"
    yield ""
