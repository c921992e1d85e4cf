"""Releases that no model server answers for: whose failure it is, and whose time it costs."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import httpx
import pytest
from failing_servers import hanging
from gateway_harness import (
    Gateway,
    KeywordClassifier,
    eventually,
    load_keyword,
    model_server,
    split_event,
)

from flywheel.contracts.events import ShadowRecorded, TrafficRecorded
from flywheel.contracts.ids import unit_fraction
from flywheel.errors import ArtefactError

# Of requests that must not wait, far below the gateway's own limit in the tests that use it.
AT_ONCE, LIMIT = httpx.Timeout(8.0), 40.0


def ask(gate: Gateway, text: str = "Who?", user: str = "ada") -> httpx.Response:
    body = {"task": "questions", "text": text, "user": user}
    return gate.http.post("/v1/classify", json=body, timeout=AT_ONCE)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_challenger_that_hangs_everywhere_is_soon_not_waited_for(gateway, replicas: int) -> None:
    with ExitStack() as stack:
        found = [stack.enter_context(hanging(only_r2=True)) for _ in range(replicas)]
        servers = [server for _, server in found]

        def waits() -> int:
            return sum(server.asked.count("r2 Who?") for server in servers)

        split = split_event("r1", "r2", 1.0)
        gate = gateway([url for url, _ in found], split=split, timeout=0.8)
        for _ in range(3):
            assert gate.classify("Who?").json()["release"] == "r1"
        waited = waits()
        for _ in range(20):
            assert gate.classify("Who?").json()["release"] == "r1"
        assert waits() == waited
        assert "flywheel_gateway_releases_passed_over 1.0" in gate.http.get("/metrics").text

        # Each of them is the challenger's failure all the same.
        eventually(lambda: len(gate.events(TrafficRecorded)) == 46)
        failed = [event for event in gate.events(TrafficRecorded) if event.status != 200]
        assert [(event.arm, event.status, event.outage) for event in failed] == [
            ("challenger", 503, False)
        ] * 23
        assert "r2 was not asked: the 3 requests before ran out of time" in (failed[-1].error or "")
        assert {event.challenger_share for event in failed} == {1.0}

        for server in servers:
            server.well.set()
        eventually(lambda: gate.classify("Who is back?").json()["arm"] == "challenger")
        assert "flywheel_gateway_releases_passed_over 0.0" in gate.http.get("/metrics").text


def test_copies_for_a_challenger_that_hangs_are_its_failures_too(gateway) -> None:
    with hanging(only_r2=True) as (url, server):
        gate = gateway([url], split=split_event("r1", "r2", 0.0, shadow=1.0), timeout=0.6)
        for number in range(20):
            assert gate.classify("Who?", user=f"u{number}").json()["arm"] == "champion"
        eventually(lambda: len(gate.events(ShadowRecorded)) == 20)
        copies = gate.events(ShadowRecorded)
        assert {(copy.arm, copy.output) for copy in copies} == {("challenger", None)}
        assert all(copy.error for copy in copies)
        # As many as are scored at a time, and those that had begun by then.
        assert server.asked.count("r2 Who?") < 12


def test_arms_that_hang_together_fail_alike(gateway) -> None:
    with hanging() as (url, server):
        gate = gateway([url], split=split_event("r1", "r2", 0.5), timeout=0.6)
        drawn = {f"u{n}": unit_fraction("rollout-r2", f"u{n}") < 0.5 for n in range(100)}
        units = [
            unit
            for arm in (True, False)
            for unit in [unit for unit, challenger in drawn.items() if challenger == arm][:5]
        ]
        assert {gate.classify("Who?", user=unit).status_code for unit in units} == {503}
        eventually(lambda: len(gate.events(TrafficRecorded)) == len(units))
        events = gate.events(TrafficRecorded)
        assert {(event.arm, event.outage) for event in events} == {
            ("champion", False),
            ("challenger", False),
        }
        for arm in ("champion", "challenger"):
            assert any("was not asked" in event.error for event in events if event.arm == arm)
        server.well.set()

        def both() -> bool:
            answers = [gate.classify("Who?", user=unit).json() for unit in units]
            return [a["arm"] for a in answers] == [e.arm for e in events] and {
                a["release"] for a in answers
            } == {"r1", "r2"}

        eventually(both)


def test_what_hung_and_is_away_then_fails_for_nobody(gateway) -> None:
    with hanging() as (url, _):
        gate = gateway([url], split=split_event("r1", "r2", 1.0), timeout=0.6)
        for _ in range(4):
            assert gate.classify("Who?").status_code == 503
    # Its process has ended: nobody is there to be asked.

    def outage() -> bool:
        assert gate.classify("Who?").status_code == 503
        count = len(gate.events(TrafficRecorded))
        return count > 4 and gate.events(TrafficRecorded)[-1].outage

    eventually(outage)


def unloadable(*releases: str):
    """A loader that finds the files of these releases gone, until they are back."""
    back = threading.Event()

    def load(release: str) -> KeywordClassifier:
        if release in releases and not back.is_set():
            raise ArtefactError(f"/releases/{release}/release.json is gone")
        return load_keyword(release)

    return load, back


def test_a_champion_that_no_server_can_load_is_said_at_once(gateway) -> None:
    load, back = unloadable("r1")
    split = split_event("r1")
    with ExitStack() as stack:
        served = [stack.enter_context(model_server(split, load=load)) for _ in range(2)]
        gate = gateway([url for url, _ in served], split=split, timeout=LIMIT)
        for body in (
            {"task": "questions", "text": "Who?"},
            {"model": "questions", "messages": [{"role": "user", "content": "Who?"}]},
        ):
            path = "/v1/classify" if "task" in body else "/v1/chat/completions"
            answer = gate.http.post(path, json=body, timeout=AT_ONCE)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 2
            assert answer.json()["code"] == "release-not-loaded"
            said = answer.json()["error"]["message"]
            assert "no model server could load r1" in said
            assert "/releases/r1/release.json is gone" in said
        eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
        assert {event.status for event in gate.events(TrafficRecorded)} == {503}
        back.set()
        for _, releases in served:
            releases.update(split)
        eventually(lambda: ask(gate).status_code == 200)


@pytest.mark.parametrize("gone", ["r1", "r2"])
def test_an_arm_that_no_server_can_load_costs_no_time(gateway, gone: str) -> None:
    load, _ = unloadable(gone)
    split = split_event("r1", "r2", 0.5)
    with model_server(split, load=load) as (url, _):
        gate = gateway([url], split=split, timeout=LIMIT)
        answers = [ask(gate, user=f"u{number}") for number in range(12)]
    eventually(lambda: len(gate.events(TrafficRecorded)) >= 12)
    failed = [event for event in gate.events(TrafficRecorded) if event.status == 503]
    assert {(event.release, event.outage) for event in failed} == {(gone, False)}
    well = {answer.status_code for answer in answers}
    # The champion stands in for a challenger; for the champion nobody does.
    assert well == ({200} if gone == "r2" else {200, 503})


def test_one_server_that_can_load_it_is_enough(gateway, champion) -> None:
    load, _ = unloadable("r1")
    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url, champion], split=split_event("r1"), timeout=LIMIT)
        assert [ask(gate).status_code for _ in range(6)] == [200] * 6


def test_a_server_that_is_away_may_have_it(gateway) -> None:
    load, _ = unloadable("r1")
    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url, "http://127.0.0.1:9"], split=split_event("r1"), timeout=0.5)
        answer = ask(gate)
    assert answer.status_code == 503
    assert "no model server answered for r1 within 0.5 s" in answer.json()["detail"]


def test_what_failed_to_load_once_is_waited_for(gateway) -> None:
    failures = iter([RuntimeError("out of memory")])

    def load(release: str) -> KeywordClassifier:
        for error in failures:
            raise error
        return load_keyword(release)

    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url], split=split_event("r1"), timeout=LIMIT)
        assert ask(gate).status_code == 200


def test_what_fails_to_load_again_is_not(gateway) -> None:
    loads: list[str] = []

    def load(release: str) -> KeywordClassifier:
        loads.append(release)
        raise RuntimeError("out of memory")

    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url], split=split_event("r1"), timeout=LIMIT)
        answer = ask(gate)
        assert answer.status_code == 503
        assert "RuntimeError: out of memory" in answer.json()["detail"]
        assert len(loads) >= 2
