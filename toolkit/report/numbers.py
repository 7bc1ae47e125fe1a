"""Numbers as text: each with its unit, three significant digits, and never rounded to a claim that is not true."""

from __future__ import annotations

import math

SPACE = "\u00a0"
"""Between a number and its unit, where a line must not break."""
MINUS = "\u2212"


def scaled(value: float, unit: str = "") -> str:
    """With an SI prefix: 5526346 -> "5.53 M", 22100000 "B" -> "22.1 MB"."""
    if abs(value) < 999.5:
        return f"{value:.0f}{SPACE}{unit}".rstrip(SPACE)
    for prefix in ("k", "M", "G"):
        value /= 1000
        if abs(value) < 999.5:
            return f"{significant(value)}{SPACE}{prefix}{unit}"
    return f"{significant(value / 1000)}{SPACE}T{unit}"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits, at most three decimals, without an exponent: 12.3, 0.042, 1540."""
    value = float(f"{value:.{digits - 1}e}") if abs(value) < 10**digits else value
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - magnitude, 0), 3)
    return _signed(f"{value:.{decimals}f}")


def milliseconds(value: float) -> str:
    return f"{significant(value)}{SPACE}ms"


def share(value: float) -> str:
    """A share as percent with one decimal, and more where "100.0" or "0.0" would hide an exception."""
    for decimals in (1, 2, 3, 4):
        text = f"{100 * value:.{decimals}f}"
        if value in (0, 1) or float(text) not in (0, 100):
            break
    return f"{text}{SPACE}%"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{_plus(100 * difference, 1)}{SPACE}pp"


def margin(share: float) -> str:
    """The difference that a user allowed, in percentage points, as exactly as it was asked for: 0.0005 -> "0.05 pp"."""
    return f"{100 * share:g}{SPACE}pp"


def points_between(low: float, high: float) -> str:
    return f"[{_plus(100 * low, 1)}, {_plus(100 * high, 1)}]{SPACE}pp"


def change(before: float, after: float) -> str:
    """Relative change: 10 -> 5 is "-50.0 %"."""
    return f"{_plus(100 * (after / before - 1), 1)}{SPACE}%" if before else "n/a"


def times(ratio: float) -> str:
    return f"{ratio:.2f}\u00d7"


def times_between(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]"


def duration(seconds: float) -> str:
    """The two largest units: "1 h 5 min", "12 min 5 s", "8.2 s"."""
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def _plus(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return _signed(text) if float(text) else text[1:]


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
