"""Short ids: as many letters of one as no other has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flywheel.errors import Conflict, NotFound

if TYPE_CHECKING:
    from flywheel.contracts.release import Release
    from storage.database import Transaction

_LISTED = 10


def full_id(given: str, known: Iterable[str], what: str, listing: str) -> str:
    """The one known id that ``given`` is, begins, or else ends, or begins after a last hyphen.

    ``what`` it is an id of and the command that lists them, ``listing``, are for the message.
    Raises NotFound for none, and Conflict for several, naming those.
    """
    ids = list(dict.fromkeys(known))
    if given in ids:
        return given
    matches = [one for one in ids if given and one.startswith(given)]
    matches = matches or [one for one in ids if given and _ends(one, given)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound(f"no {what} {given!r}; see `{listing}`")
    listed = ", ".join(matches[:_LISTED])
    more = f" and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
    raise Conflict(f"{given!r} is short for {len(matches)} {what}s ({listed}{more}): add letters")


def _ends(one: str, given: str) -> bool:
    return one.endswith(given) or one.rpartition("-")[2].startswith(given)


def find_release(tx: Transaction, tasks: Iterable[str], given: str) -> Release:
    """The release of any of these tasks with an id, or with a short one."""
    known = [row.release for task in tasks for row in tx.releases.history(task)]
    release = tx.releases.get(full_id(given, known, "release", "flywheel releases list"))
    assert release is not None  # noqa: S101 - it was in the list
    return release
