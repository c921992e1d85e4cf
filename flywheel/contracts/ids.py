"""Identifiers: time-ordered event ids and stable fractions for sampling and assignment."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as text: unique, and ordered by the millisecond it was made in."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """The present moment, timezone-aware, in UTC."""
    return datetime.now(UTC)


def unit_fraction(*parts: str, salt: str = "") -> float:
    """A fraction in [0, 1) that depends on nothing but ``parts`` and ``salt``: uniform over
    distinct inputs.

    Used for sticky assignment and for random audits, so that a redelivered event or a repeated
    request meets the same decision. Where clients choose ``parts`` (ids and texts are theirs) and
    must not choose the outcome, ``salt`` is a secret of at most 64 bytes that they don't know.
    """
    name = "\x1f".join(parts).encode()
    digest = hashlib.blake2b(name, digest_size=8, key=salt.encode()).digest()
    # 53 bits are what a double holds exactly; with more, the top values would round up to 1.0.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def derived_id(source_id: str, kind: str, at: datetime) -> str:
    """The id of the one event of ``kind`` that follows from event ``source_id``.

    A UUIDv7 whose random bits are a hash of the two, so that deciding again about a redelivered
    event makes the same id. ``at`` is the source's time, which keeps ids ordered by time.
    """
    digest = hashlib.blake2b(f"{source_id}\x1f{kind}".encode(), digest_size=10).digest()
    random_bits = int.from_bytes(digest, "big")
    milliseconds = int(at.timestamp() * 1000) & ((1 << 48) - 1)
    high = (milliseconds << 16) | 0x7000 | (random_bits >> 68)
    low = (1 << 63) | (random_bits & ((1 << 62) - 1))
    return str(UUID(int=(high << 64) | low))
