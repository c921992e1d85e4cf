"""Fixtures that several files of fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres_server import PostgresServer


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A real server, for the tests of one file."""
    with PostgresServer() as server:
        yield server
