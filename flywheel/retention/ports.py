"""What retention needs of a database: pages of what is old, and its removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

# What is gone through from the oldest on: requests, answers of releases, the experts' queue, labels
# whose request is not there.
Walk = Literal["samples", "evidence", "review", "waiting"]
# Of which of the settings' days something is.
Kind = Literal["traffic", "automatic", "labelled", "evidence", "review"]
# What holds the effects of an event in the queue, in the labels and in the evidence: a labelled
# sample goes whole.
OF_REVIEW: tuple[Kind, ...] = ("review", "automatic", "labelled")
OF_LABELS: tuple[Kind, ...] = ("traffic", "automatic", "labelled")
OF_EVIDENCE: tuple[Kind, ...] = ("evidence", "automatic", "labelled")
Row = Mapping[str, Any]


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is kept no longer: a row by ``key``, and all of its sample where ``whole``."""

    kind: Kind
    sample_id: str
    key: tuple[Any, ...]
    whole: bool = False


class Cursor(msgspec.Struct, frozen=True):
    """How far a walk has come: everything up to this moment and key was looked at."""

    at: datetime
    key: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a walk: what of it is due, and where to go on (None: there is no more)."""

    due: Sequence[Due]
    after: Cursor | None


class Expiry(Protocol):
    """Written by whoever holds retention. ``before`` says for each kind what is too old; of a kind
    that is not in it everything stays."""

    def page(
        self, walk: Walk, task: str, before: Mapping[Kind, datetime], after: Cursor | None
    ) -> Page:
        """The next part of a walk. Reads only."""
        ...

    def rows(self, walk: Walk, task: str, due: Sequence[Due]) -> Mapping[str, Sequence[Row]]:
        """Table → the rows that would go with these. Reads only."""
        ...

    def remove(
        self, walk: Walk, task: str, before: Mapping[Kind, datetime], due: Sequence[Due]
    ) -> Mapping[str, int]:
        """Remove what of these is still due, in this transaction; table → rows that went. What they
        came to in totals is kept."""
        ...

    def close(self, task: str, kind: Kind, before: datetime) -> None:
        """Take in no event of this kind from before this moment: it would be too old, and one that
        comes again would count twice."""
        ...

    def forget_units(self, task: str, before: datetime) -> int:
        """Remove the names of users by which rollouts that ended before were counted."""
        ...
