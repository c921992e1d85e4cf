"""Shares as people read them: percentages, and differences in points."""

from __future__ import annotations

import math


def percentage(share: float, figures: int = 3) -> str:
    """A share in percent, without a unit, with so many ``figures`` counted from the nearer end:
    what is not 0 or 100 never reads as if it were. 0.005 is "0.5", 0.9996 "99.96"."""
    value = share * 100
    distance = min(abs(value), abs(100 - value))
    if distance < 1e-9:
        return f"{value:.0f}"
    decimals = max(0, figures - 1 - math.floor(math.log10(distance)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(share: float, decimals: int = 1) -> str:
    """A share in percent, without a unit, with so many decimals, or with more where it would read
    as 0 or 100 and is not: of thousands right one wrong is no 100 %."""
    text = f"{share * 100:.{decimals}f}"
    hides = float(text) in (0, 100) and abs(share * 100 - float(text)) > 1e-9
    return percentage(share, 1) if hides else text


def signed_points(difference: float) -> str:
    """A difference of shares in percentage points, signed, without a unit: one decimal, or as many
    as it takes to tell it from none, three at most."""
    for decimals in (1, 2, 3):
        text = f"{difference * 100:+.{decimals}f}"
        if float(text):
            return text
    return "+0.0"
