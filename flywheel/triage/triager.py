"""The triage agent's handler: a batch of traffic in, requests for review and labels out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge

from flywheel.contracts.events import Event, LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.errors import FlywheelError
from flywheel.kinds import Answers
from flywheel.triage.config import TriageSettings
from flywheel.triage.decide import Decision, TaskTriage, decide, reject_unusable, triaged
from flywheel.triage.policy import AutoLabelPolicy, CertifiedPolicy
from flywheel.triage.ports import AuditReader, SourceFeatures

REFRESH_SECONDS = 5.0
# Where no model was asked.
_NOTHING_BY_ITSELF = AutoLabelPolicy(reason="no model was asked")

_log = structlog.get_logger(__name__)
_decisions = Counter(
    "flywheel_triage_decisions_total", "Answers triaged, by what was decided.", ["task", "decision"]
)
_bound = Gauge(
    "flywheel_triage_auto_label_error_bound",
    "Upper confidence bound on the error of automatic labels, by release (1: nothing accepted).",
    ["task", "release"],
)
_coverage = Gauge(
    "flywheel_triage_auto_label_coverage",
    "Share of traffic whose answers become labels by themselves, by release.",
    ["task", "release"],
)


def no_features(_task: str, _sources: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a deployment without a feature store knows of sources: nothing."""
    return {}


@dataclass(slots=True)
class _Certified:
    certified: CertifiedPolicy
    policy: AutoLabelPolicy
    at: float


class Policies:
    """The auto-label policy of each release, certified again when older than ``interval`` s."""

    def __init__(
        self, audits: AuditReader, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._audits = audits
        self._interval = interval
        self._clock = clock
        self._known: dict[tuple[str, str], _Certified] = {}

    def of(self, name: str, release: str, task: TaskTriage) -> AutoLabelPolicy:
        """The policy of a release. Raises StorageError when the audits cannot be read."""
        now = self._clock()
        known = self._known.get((name, release))
        if known is not None and now - known.at < self._interval:
            return known.policy
        certified = known.certified if known else CertifiedPolicy(name, release, task.settings)
        policy = certified.read(self._audits)
        self._known[name, release] = _Certified(certified, policy, now)
        accepting = policy.threshold is not None
        _bound.labels(name, release).set(policy.bound if accepting else 1.0)
        _coverage.labels(name, release).set(policy.coverage)
        if known is None or (known.policy.threshold is None) == accepting:
            _log.info(
                "auto-label policy", task=name, release=release, accepting=accepting,
                threshold=policy.threshold, why=policy.reason,
            )  # fmt: skip
        return policy


class Triager:
    """Decides about batches of events; safe to call again with events it has seen.

    ``tasks`` maps a task's name to its answers and settings; ``salt`` is the workspace's secret for
    draws, the same for every triager of it; ``retired`` the labels that it answers with no longer.
    A batch from outside goes through
    ``accept`` first: calling raises RejectedEvent for the first event it cannot use.
    """

    def __init__(
        self,
        tasks: Mapping[str, tuple[Answers, TriageSettings]],
        audits: AuditReader,
        features: SourceFeatures = no_features,
        *,
        salt: str,
        retired: Mapping[str, Sequence[str]] | None = None,
        policy_interval: float = REFRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        retired = retired or {}
        self._tasks = {
            name: TaskTriage.of(*task, salt, retired.get(name, ())) for name, task in tasks.items()
        }
        self._features = features
        self._policies = Policies(audits, policy_interval, clock)

    def accept(self, event: Event) -> None:
        """Raise RejectedEvent for traffic that no configured task can account for."""
        if isinstance(event, TrafficRecorded) and self._triaged(event):
            reject_unusable(event, self._tasks)

    def __call__(self, batch: Sequence[Event]) -> list[ReviewRequested | LabelRecorded]:
        """What to send for a batch, in its order. Events of other kinds are passed over.

        Raises StorageError (retryable) when the audits cannot be read, and then has counted
        nothing. What is made of an event depends on that event, its release's policy and its
        source's history, never on its company in the batch.
        """
        traffic = [event for event in batch if isinstance(event, TrafficRecorded)]
        triaged_ones = [event for event in traffic if self._triaged(event)]
        history = {
            task: self._history(task, {e.source for e in triaged_ones if e.task == task})
            for task in sorted({event.task for event in triaged_ones})
        }
        made: list[ReviewRequested | LabelRecorded] = []
        counts: dict[tuple[str, str], int] = {}
        for event in traffic:
            decision = self._decide(event, history)
            counts[event.task, decision.kind] = counts.get((event.task, decision.kind), 0) + 1
            if decision.event is not None:
                made.append(decision.event)
        for (task, kind), count in counts.items():
            _decisions.labels(task, kind).inc(count)
        return made

    def _decide(
        self, event: TrafficRecorded, history: Mapping[str, Mapping[str, Mapping[str, float]]]
    ) -> Decision:
        if not self._triaged(event):
            return Decision("not_triaged")
        reject_unusable(event, self._tasks)
        task = self._tasks[event.task]
        policy = _NOTHING_BY_ITSELF
        if event.release is not None:
            policy = self._policies.of(event.task, event.release, task)
        return decide(event, task, policy, history[event.task].get(event.source, {}))

    def _triaged(self, event: TrafficRecorded) -> bool:
        return triaged(event, self._tasks.get(event.task))

    def _history(self, task: str, sources: set[str]) -> Mapping[str, Mapping[str, float]]:
        try:
            return self._features(task, sorted(sources))
        except FlywheelError as error:
            # History only shifts who is asked first: traffic need not wait for it.
            _log.warning("no history of sources", code=error.code, detail=str(error))
            return {}
