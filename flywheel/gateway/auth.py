"""Who is asking: bearer keys and the name under which a source is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flywheel.errors import RequestError, Unauthorised
from flywheel.monitoring.bearer import AcceptedKeys, bearer, digest
from flywheel.monitoring.headers import header_text

SOURCE_HEADER = "x-flywheel-source"
ANONYMOUS = "anonymous"


class Caller(NamedTuple):
    """``source`` is recorded with the traffic; ``limited_as`` is what rate limits count by; ``key``
    stands for the key on every host (empty without keys).

    The limit follows the key, and without keys the address, so that naming another source does not
    evade it.
    """

    source: str
    limited_as: str
    key: str = ""


class Keys:
    """The accepted bearer keys; with none configured, everyone may ask."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = AcceptedKeys(keys)

    def identify(self, headers: Mapping[str, str], peer: str = "") -> Caller:
        """The caller behind these headers (lower-case names), who connected from the address
        ``peer``. Raises Unauthorised."""
        named = headers.get(SOURCE_HEADER)
        if named is not None:
            named = header_text(named)
            if named is None or not 1 <= len(named) <= 64 or not named.isprintable():
                raise RequestError(f"{SOURCE_HEADER} must be 1 to 64 printable characters in UTF-8")
        if not self._keys:
            return Caller(named or ANONYMOUS, f"peer-{peer}")
        key = bearer(headers)
        if not self._keys.accept(key):
            raise Unauthorised("send a key that this gateway accepts: Authorization: Bearer KEY")
        known_by = digest(key).hex()
        key_name = f"key-{known_by[:8]}"
        return Caller(named or key_name, key_name, known_by)
