"""Who is asking: bearer keys and the name under which a source is recorded."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flywheel.errors import RequestError, Unauthorised

SOURCE_HEADER = "x-flywheel-source"
ANONYMOUS = "anonymous"


class Caller(NamedTuple):
    """``source`` is recorded with the traffic; ``limited_as`` is what rate limits count by.

    The limit follows the key, and without keys the address, so that naming another source does not
    evade it.
    """

    source: str
    limited_as: str


class Keys:
    """The accepted bearer keys; with none configured, everyone may ask."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def identify(self, headers: Mapping[str, str], peer: str = "") -> Caller:
        """The caller behind these headers (lower-case names), who connected from the address
        ``peer``. Raises Unauthorised."""
        named = headers.get(SOURCE_HEADER)
        if named is not None and (not 1 <= len(named) <= 64 or not named.isprintable()):
            raise RequestError(f"{SOURCE_HEADER} must be 1 to 64 printable characters")
        if not self._digests:
            return Caller(named or ANONYMOUS, f"peer-{peer}")
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        # Every key is compared, so that the time taken says nothing about which one matched.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorised("send a key that this gateway accepts: Authorization: Bearer KEY")
        key_name = f"key-{digest.hex()[:8]}"
        return Caller(named or key_name, key_name)
