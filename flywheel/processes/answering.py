"""Whether the champions answer: asked again and again, for health and for pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import structlog
from prometheus_client import Gauge

from flywheel.errors import FlywheelError
from flywheel.monitoring.threads import LastingThread
from flywheel.rollout.decide import Readiness
from flywheel.rollout.servers import ModelServers

WELL_SECONDS, AILING_SECONDS = 10.0, 2.0
# So many champions are all asked a real request in a round; of more, one: many tasks are no load.
ASKED = 5

_log = structlog.get_logger(__name__)
_servers = Gauge(
    "flywheel_champion_servers", "Model servers on which the champion answers.", ["task"]
)


class Answering:
    """Asks from a thread whether each champion that ``champions`` names (task → release) answers.
    ``champions`` may raise FlywheelError; then what was known before stands."""

    def __init__(self, champions: Callable[[], Mapping[str, str]], servers: ModelServers) -> None:
        self._champions, self._servers = champions, servers
        self._latest: dict[str, tuple[str, Readiness]] = {}
        self._turn = 0
        self._stopping = threading.Event()
        self._thread = LastingThread("answering", self._watch)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._thread.join(10.0)

    def refresh(self) -> None:
        """Ask once for every champion."""
        try:
            champions = self._champions()
        except FlywheelError as error:
            _log.warning("champions not known", error=str(error))
            return
        found = self._of_all(sorted(set(champions.values())))
        latest = {task: (name, found[name]) for task, name in champions.items()}
        for task, (_, readiness) in latest.items():
            _servers.labels(task).set(readiness.ready)
        self._latest = latest

    def _of_all(self, names: Sequence[str]) -> dict[str, Readiness]:
        """Of many, one is asked a real request by turns, and a few of those that answered none
        before; of the others it is enough that servers say they have them."""
        before = dict(self._latest.values())
        ailing = [name for name in names if name in before and before[name].nowhere]
        most = ASKED if len(names) <= ASKED else 1
        asked = {*_by_turns(ailing, self._turn, ASKED), *_by_turns(names, self._turn, most)}
        self._turn += 1
        rest = [name for name in names if name not in asked]
        readiness = dict(self._servers.loaded(rest)) if rest else {}
        readiness |= {name: before[name] for name in ailing if name not in asked}
        return readiness | {name: self._servers.ready(name) for name in sorted(asked)}

    def unanswered(self, task: str) -> str | None:
        """Why a task's requests are not answered, or None while its champion answers somewhere,
        there is none, or nobody has asked yet."""
        name, readiness = self._latest.get(task, ("", None))
        if readiness is None or not readiness.nowhere:
            return None
        return nobody_answers(name, readiness)

    def every(self) -> str | None:
        """Why each task whose champion answers nobody is not answered; None where all are."""
        problems = [words for task in self._latest if (words := self.unanswered(task))]
        return "; ".join(problems) or None

    def all_tasks(self) -> str | None:
        """Why no task at all is answered; None while one is. A load balancer that asks must not
        take away what answers the others."""
        tasks = list(self._latest)
        return self.every() if tasks and all(map(self.unanswered, tasks)) else None

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self.refresh()
            self._stopping.wait(AILING_SECONDS if self.every() else WELL_SECONDS)


def _by_turns(names: Sequence[str], turn: int, most: int) -> list[str]:
    """A few of them, others each turn."""
    start = turn * most % len(names) if names else 0
    return [*names[start:], *names[:start]][:most]


def nobody_answers(champion: str, readiness: Readiness) -> str:
    """Words on a champion that answers on no model server, and why."""
    why = f": {readiness.reason}" if readiness.reason else ""
    return f"{champion} is the champion and answers on none of {readiness.total} model servers{why}"
