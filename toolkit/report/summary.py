"""Summary shown by both the page and the terminal: headline, verdict, and the dense-to-slim table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from toolkit.characters import counted, printable
from toolkit.records import DENSE, SLIM, Comparison, DomainParity
from toolkit.report import numbers
from toolkit.report.contents import Load, Page, SpeedUp

NOT_RUN = "not run"


@dataclass(frozen=True)
class Row:
    """One row of the main table; every cell is formatted, with its unit."""

    group: str
    name: str
    before: str
    after: str
    change: str = ""
    interval: str = ""
    """95 % interval of `change`, or of `after` in a speed-up row."""
    flag: str = ""
    """Prominent mark: INVALID, or a domain that was never trained on."""
    note: str = ""
    """Explanatory note."""


@dataclass(frozen=True)
class Judgement:
    """Verdict on the exported models against slim. The cost of pruning is in the table."""

    kind: Literal["pass", "fail", "undecided", "not run"]
    text: str


def headline(page: Page) -> str:
    """The result in one sentence."""
    return ", ".join(claims(page))


def claims(page: Page) -> tuple[str, ...]:
    """The parts of the headline: speed, size, accuracy. Only valid measurements are claimed."""
    speed, *others = filter(None, (_speed_claim(page), _size_claim(page), _accuracy_claim(page)))
    return speed[:1].upper() + speed[1:], *others


def judgement(page: Page) -> Judgement:
    """The verdict of the parity report, in words."""
    if page.parity is None:
        return Judgement("not run", "Parity was not run: the accuracy of the exported model is unknown.")
    margin = numbers.margin(page.parity.margin)
    text = {
        "pass": f"In every domain the exported model loses less than {margin} of accuracy compared with slim.",
        "fail": f"In at least one domain the exported model loses more than {margin} of accuracy compared with slim.",
        "undecided": f"Too few images to tell whether the exported model loses less than {margin} in every domain.",
    }
    verdicts = [pair.verdict for domain in page.parity.domains for pair in domain.comparisons]
    if page.parity.unopened and "undecided" not in verdicts:
        names = ", ".join(map(printable, page.parity.unopened))
        text["undecided"] = f"Not every exported file could be run on this machine: the accuracy of {names} is unknown."
    if page.parity.crashed and "fail" not in verdicts:
        names = ", ".join(map(printable, page.parity.crashed))
        text["fail"] = f"Not every exported file could be run: a runtime crashed on {names}."
    return Judgement(page.parity.verdict, text[page.parity.verdict])


def invalid_measurements(page: Page) -> tuple[str, ...]:
    """One line per load with an INVALID measurement, with its reasons."""
    return tuple(
        f"{load_name(load)}: {'; '.join(page.reasons_at(load))}" for load in page.loads if page.reasons_at(load)
    )


def rows(page: Page) -> tuple[Row, ...]:
    """The main table. Stages that have not run have rows too, with "not run"."""
    return (*_sizes(page), *_speeds(page), *_accuracies(page), *_agreements(page))


def load_name(load: Load) -> str:
    """Text such as "batch 8, onnxruntime on local, 2 threads"."""
    return f"batch {load.batch_size}, {backend_name(load)}"


def backend_name(load: Load) -> str:
    """Runtime, device and threads, without the batch size."""
    return f"{load.runtime} on {load.device}, {load.threads} thread{'s' if load.threads != 1 else ''}"


def exported_sides(page: Page) -> tuple[str, ...]:
    """Sides of the parity report that are exported models."""
    return tuple(side for side in page.parity.sides if side not in (DENSE, SLIM)) if page.parity else ()


def comparison_of(domain: DomainParity, reference: str, candidate: str) -> Comparison | None:
    """Comparison of this pair in a domain; None if there is none."""
    pairs = (pair for pair in domain.comparisons if (pair.reference, pair.candidate) == (reference, candidate))
    return next(pairs, None)


def domain_name(domain: DomainParity) -> str:
    return printable(domain.domain)


def _speed_claim(page: Page) -> str:
    """Speed-up at the largest batch size with a valid measurement."""
    if not page.speedups:
        return "speed not measured"
    valid = [speedup for speedup in page.speedups if not page.reasons_at(speedup.load)]
    if not valid:
        return "speed unknown: every measurement is INVALID"
    speedup = max(valid, key=lambda candidate: candidate.load.batch_size)
    interval = numbers.times_interval(speedup.low, speedup.high)
    return f"{_faster(speedup)} {interval} at batch {speedup.load.batch_size}"


def _faster(speedup: SpeedUp) -> str:
    if speedup.low > 1:
        return f"{numbers.times(speedup.ratio)} faster"
    if speedup.high < 1:
        return f"slower, {numbers.times(speedup.ratio)} the dense model's speed"
    return f"not measurably faster, {numbers.times(speedup.ratio)}"


def _size_claim(page: Page) -> str:
    return f"{numbers.percent(page.slim.macs / page.dense.macs)} of the MACs" if page.slim else "nothing pruned yet"


def _accuracy_claim(page: Page) -> str:
    """Accuracy in the held-out domains or, without any, in the domain with the largest loss."""
    if page.parity is None:
        return "accuracy not compared"
    comparable = [domain for domain in page.parity.domains if {DENSE, SLIM} <= domain.accuracy.keys()]
    held_out = [domain for domain in comparable if domain.held_out]
    worst = sorted(comparable, key=lambda domain: domain.accuracy[SLIM] - domain.accuracy[DENSE])[:1]
    return ", ".join(
        f"{domain_name(domain)} accuracy {numbers.percent(domain.accuracy[DENSE])} \u2192 "
        f"{numbers.percent(domain.accuracy[SLIM])}"
        for domain in held_out or worst
    )


def _sizes(page: Page) -> Iterator[Row]:
    dense, slim = page.dense, page.slim
    sizes: list[tuple[str, int | None, int | None, str, str]] = [
        ("Parameters", dense.parameters, slim.parameters if slim else None, "", ""),
        ("MACs", dense.macs, slim.macs if slim else None, "", "multiply-accumulates per image"),
        ("Memory traffic", dense.bytes_moved, slim.bytes_moved if slim else None, "B", "per image, float32"),
    ]
    if page.file_bytes:
        sizes.append(("Model file", page.file_bytes.get(DENSE), page.file_bytes.get(SLIM), "B", ""))
    for name, before, after, unit, note in sizes:
        change = numbers.change(before, after) if before is not None and after is not None else ""
        cells = [NOT_RUN if size is None else numbers.scaled(size, unit) for size in (before, after)]
        yield Row("size", name, cells[0], cells[1], change, note=note)


def _speeds(page: Page) -> Iterator[Row]:
    if not page.loads:
        yield Row("speed", "Latency", NOT_RUN, NOT_RUN)
        yield Row("speed", "Speed-up", "", NOT_RUN)
    several = len({backend_name(load) for load in page.loads}) > 1
    for load in page.loads:
        dense, slim = page.latency_of(DENSE, load), page.latency_of(SLIM, load)
        speedup = page.speedup_at(load)
        name = load_name(load) if several else f"batch {load.batch_size}"
        flag = "INVALID" if page.reasons_at(load) else ""
        change = numbers.change(dense.median_ms, slim.median_ms) if dense and slim else ""
        cells = [numbers.milliseconds(row.median_ms) if row else NOT_RUN for row in (dense, slim)]
        note = f"median, {backend_name(load)}"
        yield Row("speed", f"Latency, {name}", cells[0], cells[1], change, flag=flag, note=note)
        ratio = numbers.times(speedup.ratio) if speedup else NOT_RUN
        interval = numbers.times_interval(speedup.low, speedup.high) if speedup else ""
        yield Row("speed", f"Speed-up, {name}", "", ratio, interval=interval, flag=flag)


def _accuracies(page: Page) -> Iterator[Row]:
    if page.parity is None:
        yield Row("accuracy", "Accuracy per domain", NOT_RUN, NOT_RUN)
        return
    for domain in page.parity.domains:
        before, after = (domain.accuracy.get(side) for side in (DENSE, SLIM))
        pair = comparison_of(domain, DENSE, SLIM)
        yield Row(
            "accuracy",
            f"Accuracy, {domain_name(domain)}",
            NOT_RUN if before is None else numbers.percent(before),
            NOT_RUN if after is None else numbers.percent(after),
            numbers.points(after - before) if before is not None and after is not None else "",
            numbers.points_interval(pair.low, pair.high) if pair else "",
            "never trained on" if domain.held_out else "",
            counted(len(domain.labels), "image"),
        )


def _agreement(page: Page, candidate: str) -> tuple[float, int] | None:
    """Fraction of images on which candidate and slim predict the same class, and the number of images."""
    pairs = [
        (pair.agreement, len(domain.labels))
        for domain in (page.parity.domains if page.parity else ())
        if (pair := comparison_of(domain, SLIM, candidate))
    ]
    images = sum(count for _, count in pairs)
    return (sum(agreement * count for agreement, count in pairs) / images, images) if images else None


def _agreements(page: Page) -> Iterator[Row]:
    sides = exported_sides(page)
    if not sides:
        yield Row("accuracy", "Agreement, exported with slim", "", NOT_RUN)
    for side in sides:
        agreement = _agreement(page, side)
        name = f"Agreement, {printable(side)} with slim"
        if agreement is None:
            yield Row("accuracy", name, "", NOT_RUN)
        else:
            yield Row(
                "accuracy", name, "", numbers.percent(agreement[0]), note=f"same top-1 class, {agreement[1]} images"
            )
    for side, reason in page.parity.unopened.items() if page.parity else ():
        yield Row("accuracy", f"Agreement, {printable(side)} with slim", "", NOT_RUN, note=reason)
