"""The secrets of a workspace's draws, the same for every process on every host."""

from __future__ import annotations

import secrets

from sqlalchemy import select

from storage.tables.columns import table_of
from storage.tables.draws import DrawSaltRow
from storage.work import Work

_salts = table_of(DrawSaltRow)
# As many characters as a keyed hash takes.
_BYTES = 32


class SqlDrawSalts:
    """Salts by purpose; each is made when first asked for."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def triage(self) -> str:
        """The salt of triage's draws: audits, and which unsure samples go to review."""
        return self._salt("triage")

    def dataset(self, task: str) -> str:
        """The salt of a task's split into training, calibration and holdout. It is empty for a task
        that had a dataset before there were salts: its holdout has to stay what it was."""
        return self._salt(f"dataset:{task}")

    def erasure(self) -> str:
        """The salt of what stands for an erased sample or user; 64 hexadecimal digits."""
        return self._salt("erasure")

    def _salt(self, purpose: str) -> str:
        known = select(_salts.c.salt).where(_salts.c.purpose == purpose)
        kept = self._work.row(known)
        if kept is None:
            # Of several that ask at once, the first to commit makes it and the others read it.
            row = {"purpose": purpose, "salt": secrets.token_hex(_BYTES)}
            self._work.add(_salts, [row], ["purpose"])
            kept = self._work.row(known)
        if kept is None:
            raise LookupError(f"no salt for {purpose}")
        return str(kept.salt)
