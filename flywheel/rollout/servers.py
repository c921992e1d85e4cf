"""Whether releases answer on the model servers: the ports, and one who asks all servers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from flywheel.rollout.decide import Readiness


class ModelServer(Protocol):
    """One model server."""

    def problem(self, release: str) -> str:
        """Why it does not answer for the release; empty when it does. Never raises."""
        ...


class ModelServers(Protocol):
    """The model servers of an installation."""

    def ready(self, release: str) -> Readiness:
        """The number of servers that answer a real request to ``release``; never raises."""
        ...


class PolledServers:
    """Implements ``ModelServers``: asks every server, all at the same time."""

    def __init__(self, servers: Sequence[ModelServer], remember: float = 5.0) -> None:
        """A full yes is believed for ``remember`` seconds; anything less is asked again."""
        self._servers, self._remember = servers, remember
        self._known: dict[str, tuple[float, Readiness]] = {}

    def ready(self, release: str) -> Readiness:
        """See ``ModelServers.ready``."""
        if not self._servers:
            return Readiness(ready=0, total=0, reason="no model server is configured")
        asked, known = self._known.get(release, (0.0, None))
        if known is not None and time.monotonic() - asked < self._remember:
            return known
        with ThreadPoolExecutor(len(self._servers), "probe") as pool:
            answers = list(pool.map(lambda server: server.problem(release), self._servers))
        problems = sorted({problem for problem in answers if problem})
        readiness = Readiness(
            ready=answers.count(""), total=len(answers), reason="; ".join(problems)
        )
        self._known.pop(release, None)
        if not problems:
            self._known[release] = (time.monotonic(), readiness)
        return readiness
