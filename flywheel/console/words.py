"""How numbers, times and ids are written on the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from flywheel.contracts.percentages import percentage, rounded, signed_points

DASH = "–"
THIN = "\u202f"  # narrow no-break space: between thousands, and before a unit


def count(value: float | None) -> str:
    """12345 → ``12 345`` with a narrow space."""
    return DASH if value is None else f"{value:,.0f}".replace(",", THIN)


def percent(value: float | None, digits: int = 1) -> str:
    """0.912 → ``91.2 %``."""
    return DASH if value is None else f"{rounded(value, digits)}{THIN}%"


def share(value: float | None) -> str:
    """0.05 → ``5 %``; shows decimals only where there are any."""
    return DASH if value is None else f"{percentage(value)}{THIN}%"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, signed."""
    return DASH if value is None else signed_points(value).replace("-", "−")


def size(value: int | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return DASH
    amount, unit = float(value), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, bigger
    return (
        f"{amount:.0f}{THIN}{unit}" if amount >= 100 or unit == "B" else f"{amount:.1f}{THIN}{unit}"
    )


def milliseconds(value: float | None) -> str:
    """A latency with three figures at most."""
    if value is None:
        return DASH
    return f"{value:.0f}{THIN}ms" if value >= 10 else f"{value:.1f}{THIN}ms"


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds is None:
        return DASH
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}{THIN}h {minutes:02d}{THIN}min"
    return f"{hours // 24}{THIN}d {hours % 24}{THIN}h"


def aware(at: datetime) -> datetime:
    """The same moment in UTC; a moment without a zone is UTC already."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def clock(at: datetime | None) -> str:
    """``14:03:22``."""
    return DASH if at is None else f"{aware(at):%H:%M:%S}"


def moment(at: datetime | None) -> str:
    """``24 Nov 14:03``."""
    return DASH if at is None else f"{aware(at):%d %b %H:%M}".lstrip("0")


def short(identifier: str | None) -> str:
    """The part of an id that tells it apart: ``trec-3f9a01c2d4e5`` → ``3f9a01c``."""
    if not identifier:
        return DASH
    return identifier.rsplit("-", 1)[-1][:7]


def plain(value: Any) -> str:
    """A metric or a setting as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return DASH if value is None or value == "" else str(value)


def capitalised(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


FILTERS: Mapping[str, Callable[..., str]] = {
    "count": count,
    "percent": percent,
    "share": share,
    "points": points,
    "size": size,
    "ms": milliseconds,
    "duration": duration,
    "clock": clock,
    "moment": moment,
    "short": short,
    "plain": plain,
    "capfirst": capitalised,
}
