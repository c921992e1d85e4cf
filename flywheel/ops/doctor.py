"""What is used and why; whether the database holds what the log held; and whether the tasks have
what their turns need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flywheel.errors import ConfigurationError, FlywheelError
from flywheel.ops import readiness
from flywheel.ops.kept_bytes import missing_bytes
from flywheel.ops.orphans import members, names
from flywheel.ops.readiness import Coverage, base_model_problems, label_coverage
from flywheel.ops.supervisor import flywheel_command
from flywheel.ops.up_lock import holder
from flywheel.serving.vllm.machine import find_installation
from flywheel.settings import FlywheelSettings
from flywheel.turn.contradictions import contradictions, departed
from storage.database import Database, shown_url
from storage.objects import artefacts_problem
from storage.workspace import open_database
from streams.reconcile import Report, reconcile


@dataclass(frozen=True)
class Finding:
    """What `flywheel doctor` found. ``lost`` and ``doubled`` name ids; both must be empty.

    ``problems`` need somebody to act; ``advice`` says what is thin; ``waiting`` events will be
    handled by themselves while the worker runs.
    """

    uses: dict[str, str]
    traffic_recorded: int = 0
    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    waiting: int = 0
    dead_lettered: int = 0
    groups: tuple[dict[str, Any], ...] = ()
    labels_without_sample: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    labels: Mapping[str, Coverage] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, doubled, out of reach or unusable."""
        return not (self.lost or self.doubled or self.problems)

    def as_json(self) -> dict[str, Any]:
        """Counts for programs, with the first ids of what is wrong."""
        return {
            "uses": self.uses,
            "traffic_recorded": self.traffic_recorded,
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "waiting": self.waiting,
            "dead_lettered": self.dead_lettered,
            "lost_ids": list(self.lost[:20]),
            "doubled_ids": list(self.doubled[:20]),
            "groups": list(self.groups),
            "problems": list(self.problems),
            "labels_without_sample": len(self.labels_without_sample),
            "labels_without_sample_ids": list(self.labels_without_sample[:20]),
            "advice": list(self.advice),
            "labels": {
                task: {label: asdict(samples) for label, samples in coverage.items()}
                for task, coverage in self.labels.items()
            },
        }

    def as_text(self) -> str:
        """The same in words for people."""
        lines = [f"{name:10} {value}" for name, value in self.uses.items()]
        lines += [
            f"{row['group']:20} {row['events']} events passed, {row['stored']} stored, "
            f"{row['dead_lettered']} dead-lettered, {row['waiting']} waiting, {row['lost']} lost"
            f" ({row['read']} read again in the log)"
            for row in self.groups
        ]
        if self.labels_without_sample:
            lines.append(
                f"{len(self.labels_without_sample)} labelled samples were never recorded; their "
                f"labels wait for them: {', '.join(self.labels_without_sample[:5])}"
            )
        lines += [
            f"{task:20} {label}: {samples.train} to train on, {samples.holdout} held out"
            for task, coverage in self.labels.items()
            for label, samples in coverage.items()
        ]
        lines += [f"advice: {line}" for line in self.advice]
        if self.waiting:
            lines.append(f"waiting: {self.waiting} events that agents have not handled yet")
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"lost: {item}" for item in self.lost[:20]]
        lines += [f"doubled: {item}" for item in self.doubled[:20]]
        lines.append("all is well" if self.ok else "not all is well: see above")
        return "\n".join(lines)


def examine(
    settings: FlywheelSettings, expected: Sequence[str] = (), *, full: bool = False
) -> Finding:
    """Look at everything once. ``expected`` are sample ids that must have been recorded.

    What agents noted as handled is believed, unless ``full``: then the whole log is read, and
    every row is counted. What cannot be reached is a problem in the finding, not an error.
    """
    uses = what_is_used(settings)
    problems = [*map(str, base_model_problems(settings)), *_unsupervised(settings)]
    if unkept := artefacts_problem(settings):
        problems.append(str(unkept))
    advice: list[str] = []
    labels: dict[str, Coverage] = {}
    recorded: dict[str, list[str]] = {}
    try:
        with open_database(settings) as database:
            with database.transaction(read_only=True) as tx:
                problems += map(str, contradictions(settings, tx))
                advice += departed(settings, tx)
                for name, task in settings.tasks.items():
                    labels[name] = label_coverage(tx, name, task.labels)
                    held_out = tx.labels.counts(name).holdout
                    advice += readiness.advice(name, task, labels[name], held_out)
                    recorded[name] = [made.version for made in tx.datasets.history(name)]
            report = reconcile(settings.kafka, database, full=full)
            finding = _compare(uses, report, database, expected, full=full)
    except FlywheelError as error:
        finding = Finding(uses, problems=(str(error),))
    missing, pruned = missing_bytes(settings, recorded)
    return replace(
        finding,
        problems=(*problems, *missing, *finding.problems),
        advice=(*advice, *pruned),
        labels={
            name: counts
            for name, counts in labels.items()
            if settings.tasks[name].of_kind.has_labels
        },
    )


def _unsupervised(settings: FlywheelSettings) -> list[str]:
    """What a killed supervisor left running, which nothing would restart."""
    if holder(settings) is not None or not (orphans := members(settings)):
        return []
    return [
        f"{names(orphans)} run without a supervisor: {flywheel_command(settings, 'down')} ends "
        f"them, {flywheel_command(settings, 'up')} ends them and starts anew"
    ]


def what_is_used(settings: FlywheelSettings) -> dict[str, str]:
    """Part → what is used for it, and because of which setting."""
    kafka = settings.kafka
    broker = (
        f"Apache Kafka in this workspace, port {kafka.local_port} (no kafka.bootstrap_servers)"
        if kafka.local
        else f"{kafka.bootstrap_servers}, {kafka.security_protocol} (kafka.bootstrap_servers)"
    )
    url = shown_url(settings.database)
    why = "database_url" if settings.database_url else "database_url is empty"
    servers = ", ".join(settings.serving.endpoints)
    return {
        "workspace": str(settings.workspace),
        "broker": broker,
        "database": f"{url} ({why})",
        "artefacts": f"{settings.artefacts.url} (artefacts.url)"
        if settings.artefacts.url
        else f"{settings.layout.artefacts} (artefacts.url is empty)",
        "serving": f"{_engine(settings)} at {servers}",
        "tasks": ", ".join(settings.tasks),
    }


def _engine(settings: FlywheelSettings) -> str:
    serving = settings.serving
    if serving.engine != "vllm":
        return serving.engine
    if serving.vllm.urls:
        return f"vllm elsewhere ({', '.join(serving.vllm.urls)})"
    try:
        installation = find_installation(serving.vllm, os.environ)
    except ConfigurationError as error:
        return f"vllm, which cannot start ({error})"
    return f"vllm on {'a GPU' if installation.gpu else 'the CPU'} by {installation.python}"


def _compare(
    uses: dict[str, str],
    report: Report,
    database: Database,
    expected: Sequence[str],
    *,
    full: bool,
) -> Finding:
    without_sample: list[str] = []
    doubled: list[str] = []
    with database.transaction(read_only=True) as tx:
        samples = tx.balance.recorded()
        lost = tx.balance.unrecorded(expected)
        if full:
            lost += tx.balance.unkept_settlements()
            without_sample = tx.balance.labels_without_sample()
            doubled = tx.balance.doubled_settlements() + tx.balance.doubled_answers()
    groups = tuple(
        {
            "group": group.group,
            "events": group.events,
            "doubled_in_log": group.doubled_in_log,
            "stored": group.stored,
            "dead_lettered": group.dead_lettered,
            "waiting": group.waiting,
            "read": group.read,
            "lost": len(group.lost),
        }
        for group in report.groups
    )
    lost += [f"{group.group}: {item}" for group in report.groups for item in group.lost]
    return Finding(
        uses,
        traffic_recorded=samples,
        lost=tuple(lost),
        doubled=tuple(doubled),
        waiting=sum(group.waiting for group in report.groups),
        dead_lettered=sum(group.dead_lettered for group in report.groups),
        groups=groups,
        labels_without_sample=tuple(without_sample),
    )
