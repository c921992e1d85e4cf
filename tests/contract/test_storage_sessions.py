"""Ended sessions of the console, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from storage.database import Database

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


def test_a_session_stays_ended_until_its_token_has_run_out(database: Database) -> None:
    with database.transaction("console") as tx:
        tx.sessions.end("one", NOW + timedelta(hours=1), NOW)
        tx.sessions.end("one", NOW + timedelta(hours=1), NOW)
        tx.sessions.end("two", NOW + timedelta(hours=12), NOW)
    with database.transaction(read_only=True) as tx:
        assert tx.sessions.ended("one")
        assert tx.sessions.ended("two")
        assert not tx.sessions.ended("three")
    with database.transaction("console") as tx:
        tx.sessions.end("three", NOW + timedelta(hours=14), NOW + timedelta(hours=2))
    with database.transaction(read_only=True) as tx:
        assert not tx.sessions.ended("one")
        assert tx.sessions.ended("two")
