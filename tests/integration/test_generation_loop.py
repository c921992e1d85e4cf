"""A task that answers with free text, once around the loop: real servers, agents and database.

Events are handed from stage to stage as Kafka would, and every batch twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audits import audits_of
from gateway_harness import eventually, model_server, split_event
from generation_harness import TASK, Gateway, Geographer, gateway, question, truth
from holdout_metrics import holdout_metrics
from new_database import new_database

from flywheel.contracts.answers import same_text
from flywheel.contracts.codec import decode
from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import utc_now
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.sample import as_text
from flywheel.contracts.stores import AuditChanges
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.evaluation.answered import read_predictions
from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import decide as pass_gate
from flywheel.kinds import FreeText
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import gather
from flywheel.rollout.decide import decide as decide_rollout
from flywheel.rollout.ports import Rollout
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager
from storage.database import Database
from streams.agents import evidence, labels, review
from streams.agents.acceptance import configured

WEAK, GOOD = "capitals-weak", "capitals-good"
REVIEW = ReviewSettings()
TRIAGE = TriageSettings(audit_rate=0.4, rollout_audit_rate=1.0, auto_label_error=0.1)
# How fast the machine is plays no part: a stall of seconds is no latency of either arm.
ROLLOUT = RolloutSettings(
    steps=(0.5,), min_requests=20, min_labels=40, error_margin=0.3, latency_margin=1000.0
)


class Loop:
    """The worker's agents and the console's desk over one database."""

    def __init__(self, database: Database, gate: Gateway) -> None:
        accept = configured({TASK: FreeText()})
        self.database = database
        self.gate = gate
        self.turn = 0.0
        self.triager = Triager(
            {TASK: (FreeText(), TRIAGE)},
            self,
            policy_interval=0.5,
            clock=lambda: self.turn,
            salt="salt",
        )
        self.agents = [
            agent(database, accept=accept).handle
            for agent in (review.agent, labels.agent, evidence.agent)
        ]
        self.seen = 0

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        with self.database.transaction(read_only=True) as tx:
            return tx.audits.changed(task, release, after)

    def deliver(self, events: Sequence[Event]) -> None:
        for handle in self.agents * 2:
            handle(list(events))

    def serve(self, numbers: range, shadows: int = 0) -> list[ReviewRequested | LabelRecorded]:
        """Asks the gateway, and takes what it recorded to triage and the agents."""
        self.turn += 1
        for number in numbers:
            assert self.gate.ask(question(number), f"q-{number}").status_code == 200
        wanted = self.seen + len(numbers) + shadows
        eventually(lambda: len(self.gate.publisher.events()) >= wanted)
        fresh = self.gate.publisher.events()[self.seen :]
        self.seen += len(fresh)
        made = self.triager(fresh)
        again = self.triager(fresh)
        assert [event.event_id for event in again] == [event.event_id for event in made]
        self.deliver(fresh)
        self.deliver(made)
        return made

    def answer_all(self) -> int:
        """An expert writes the truth for everything in the queue."""
        answered = 0
        while True:
            with self.database.transaction("console") as tx:
                claimed = claim_next(
                    tx, task=TASK, annotator="ada", limit=50, now=utc_now(), settings=REVIEW
                )
                for item in claimed.items:
                    right = truth(as_text(item.content))
                    accepted = same_text(item.prediction or "", right)
                    answer = Answer(
                        sample_id=item.sample_id,
                        annotator="ada",
                        value=item.prediction if accepted else right,
                        answered_at=utc_now(),
                    )
                    assert submit_answer(tx, TASK, FreeText(), REVIEW, answer).settled
            if not claimed.items:
                break
            answered += len(claimed.items)
        rows = self.database.outbox_rows("console")
        pending = rows.unsent(100_000)
        self.deliver([decode(record.value, dict(record.headers)) for _, record in pending])
        rows.mark_sent([row for row, _ in pending])
        return answered


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = new_database(f"sqlite:///{tmp_path / 'loop.db'}")
    yield database
    database.dispose()


def test_one_turn_from_a_first_answer_to_a_better_release(
    tmp_path: Path, database: Database
) -> None:
    both = split_event(WEAK, GOOD, 0.5, shadow=1.0, task=TASK)
    with (
        model_server(both, load=Geographer) as (url, _),
        gateway(tmp_path, [url], split_event(WEAK, task=TASK)) as gate,
    ):
        loop = Loop(database, gate)
        _label_traffic(loop)
        _learn(loop, tmp_path)
        gate.splits.update(both)
        rollout = _compare(loop, str(both.rollout_id))
        gate.splits.update(split_event(rollout.challenger, task=TASK))
        assert gate.ask(question(999)).json()["model"] == GOOD


def _label_traffic(loop: Loop) -> None:
    made = loop.serve(range(220))
    kinds = {type(event) for event in made}
    assert kinds == {ReviewRequested}, "nothing is certified before experts have answered"
    assert loop.answer_all() == len(made)
    audits = audits_of(loop, TASK, WEAK)
    right = sum(audit.correct for audit in audits)
    assert 60 < len(audits) < 120
    assert right / len(audits) == pytest.approx(0.65, abs=0.2), "whatever the spelling"
    # The confidence tells right from wrong, so what is surest is labelled without an expert.
    automatic = [event for event in loop.serve(range(220, 300)) if isinstance(event, LabelRecorded)]
    assert len(automatic) > 5
    assert all(same_text(event.value, truth(question(_number(event)))) for event in automatic)
    loop.answer_all()


def _number(event: LabelRecorded) -> int:
    return int(event.sample_id.removeprefix("q-"))


def _learn(loop: Loop, folder: Path) -> None:
    with loop.database.transaction(read_only=True) as tx:
        watermark = tx.labels.watermark(TASK)
        assert watermark is not None
        settled = tx.labels.settled(TASK, watermark)
        [history] = tx.overview.source_history(TASK)
    manifest = build_dataset(
        settled, DatasetSettings(), FreeText(), task=TASK, watermark=watermark, parent=None,
        folder=folder / "data",
    )  # fmt: skip
    rewritten = sum(line.label.startswith("Town ") for line in read_part(folder / "data", "train"))
    assert manifest.auto_labels > 0
    assert manifest.expert_labels > 80
    assert rewritten > 20
    # An accepted answer is no correction; one that was rewritten is.
    assert 0.2 < history.correction_rate < 0.8
    evaluated = {}
    for release in (WEAK, GOOD):
        out = folder / release
        metrics = holdout_metrics(Geographer(release).generate, folder / "data", FreeText(), out)
        evaluated[release] = read_predictions(out / PREDICTIONS_FILE)
        assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    decision = pass_gate(evaluated[WEAK], evaluated[GOOD], GateSettings())
    assert decision.passed
    assert decision.fixed > decision.broken == 0


def _compare(loop: Loop, rollout_id: str) -> Rollout:
    began = datetime.now(UTC) - timedelta(hours=1)
    rollout = Rollout(
        rollout_id=rollout_id, task=TASK, champion=WEAK, challenger=GOOD, state="canary", step=0,
        share=0.5, started_at=began, step_started_at=began, steps=ROLLOUT.steps,
    )  # fmt: skip
    loop.serve(range(300, 560), shadows=260)
    loop.answer_all()
    events = loop.gate.publisher.events()
    assert sum(isinstance(event, ShadowRecorded) for event in events) == 260
    assert sum(isinstance(event, TrafficRecorded) for event in events) == 560
    with loop.database.transaction(read_only=True) as tx:
        facts = gather(tx.evidence, rollout)
    share = [
        sum(correct) / len(facts.pairs)
        for correct in (
            [pair.champion_correct for pair in facts.pairs],
            [pair.challenger_correct for pair in facts.pairs],
        )
    ]
    assert len(facts.pairs) == 260
    assert share == [pytest.approx(0.65, abs=0.1), pytest.approx(0.95, abs=0.05)]
    live = facts.challenger
    assert live.audited == live.requests
    assert live.correct / live.audited == pytest.approx(0.95, abs=0.08)
    decision = decide_rollout(rollout, facts, ROLLOUT, datetime.now(UTC))
    assert decision.state == "promoted", decision.next
    return rollout
