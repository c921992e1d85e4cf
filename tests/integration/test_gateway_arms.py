"""Two arms behind the gateway: who meets which, what the other one says, and a split that moves."""

from __future__ import annotations

import threading

import pytest
from gateway_harness import (
    LABELS,
    AfterFirst,
    Gateway,
    KeywordClassifier,
    eventually,
    model_server,
    split_event,
)

from flywheel.contracts.events import ShadowRecorded, TrafficRecorded
from flywheel.gateway.config import GatewayLimits


def test_the_other_arm_scores_in_the_shadow(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.5, shadow=1.0))
    arms = {}
    for number in range(20):
        answer = gate.classify(f"Question {number}").json()
        arms[answer["sample_id"]] = answer["arm"]
    assert set(arms.values()) == {"champion", "challenger"}
    eventually(lambda: len(gate.events(ShadowRecorded)) == 20)
    for shadow in gate.events(ShadowRecorded):
        assert shadow.arm != arms[shadow.sample_id]
        assert shadow.release == {"champion": "r1", "challenger": "r2"}[shadow.arm]
        assert shadow.output in LABELS


@pytest.mark.parametrize(
    ("assign_by", "user", "arms", "units"),
    [
        ("user", "the-app", 1, 1),
        ("request", "the-app", 2, 24),
        ("user", "", 2, 24),
        ("user", "  ", 2, 24),
    ],
)
def test_one_caller_is_one_unit_unless_each_request_is_drawn(
    gateway, champion, assign_by, user, arms, units
) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.5, assign_by=assign_by))
    answers = [gate.classify(f"Who? {n}", user=user).json() for n in range(24)]
    eventually(lambda: len(gate.events(TrafficRecorded)) == 24)
    events = gate.events(TrafficRecorded)
    assert len({answer["arm"] for answer in answers}) == arms
    assert len({event.unit for event in events}) == units
    # What is recorded as the unit is what the lot was drawn by.
    assert all(event.unit in (user, event.sample_id) for event in events)
    # And whose it is, who may ask to be erased.
    assert all(event.sender == (user.strip() or event.sample_id) for event in events)


def test_shadow_copies_are_dropped_rather_than_slowing_answers(gateway, champion) -> None:
    go = threading.Event()

    def load(release: str) -> KeywordClassifier:
        return KeywordClassifier(release, gate=AfterFirst(go))

    def dropped(gate: Gateway) -> float:
        text = gate.http.get("/metrics").text
        name = "flywheel_gateway_shadow_dropped_total "
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

    with model_server(split_event("slow"), load=load) as (slow, _):
        limits = GatewayLimits(shadow_concurrency=1, shadow_queue=1)
        split = split_event("r1", "slow", share=0.0, shadow=1.0)
        gate = gateway([champion, slow], split=split, limits=limits)
        before = dropped(gate)
        assert [gate.classify(f"Who? {n}").status_code for n in range(10)] == [200] * 10
        # One copy is being scored and one is waiting; the other eight had no place.
        assert dropped(gate) - before == 8
        go.set()
        eventually(lambda: len(gate.events(ShadowRecorded)) == 2)


def test_the_split_moves_at_once_and_no_request_fails(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.0))
    stop = threading.Event()
    failed: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            status = gate.classify("Who?").status_code
            if status != 200:
                failed.append(status)

    asking = threading.Thread(target=ask)
    asking.start()
    for share in (0.1, 0.5, 1.0):
        gate.splits.update(split_event("r1", "r2", share))
    assert gate.classify("Who?").json()["release"] == "r2"
    gate.splits.update(split_event("r2"))
    assert gate.classify("Who?").json()["release"] == "r2"
    stop.set()
    asking.join()
    assert failed == []
