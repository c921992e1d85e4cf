"""Whether releases answer on the model servers: the ports, and one who asks all servers."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from flywheel.contracts.model_server import Look
from flywheel.rollout.decide import Readiness


class ModelServer(Protocol):
    """One model server."""

    def look(self, release: str) -> Look:
        """Whether it answers for the release. Never raises."""
        ...

    def absent(self, releases: Collection[str]) -> Mapping[str, str]:
        """Release → why it is not loaded there, empty where it is: by one question, and what the
        server says of itself. Never raises."""
        ...


class ModelServers(Protocol):
    """The model servers of an installation."""

    def ready(self, release: str) -> Readiness:
        """The number of servers that answer a real request to ``release``; never raises."""
        ...

    def loaded(self, releases: Collection[str]) -> Mapping[str, Readiness]:
        """Release → the number of servers that say they have it loaded; never raises. It costs one
        request a server, however many releases there are."""
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
            answers = list(pool.map(lambda server: server.look(release), self._servers))
        readiness = _counted(answers)
        self._known.pop(release, None)
        if not readiness.reason:
            self._known[release] = (time.monotonic(), readiness)
        return readiness

    def loaded(self, releases: Collection[str]) -> Mapping[str, Readiness]:
        """See ``ModelServers.loaded``."""
        if not self._servers:
            return {release: self.ready(release) for release in releases}
        with ThreadPoolExecutor(len(self._servers), "probe") as pool:
            answers = list(pool.map(lambda server: server.absent(releases), self._servers))
        return {one: _counted([Look(said[one]) for said in answers]) for one in releases}


def _counted(looks: Sequence[Look]) -> Readiness:
    return Readiness(
        ready=sum(not look.problem for look in looks),
        total=len(looks),
        reason="; ".join(sorted({look.problem for look in looks if look.problem})),
        late=sum(look.late for look in looks),
    )
