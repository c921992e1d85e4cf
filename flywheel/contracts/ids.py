"""Identifiers: time-ordered event ids and stable fractions for sampling and assignment."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from uuid import UUID, uuid5

import uuid_utils

_NAMESPACE = UUID("0d5ad0b7-6e0c-5c49-8c0c-8e6b7a1f4c21")


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
    return _uuid7(int(at.timestamp() * 1000), f"{source_id}\x1f{kind}")


def id_within(sample_id: str, *parts: str) -> str:
    """The id of the one event that ``parts`` name of a sample: the same for every repeat.

    Of a sample whose own id is a UUIDv7, as those made here are, it begins with the same moment, so
    that ids of a day lie side by side in a database's index. Clients may choose other ids, which
    have no order.
    """
    name = "\x1f".join((*parts, sample_id))
    try:
        own = UUID(sample_id)
    except ValueError:
        own = None
    if own is None or own.version != 7 or str(own) != sample_id:
        return str(uuid5(_NAMESPACE, name))
    return _uuid7(own.int >> 80, name)


def _uuid7(milliseconds: int, name: str) -> str:
    digest = hashlib.blake2b(name.encode(), digest_size=10).digest()
    random_bits = int.from_bytes(digest, "big")
    milliseconds &= (1 << 48) - 1
    high = (milliseconds << 16) | 0x7000 | (random_bits >> 68)
    low = (1 << 63) | (random_bits & ((1 << 62) - 1))
    return str(UUID(int=(high << 64) | low))
