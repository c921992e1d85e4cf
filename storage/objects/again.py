"""What was put into a store that was there already: whoever removes it must know.

What only one request shows may go with it. What another brought again, and found there, may be
shown by a request that nobody has read yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from storage.objects.blobs import Blobs

# So often it is noted at most.
_EVERY = timedelta(minutes=10)


def put_again(blobs: Blobs, sha256: str) -> datetime | None:
    """When a file was put that was there, give or take ten minutes; None: it was put once."""
    key = _key(sha256)
    return None if blobs.size(key) is None else datetime.fromisoformat(blobs.read(key).decode())


def note_again(blobs: Blobs, sha256: str, now: datetime) -> None:
    """A file was put that was there."""
    known = put_again(blobs, sha256)
    if known is None or abs(now - known) >= _EVERY:
        blobs.write(_key(sha256), now.isoformat().encode())


def forget_again(blobs: Blobs, sha256: str) -> None:
    """The file is there no longer."""
    blobs.remove(_key(sha256))


def _key(sha256: str) -> str:
    return f"again/{sha256[:2]}/{sha256}"
