"""Delivered again, alone or in other company, an event changes nothing: not a row, not a tick."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from storage_events import TASK, at, label, request, settled, shadow, traffic

from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.split import TrafficSplit
from flywheel.kinds import Choice
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer, undo
from storage.database import Database
from storage.tables import metadata
from streams.agents import evidence, labels, review

AGENTS = (labels.agent, evidence.agent, review.agent)


def rows(database: Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    with database.work(read_only=True) as work:
        return {
            table.name: sorted(map(repr, work.rows(select(table))))
            for table in metadata().sorted_tables
        }


def events() -> list[Event]:
    found: list[Event] = []
    for number in range(12):
        sample = f"s{number}"
        arm = "challenger" if number % 2 else "champion"
        found += [
            traffic(sample, number, arm=arm, rollout_id="rollout", latency_ms=float(number)),
            traffic(sample, number + 1, status=503, error="busy"),
            shadow(sample, number + 2),
            request(sample, seconds=number + 3, audit=number % 3 == 0),
            label(sample, "a", "auto", number + 4),
            label(sample, "b", "user", number + 5),
            settled(sample, "a", number + 6),
        ]
    found += [settled("s1", None, 40), settled("s1", "b", 41)]
    split = TrafficSplit(task=TASK, champion="r1", rollout_id="rollout")
    found.append(
        RolloutChanged(
            event_id="ended",
            occurred_at=at(60),
            task=TASK,
            rollout_id="rollout",
            state="rolled_back",
            split=split,
            decided_by="controller",
            reason="harm",
            challenger="r2",
        )
    )
    return found


@pytest.mark.parametrize("seed", range(3))
def test_events_that_come_again_change_nothing(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    sent = events()
    for agent in AGENTS:
        handle = agent(database).handle
        for start in range(0, len(sent), 20):
            handle(sent[start : start + 20])
    before = rows(database)
    for _ in range(4):
        again = [*chance.sample(sent, 30), *chance.sample(sent, 10)]
        for agent in AGENTS:
            agent(database).handle(again)
    assert rows(database) == before


def test_an_event_that_a_batch_holds_twice_counts_once(database: Database) -> None:
    sent = events()
    for agent in AGENTS:
        agent(database).handle([*sent, *sent])
    with database.transaction(read_only=True) as tx:
        assert tx.overview.traffic_counts(TASK)["requests"] == 24
        assert tx.labels.counts(TASK).given == 12


def test_a_label_that_comes_again_takes_no_sample_from_the_expert_who_took_it_back(
    database: Database,
) -> None:
    handle = review.agent(database).handle
    kind, rules = Choice(("a", "b")), ReviewSettings()
    handle([request("s1")])
    word = label("s1", "b", "user", 5)
    answer = Answer(sample_id="s1", annotator="ada", value="a", answered_at=at(3))
    with database.transaction("console") as tx:
        submit_answer(tx, TASK, kind, rules, answer)
    handle([word])  # too late: experts had settled it
    with database.transaction("console") as tx:
        assert undo(tx, TASK, kind, "ada", at(9), rules) is not None
    handle([word])
    with database.transaction(read_only=True) as tx:
        found = tx.desk.find(TASK, "s1")
        assert found is not None
        assert found.state != "withdrawn"
    handle([msgspec.structs.replace(word, event_id="z-another", occurred_at=at(20))])
    with database.transaction(read_only=True) as tx:
        found = tx.desk.find(TASK, "s1")
        assert found is not None
        assert found.state == "withdrawn"
