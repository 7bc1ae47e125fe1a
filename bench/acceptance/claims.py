"""Claims about results, in `claims.yaml`, and their judgement: a pure function of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from toolkit.bench.acceptance.results import Part, Results
from toolkit.bench.kernels.attention import KernelReport
from toolkit.bench.kernels.cases import HEADWISE
from toolkit.bench.statistics import ratio_of_medians
from toolkit.records import DENSE, SLIM

NOT_RUN = "not run"


class Judgement(NamedTuple):
    """Measured value of a claim, and whether the claim holds."""

    measured: str
    met: bool | None
    """None: not run."""


@dataclass(frozen=True)
class CheckClaim:
    """Claim that a check passes."""

    part: ClassVar[Part] = "checks"
    kind: Literal["check"]
    check: str
    what: str
    limit: ClassVar[str] = "passes"

    def judge(self, results: Results) -> Judgement:
        report = next((each for each in results.checks if each.name == self.check), None)
        return Judgement(report.detail, report.passed) if report else Judgement(NOT_RUN, None)


@dataclass(frozen=True)
class _KernelClaim:
    """A claim about a kernel in one case."""

    part: ClassVar[Part] = "kernels"
    case: str
    at_least: float
    what: str

    def judge(self, results: Results) -> Judgement:
        report = next((each for each in results.kernels if each.case.name == self.case), None)
        if report is None:
            return Judgement(NOT_RUN, None)
        if HEADWISE in report.failures:
            return Judgement(report.failures[HEADWISE], met=False)
        if report.backend != "triton":
            return Judgement(f"fell back to SDPA buckets: {report.reason}", met=False)
        return self.judge_case(report, results)

    def judge_case(self, report: KernelReport, results: Results) -> Judgement:
        """Judgement of this case's results, provided that the headwise kernel ran."""
        raise NotImplementedError


@dataclass(frozen=True)
class KernelSpeedUp(_KernelClaim):
    """Median time of the fastest SDPA backend divided by that of the headwise kernel."""

    kind: Literal["kernel-speed-up"]

    @property
    def limit(self) -> str:
        return f"at least {self.at_least}"

    def judge_case(self, report: KernelReport, results: Results) -> Judgement:
        backend = report.fastest_backend
        if backend is None:
            return Judgement("no SDPA backend supports this case", None)
        ratio = ratio_of_medians(report.latency_ms[backend], report.latency_ms[HEADWISE])
        return Judgement(
            f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], {backend}", ratio.value >= self.at_least
        )


@dataclass(frozen=True)
class KernelBandwidth(_KernelClaim):
    """Memory bandwidth that the headwise kernel achieves, as a fraction of the theoretical one."""

    kind: Literal["kernel-bandwidth"]

    @property
    def limit(self) -> str:
        return f"at least {self.at_least:.0%}"

    def judge_case(self, report: KernelReport, results: Results) -> Judgement:
        if results.bandwidth is None:
            return Judgement(NOT_RUN, None)
        fraction = report.bandwidth() / results.bandwidth.nominal
        return Judgement(f"{fraction:.0%}", fraction >= self.at_least)


@dataclass(frozen=True)
class ModelSpeedUp:
    """Speed-up of a pruned model over its ratio of MACs: 1 if time is proportional to work."""

    part: ClassVar[Part] = "models"
    kind: Literal["model-speed-up"]
    model: str
    mode: str
    batch_size: int
    at_least: float
    what: str

    @property
    def limit(self) -> str:
        return f"at least {self.at_least}"

    def judge(self, results: Results) -> Judgement:
        key = (self.model, self.mode, self.batch_size)
        report = next((each for each in results.models if (each.model, each.mode, each.batch_size) == key), None)
        if report is None:
            return Judgement(NOT_RUN, None)
        if report.bench is None:
            return Judgement(report.failure, met=False)
        times = {each.subject: each.latency_ms for each in report.bench.measurements}
        speed_up = ratio_of_medians(times[DENSE], times[SLIM]).value
        macs = report.macs[DENSE] / report.macs[SLIM]
        return Judgement(
            f"{speed_up / macs:.2f} ({speed_up:.2f}x faster, {macs:.2f}x fewer MACs)", speed_up / macs >= self.at_least
        )


Claim: TypeAlias = CheckClaim | KernelSpeedUp | KernelBandwidth | ModelSpeedUp


def judge(results: Results, claims: Sequence[Claim]) -> list[tuple[Claim, Judgement]]:
    """Every claim with its judgement, including claims that were not measured."""
    return [(claim, claim.judge(results)) for claim in claims]


def load_claims() -> tuple[Claim, ...]:
    """The claims in `claims.yaml`."""
    import yaml
    from pydantic import Field, TypeAdapter

    text = resources.files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    kind = TypeAdapter(tuple[Annotated[Claim, Field(discriminator="kind")], ...])
    return kind.validate_python(yaml.safe_load(text))
