"""Bearer keys in requests: how one is sent, and whether it is one of those that are accepted."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from flywheel.monitoring.headers import header_text


def bearer(headers: Mapping[str, str]) -> str:
    """The key in these headers (lower-case names), or an empty text."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return ""
    key = key.strip()
    # Some clients write a header's characters as single bytes: the same key, if it is one.
    said = header_text(key)
    return key if said is None else said


def digest(key: str) -> bytes:
    """What a key is known by where the key itself must not stand."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class AcceptedKeys:
    """A set of keys; false when there are none."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = tuple(digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, offered: str) -> bool:
        """Whether ``offered`` is one of the keys; the time taken does not tell which."""
        given = digest(offered)
        return sum(hmac.compare_digest(given, known) for known in self._digests) > 0
