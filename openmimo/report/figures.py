"""How numbers are written on the page."""

from __future__ import annotations

import math
from typing import TypeGuard

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float | None, digits: int = 1) -> str:
    """0.123 -> `12.3 %`."""
    return f"{100 * share:.{digits}f} %" if _finite(share) else "–"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, signed: 0.012 -> `+1.2`."""
    return f"{100 * share:+.1f}".replace("-", "−") if _finite(share) else "–"


def short(value: float | None) -> str:
    """Three significant digits with a prefix: 25088 -> `25.1 k`, 0.0003 -> `3e-4`."""
    if not _finite(value):
        return "–"
    size = abs(value)
    for scale, prefix in _PREFIXES:
        if size >= scale * 0.9995:
            return f"{value / scale:.3g} {prefix}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if size < 999.5 else f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if not _finite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _finite(value: float | None) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
