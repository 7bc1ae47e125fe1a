from __future__ import annotations

import pytest

from toolkit.report import numbers


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-").replace("\u00d7", "x")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (192, "", "192"),
        (999, "B", "999 B"),
        (999.6, "B", "1.00 kB"),
        (5_526_346, "", "5.53 M"),
        (999_600, "", "1.00 M"),
        (1_250_000_000, "", "1.25 G"),
        (22_105_384, "B", "22.1 MB"),
        (3_200_000_000_000, "B", "3.20 TB"),
    ],
)
def test_scaled(value: float, unit: str, text: str) -> None:
    assert plain(numbers.scaled(value, unit)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.042, "0.042"), (4.4, "4.40"), (31.62, "31.6"), (1540.4, "1540"), (-2.5, "-2.50")],
)
def test_significant(value: float, text: str) -> None:
    assert plain(numbers.significant(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.71, "71.0 %"),
        (1.0, "100.0 %"),
        (0.0, "0.0 %"),
        (0.9996, "99.96 %"),
        (0.0004, "0.04 %"),
        (0.99996, "99.996 %"),
    ],
)
def test_a_percentage_is_never_rounded_to_0_or_100(value: float, text: str) -> None:
    assert plain(numbers.percent(value)) == text


def test_differences_have_a_sign_except_for_zero() -> None:
    assert plain(numbers.points(-0.008)) == "-0.8 pp"
    assert plain(numbers.points(0.0123)) == "+1.2 pp"
    assert plain(numbers.points(-0.00001)) == "0.0 pp"
    assert plain(numbers.points_interval(-0.021, 0.005)) == "[-2.1, +0.5] pp"
    assert plain(numbers.margin(0.0005)) == "0.05 pp", "a margin is never rounded"


def test_change_is_relative() -> None:
    assert plain(numbers.change(10, 5)) == "-50.0 %"
    assert plain(numbers.change(4, 5)) == "+25.0 %"
    assert numbers.change(0, 5) == "n/a"


def test_times() -> None:
    assert plain(numbers.times(1.899)) == "1.90x"
    assert numbers.times_interval(1.85, 1.954) == "[1.85, 1.95]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (59.96, "1 min 0 s"), (605, "10 min 5 s"), (3725, "1 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert plain(numbers.duration(seconds)) == text
