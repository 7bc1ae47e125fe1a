"""Results as a Markdown page: claims first, then all measurements."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from toolkit.bench.acceptance.claims import Claim, judge
from toolkit.bench.acceptance.results import ModelReport, Results
from toolkit.bench.kernels.attention import BACKENDS, BUCKETS, KernelReport
from toolkit.bench.kernels.cases import HEADWISE
from toolkit.records import DENSE, SLIM, GpuState

FILE = "README.md"
PROVIDERS = (HEADWISE, BUCKETS, *BACKENDS)
MET = {True: "met", False: "**not met**", None: "not run"}


def render(results: Results, claims: Sequence[Claim]) -> str:
    """The page as Markdown."""
    environment = Environment(
        loader=PackageLoader("toolkit", "bench/acceptance"),
        autoescape=False,  # the output is Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: text.replace("|", r"\|")  # error messages may contain "|"
    states = {
        "kernels": [each.gpu for each in results.kernels],
        "models": [one.telemetry.gpu for each in results.models if each.bench for one in each.bench.measurements],
    }
    return environment.get_template("page.md.j2").render(
        results=results,
        claims=[(claim, judgement, MET[judgement.met]) for claim, judgement in judge(results, claims)],
        states={part: text for part, gpu in states.items() if (text := _clocks([each for each in gpu if each]))},
        providers=PROVIDERS,
        kernels=[(each, _kernel_cells(each, results)) for each in results.kernels],
        models=[(each, _model_cells(each)) for each in results.models],
    )


def _clocks(states: Sequence[GpuState]) -> str:
    """Range of the SM clock and highest temperature; empty if unknown."""
    clocks = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    hottest = max((state.temperature_c for state in states if state.temperature_c is not None), default=None)
    if not clocks:
        return ""
    heat = "" if hottest is None else f", up to {hottest:.0f} degrees C"
    return f"SM clock {min(clocks):.0f} to {max(clocks):.0f} MHz{heat}"


def _kernel_cells(report: KernelReport, results: Results) -> list[str]:
    """Median of each provider in microseconds, and the fraction of the memory bandwidth."""
    times = [f"{1e3 * median(report.latency_ms[name]):.1f}" if name in report.latency_ms else "-" for name in PROVIDERS]
    memory_bound = not report.case.training and report.case.batch_size > 1
    applies = report.backend == "triton" and HEADWISE in report.latency_ms and memory_bound
    fraction = f"{report.bandwidth() / results.bandwidth.nominal:.0%}" if applies and results.bandwidth else "-"
    return [*times, fraction]


def _model_cells(report: ModelReport) -> list[str]:
    """Median of dense and slim in milliseconds, the speed-up, and the ratio of MACs."""
    ratio = f"{report.macs[DENSE] / report.macs[SLIM]:.2f}"
    if report.bench is None:
        return ["-", "-", "-", ratio]
    times = {each.subject: median(each.latency_ms) for each in report.bench.measurements}
    return [f"{times[DENSE]:.2f}", f"{times[SLIM]:.2f}", f"{times[DENSE] / times[SLIM]:.2f}", ratio]
