"""What a model server holds of one release: what answers, and how it is doing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from prometheus_client import Gauge

from flywheel.errors import FlywheelError
from flywheel.serving.engine import Classifier, Generator, generates

_state = Gauge("flywheel_serving_release", "1 in the release's state.", ("release", "state"))

Kind = Literal["classifier", "generator"]
State = Literal["loading", "ready", "failed", "unloaded"]
STATES: tuple[State, ...] = ("loading", "ready", "failed", "unloaded")
WARM_UP_TEXT = "What does a first request find?"
LONGEST_RETRY_SECONDS = 60.0
FIRST_RETRY_SECONDS = 2.0
# Loads that fail in a row before nobody is asked to wait for the next one.
HOPELESS_AFTER = 2


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """How one release is doing; ``reason`` says why it failed. One that is unloaded did not fit,
    and is loaded when somebody asks for it."""

    release: str
    state: State
    reason: str = ""
    kind: Kind = "classifier"
    labels: tuple[str, ...] = ()
    loaded_at: int = 0


@dataclass(slots=True, eq=False)
class Live:
    """What answers, and how many requests it is answering. Until ``kept_until`` it does not give
    way to others: those for whom it was loaded are about to ask it."""

    served: Classifier | Generator
    since: float
    size: int = 0
    asked_at: float = 0.0
    kept_until: float = 0.0
    in_use: int = 0


@dataclass(slots=True)
class Held:
    """A release that is here, or should be. Moments are those of the caller's clock."""

    status: ReleaseStatus
    live: Live | None = None
    unwanted_since: float | None = None
    retry_at: float = 0.0
    retry_in: float = FIRST_RETRY_SECONDS
    failed_loads: int = 0

    def is_due(self, now: float, *, urgent: bool) -> bool:
        """Whether it is to be loaded: tried again, or asked for while it is unloaded."""
        if self.status.state == "failed":
            return now >= self.retry_at
        return self.status.state == "unloaded" and urgent

    def loaded(self, status: ReleaseStatus, live: Live) -> None:
        """It answers from now on."""
        self.status, self.live, self.failed_loads = status, live, 0

    def failed(self, reason: str, loads: int, now: float) -> None:
        """It does not answer, and is tried again, later each time. ``loads`` failed with it, as far
        as hope goes."""
        self.status = ReleaseStatus(self.status.release, "failed", reason)
        self.failed_loads += loads
        self.retry_at = now + self.retry_in
        self.retry_in = min(self.retry_in * 2, LONGEST_RETRY_SECONDS)

    def died(self, now: float) -> None:
        """What answered until now does so no more. Where it did for long, it is tried soon."""
        if self.live is not None and now - self.live.since > LONGEST_RETRY_SECONDS:
            self.retry_in = FIRST_RETRY_SECONDS
        self.live = None


def ready(release: str, served: Classifier | Generator) -> ReleaseStatus:
    """Its status once it has answered a first text; raises what that raises."""
    labels, kind = tuple(served.labels), _warm_up(served)
    return ReleaseStatus(release, "ready", kind=kind, labels=labels, loaded_at=int(time.time()))


def _warm_up(served: Classifier | Generator) -> Kind:
    if generates(served):
        served.generate([WARM_UP_TEXT])
        return "generator"
    served.classify([WARM_UP_TEXT])
    return "classifier"


def lost_loads(error: Exception) -> int:
    """How many failed loads an error counts for: one that no repetition mends takes all hope."""
    lasting = isinstance(error, FlywheelError) and not error.retryable
    return HOPELESS_AFTER if lasting else 1


def show(release: str, state: State | None) -> None:
    """Put a release's state among the metrics; None: it is not here any more."""
    for name in STATES:
        if state is None:
            _state.remove(release, name)
        else:
            _state.labels(release, name).set(name == state)
