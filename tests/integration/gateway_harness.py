"""Real model servers and gateways on free ports, with a classifier that needs no weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from flywheel import kinds
from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.ids import new_id, unit_fraction, utc_now
from flywheel.contracts.split import AssignBy, TrafficSplit
from flywheel.errors import ArtefactError, BrokerError
from flywheel.gateway.app import create_app
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app as create_model_server
from flywheel.serving.engine import InProcess
from flywheel.serving.releases import ReleaseSet

TASK = "questions"
LABELS = ("NUM", "HUM", "LOC")
_WORDS = {"many": "NUM", "who": "HUM", "where": "LOC"}


class KeywordClassifier(InProcess):
    """Deterministic: a keyword decides; without one, a hash of release and text does."""

    labels = LABELS

    def __init__(self, release: str, gate: threading.Event | None = None) -> None:
        self._release = release
        self._gate = gate

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        if self._gate is not None:
            self._gate.wait(30)
        return [self._scores(text) for text in texts]

    def _scores(self, text: str) -> dict[str, float]:
        if "explode" in text:
            raise ValueError("this text explodes")
        raw = {label: 0.1 + unit_fraction(self._release, text, label) for label in LABELS}
        for word, label in _WORDS.items():
            if word in text.lower():
                raw[label] += 5.0
        total = sum(raw.values())
        return {label: value / total for label, value in raw.items()}


def load_keyword(release: str) -> KeywordClassifier:
    if "broken" in release:
        raise ArtefactError(f"{release}: weights differ from their checksum")
    return KeywordClassifier(release)


class FilePublisher:
    """Publishes to a file, and refuses while ``down``: what a broker does, without one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.down = False
        path.touch()

    def publish(self, events: Sequence[Event]) -> None:
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        if self.down:
            raise BrokerError("the broker does not answer")
        lines = [
            msgspec.json.encode((r.topic, r.key.decode(), r.value.decode(), r.headers[0][1]))
            for r in records
        ]
        with self._lock, self._path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    def close(self) -> None:
        pass

    def events(self) -> list[Event]:
        return read_events(self._path)


def read_events(path: Path) -> list[Event]:
    found = []
    for line in path.read_bytes().splitlines():
        _topic, _key, value, schema = msgspec.json.decode(line, type=tuple[str, str, str, bytes])
        found.append(decode(value.encode(), {"schema": schema}))
    return found


def split_event(
    champion: str,
    challenger: str | None = None,
    share: float = 0.0,
    shadow: float = 0.0,
    task: str = TASK,
    assign_by: AssignBy = "user",
) -> RolloutChanged:
    rollout = f"rollout-{challenger}" if challenger else "first"
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=task,
        rollout_id=rollout,
        state="canary" if challenger else "serving",
        split=TrafficSplit(
            task=task,
            champion=champion,
            challenger=challenger,
            rollout_id=rollout if challenger else None,
            challenger_share=share,
            shadow_share=shadow,
            assign_by=assign_by,
        ),
        decided_by="test",
        reason="test",
    )


def eventually(check: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until ``check`` is true; a bound for hangs, not a measurement."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@contextmanager
def running(server: HttpServer) -> Iterator[str]:
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def model_server(
    *events: RolloutChanged,
    load: Callable[[str], KeywordClassifier] = load_keyword,
    port: int = 0,
    grace_seconds: float = 60.0,
    **options: float,
) -> Iterator[tuple[str, ReleaseSet]]:
    releases = ReleaseSet(load, grace_seconds=grace_seconds)
    for event in events:
        releases.update(event)
    releases.start()
    app = create_model_server(releases=releases, **options)  # type: ignore[arg-type]
    try:
        with running(HttpServer(app, "127.0.0.1", port)) as url:
            eventually(lambda: all(s.state != "loading" for s in releases.statuses()))
            yield url, releases
    finally:
        releases.stop()


class Held(KeywordClassifier):
    """Answers a text with "hold" in it once ``go`` is set."""

    def __init__(self, release: str, go: threading.Event) -> None:
        super().__init__(release)
        self._go = go

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        if any("hold" in text for text in texts):
            self._go.wait(30)
        return super().predict(texts)


@contextmanager
def held_server(*events: RolloutChanged) -> Iterator[tuple[str, threading.Event]]:
    """A model server, of r1 unless ``events`` say otherwise, and what lets its answers go."""
    go = threading.Event()
    with model_server(*(events or [split_event("r1")]), load=lambda name: Held(name, go)) as (
        url,
        _,
    ):
        yield url, go
        go.set()


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30, trust_env=False)


@dataclass
class Gateway:
    """A gateway that answers, and what it has recorded."""

    http: httpx.Client
    splits: Splits
    publisher: FilePublisher
    spill: Path

    def events(self, kind: type) -> list:
        return [event for event in self.publisher.events() if isinstance(event, kind)]

    def classify(self, text: str, **extra: str) -> httpx.Response:
        return self.http.post("/v1/classify", json={"task": TASK, "text": text, **extra})


@contextmanager
def started_gateway(
    folder: Path,
    endpoints: list[str],
    *,
    split=None,
    timeout: float = 10.0,
    spill_bytes: int = 64 << 20,
    down: bool = False,
    kind: str = "classification",
    **options,
) -> Iterator[Gateway]:
    """The gateway over ``endpoints``, what it publishes in a file. ``kind`` is its task's;
    ``options`` are its app's."""
    splits = Splits(folder / "splits.json")
    if split is not None:
        splits.update(split)
    splits.mark_caught_up()
    publisher = FilePublisher(folder / "published")
    publisher.down = down
    capture = Capture(SpillLog(folder / "spill"), publisher, max_bytes=spill_bytes)
    app = create_app(
        tasks={TASK: kinds.TaskKind.of(kinds.of(kind), LABELS)},
        splits=splits,
        servers=ModelServers(endpoints, timeout),
        capture=capture,
        **options,
    )
    with running(HttpServer(app, "127.0.0.1", 0)) as url, client(url) as http:
        yield Gateway(http, splits, publisher, folder / "spill")


class AfterFirst(threading.Event):
    """Lets the warm-up through and holds every later prediction until opened."""

    def __init__(self, opened: threading.Event) -> None:
        super().__init__()
        self._opened = opened
        self._warm = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._warm:
            self._warm = True
            return True
        return self._opened.wait(timeout)
