"""Who has answered: written by the console."""

from __future__ import annotations

from sqlalchemy import select

from flywheel.review.access import person
from storage.tables.columns import table_of
from storage.tables.review import ReviewPersonRow
from storage.work import Work

_people = table_of(ReviewPersonRow)


class SqlPeople:
    """``review.ports.People``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def known_as(self, name: str) -> str:
        """The spelling under which this person came first."""
        key = person(name)
        known = select(_people.c.name).where(_people.c.person == key)
        row = self._work.row(known)
        if row is None:
            self._work.add(_people, [{"person": key, "name": name}], ["person"])
            # Another replica may have been first.
            row = self._work.row(known)
        return name if row is None else str(row.name)
