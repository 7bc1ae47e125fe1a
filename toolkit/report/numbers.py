"""Format numbers with units, to three significant digits, without rounding to misleading values such as 100.0 %."""

from __future__ import annotations

import math

SPACE = "\u00a0"
"""Non-breaking space between a number and its unit."""
MINUS = "\u2212"


def scaled(value: float, unit: str = "") -> str:
    """Number with an SI prefix: 5526346 -> "5.53 M", 22100000 "B" -> "22.1 MB"."""
    if abs(value) < 999.5:
        return f"{value:.0f}{SPACE}{unit}".rstrip(SPACE)
    for prefix in ("k", "M", "G"):
        value /= 1000
        if abs(value) < 999.5:
            return f"{significant(value)}{SPACE}{prefix}{unit}"
    return f"{significant(value / 1000)}{SPACE}T{unit}"


def significant(value: float, digits: int = 3) -> str:
    """Number with `digits` significant digits, at most three decimals and no exponent: 12.3, 0.042, 1540."""
    value = float(f"{value:.{digits - 1}e}") if abs(value) < 10**digits else value
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - magnitude, 0), 3)
    return _signed(f"{value:.{decimals}f}")


def milliseconds(value: float) -> str:
    return f"{significant(value)}{SPACE}ms"


def percent(fraction: float) -> str:
    """Fraction as a percentage with one decimal; more decimals if it would round to 0.0 or 100.0 without being so."""
    for decimals in (1, 2, 3, 4):
        text = f"{100 * fraction:.{decimals}f}"
        if fraction in (0, 1) or float(text) not in (0, 100):
            break
    return f"{text}{SPACE}%"


def points(difference: float) -> str:
    """Difference of two fractions, in percentage points."""
    return f"{_plus(100 * difference, 1)}{SPACE}pp"


def margin(fraction: float) -> str:
    """Parity margin in percentage points, unrounded: 0.0005 -> "0.05 pp"."""
    return f"{100 * fraction:g}{SPACE}pp"


def points_interval(low: float, high: float) -> str:
    """Interval in percentage points: "[-2.1, +0.5] pp"."""
    return f"[{_plus(100 * low, 1)}, {_plus(100 * high, 1)}]{SPACE}pp"


def change(before: float, after: float) -> str:
    """Relative change: 10 -> 5 is "-50.0 %"."""
    return f"{_plus(100 * (after / before - 1), 1)}{SPACE}%" if before else "n/a"


def times(ratio: float) -> str:
    """Speed-up as a factor: "1.90\u00d7"."""
    return f"{ratio:.2f}\u00d7"


def times_interval(low: float, high: float) -> str:
    """Interval of a speed-up: "[1.85, 1.95]"."""
    return f"[{low:.2f}, {high:.2f}]"


def duration(seconds: float) -> str:
    """Duration in its two largest units: "1 h 5 min", "12 min 5 s", "8.2 s"."""
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {remainder}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def _plus(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return _signed(text) if float(text) else text[1:]


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
