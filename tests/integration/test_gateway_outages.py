"""What the gateway makes of model servers that fail, hang, end or are away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer

from failing_servers import ChampionAnswers, hanging
from gateway_harness import eventually, model_server, split_event

from flywheel.contracts.events import ShadowRecorded, TrafficRecorded


def test_a_replica_that_dies_or_lacks_the_release_is_passed_over(gateway, champion) -> None:
    with ExitStack() as stack:
        dying, _ = stack.enter_context(model_server(split_event("r1")))
        lacking, _ = stack.enter_context(model_server())
        gate = gateway([dying, lacking, champion], split=split_event("r1"))
        assert all(gate.classify(f"Q {n}").status_code == 200 for n in range(10))
        stack.close()
        assert all(gate.classify(f"Q {n}").status_code == 200 for n in range(10))


def test_when_no_model_answers_the_failure_is_recorded(gateway) -> None:
    gate = gateway(["http://127.0.0.1:9"], split=split_event("r1"), timeout=0.3)
    response = gate.classify("Who?")
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert "no model server answered for r1" in response.json()["detail"]
    eventually(lambda: gate.events(TrafficRecorded))
    [event] = gate.events(TrafficRecorded)
    assert (event.status, event.release, event.output) == (503, "r1", None)
    assert event.error is not None
    assert event.error.startswith("unavailable: ")


def test_a_challenger_that_does_not_answer_costs_no_caller_an_answer(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "nowhere", 1.0), timeout=1.0)
    answer = gate.classify("Who?").json()
    assert (answer["label"], answer["release"], answer["arm"]) == ("HUM", "r1", "champion")
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    failed, served = gate.events(TrafficRecorded)
    assert (failed.release, failed.arm, failed.status) == ("nowhere", "challenger", 503)
    assert (failed.challenger_share, failed.outage) == (1.0, False)
    # Nobody drew the champion by lot here, so what it answers counts for no arm.
    assert (served.release, served.arm, served.status) == ("r1", None, 200)
    assert (served.rollout_id, served.challenger_share) == (None, None)
    assert failed.sample_id == served.sample_id
    assert failed.event_id != served.event_id


def test_the_share_at_assignment_is_recorded_with_answers_and_copies(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.5, shadow=1.0))
    gate.classify("Who?")
    eventually(lambda: gate.events(ShadowRecorded))
    assert [event.challenger_share for event in gate.events(TrafficRecorded)] == [0.5]
    assert [event.challenger_share for event in gate.events(ShadowRecorded)] == [0.5]


def test_while_no_model_server_answers_the_failures_count_for_neither_arm(gateway) -> None:
    gate = gateway(["http://127.0.0.1:9"], split=split_event("r1", "r2", 0.5), timeout=0.4)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: gate.classify("Who?", user=f"u{n}"), range(12)))
    assert {answer.status_code for answer in answers} == {503}
    eventually(lambda: len(gate.events(TrafficRecorded)) == 12)
    events = gate.events(TrafficRecorded)
    assert {event.arm for event in events} == {"champion", "challenger"}
    assert all(event.outage and event.status == 503 for event in events)


def test_both_arms_wait_for_a_model_server_that_comes_back(gateway) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    split = split_event("r1", "r2", 0.5)
    gate = gateway([f"http://127.0.0.1:{port}"], split=split, timeout=60.0)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(gate.classify, "Who?", user=f"u{n}") for n in range(12)]
        # Longer than a challenger was once waited for.
        time.sleep(6.0)
        with model_server(split, port=port):
            answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["arm"] for answer in answers} == {"champion", "challenger"}
    eventually(lambda: len(gate.events(TrafficRecorded)) == 12)
    assert {event.status for event in gate.events(TrafficRecorded)} == {200}


def test_a_challenger_that_hangs_alone_has_failed_however_little_traffic_there_is(
    gateway,
) -> None:
    ended = threading.Event()

    class OneHangs(ChampionAnswers):
        def challenged(self) -> None:
            ended.wait(30)

    with ThreadingHTTPServer(("127.0.0.1", 0), OneHangs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        gate = gateway([url], split=split_event("r1", "r2", 1.0), timeout=2.0)
        assert gate.classify("Who?").json()["release"] == "r1"
        ended.set()
        server.shutdown()
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    failed, served = gate.events(TrafficRecorded)
    assert (failed.arm, failed.outage) == ("challenger", False)
    assert (served.arm, served.status) == (None, 200)


@contextmanager
def dies_at_the_challenger() -> Iterator[str]:
    """A model server that ends at each request for r2, and is back a second later."""
    ended = threading.Event()

    class Dies(ChampionAnswers):
        def challenged(self) -> None:
            self.server.shutdown()

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Dies)]
    address = servers[0].server_address

    def supervise() -> None:
        while not ended.is_set():
            with servers[-1] as server:
                server.serve_forever(poll_interval=0.01)
            if not ended.wait(1.0):
                servers.append(ThreadingHTTPServer(address, Dies))

    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    try:
        yield f"http://127.0.0.1:{address[1]}"
    finally:
        ended.set()
        servers[-1].shutdown()
        supervisor.join(10)


def test_a_challenger_that_kills_its_model_server_has_failed(gateway) -> None:
    with dies_at_the_challenger() as url:
        gate = gateway([url], split=split_event("r1", "r2", 1.0), timeout=3.0)
        assert gate.classify("Who?").json()["release"] == "r1"
        eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    failed, served = gate.events(TrafficRecorded)
    assert (failed.arm, failed.status, failed.outage) == ("challenger", 503, False)
    assert (served.arm, served.status) == (None, 200)


def test_a_copy_that_kills_its_model_server_is_recorded_as_failed(gateway) -> None:
    with dies_at_the_challenger() as url:
        gate = gateway([url], split=split_event("r1", "r2", 0.0, shadow=1.0), timeout=3.0)
        assert gate.classify("Who?").json()["release"] == "r1"
        eventually(lambda: gate.events(ShadowRecorded))
    [copy] = gate.events(ShadowRecorded)
    assert (copy.arm, copy.output) == ("challenger", None)
    assert copy.error is not None


def test_a_copy_that_no_model_server_answered_says_nothing_of_its_arm(gateway) -> None:
    split = split_event("r1", "r2", 0.5, shadow=1.0)
    with model_server(split) as (url, _):
        gate = gateway([url], split=split, timeout=2.0)
        gate.classify("Who?")
        eventually(lambda: gate.events(ShadowRecorded))
        held = len(gate.events(ShadowRecorded))
    # The servers are gone: the answer fails, and there is no copy of it.
    assert gate.classify("Where?").status_code == 503
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert gate.events(TrafficRecorded)[-1].outage
    assert len(gate.events(ShadowRecorded)) == held


def test_a_text_that_every_model_fails_at_is_given_up_early(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"), timeout=60.0)
    response = gate.classify("make it explode")
    assert response.status_code == 503
    assert "r1 fails at this text" in response.json()["detail"]
    assert gate.classify("Who?").status_code == 200


def test_a_replica_that_hangs_is_left_for_another(gateway, champion) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        gate = gateway([hanging, champion], split=split_event("r1"), timeout=3.0)
        assert [gate.classify("Who?").status_code for _ in range(4)] == [200] * 4


def test_a_replica_that_hung_gets_no_request_of_a_caller_until_it_answers_a_probe(
    gateway, champion
) -> None:
    with hanging() as (url, replica):
        gate = gateway([url, champion], split=split_event("r1"), timeout=4.0)
        began = time.monotonic()
        asked = 0
        # As long as it took to be asked again four times, when that was once a second.
        while asked < 40 or time.monotonic() - began < 4.5:
            assert gate.classify("Who hangs?").status_code == 200
            asked += 1
        assert replica.asked.count("r1 Who hangs?") == 1
        assert "flywheel_gateway_replicas_away 1.0" in gate.http.get("/metrics").text
        replica.well.set()
        replica.asked.clear()

        def back() -> bool:
            gate.classify("Who is back?")
            return "r1 Who is back?" in replica.asked

        eventually(back)
        assert "flywheel_gateway_replicas_away 0.0" in gate.http.get("/metrics").text


def test_a_replica_that_hangs_at_one_release_keeps_the_other(gateway, champion) -> None:
    with hanging(only_r2=True) as (url, replica):
        gate = gateway([url, champion], split=split_event("r1", "r2", 0.5), timeout=1.5)
        units = [f"u{number}" for number in range(40)]
        answers = [gate.classify("Who?", user=unit).json() for unit in units]
        assert {answer["arm"] for answer in answers} == {"champion", "challenger"}
        assert replica.asked.count("r2 Who?") == 1
        before = replica.asked.count("r1 Who?")
        for unit in units:
            gate.classify("Who?", user=unit)
        assert replica.asked.count("r2 Who?") == 1
        assert replica.asked.count("r1 Who?") > before


def test_where_every_replica_hangs_callers_ask_them_all_the_same(gateway) -> None:
    with hanging() as (one, first), hanging() as (other, second):
        gate = gateway([one, other], split=split_event("r1"), timeout=1.0)
        assert gate.classify("Who?").status_code == 503
        first.well.set()
        second.well.set()
        eventually(lambda: gate.classify("Who?").status_code == 200)


def test_a_split_that_runs_ahead_of_the_model_servers_only_costs_time(gateway) -> None:
    with model_server(split_event("r1")) as (url, releases):
        gate = gateway([url], split=split_event("r1"))
        gate.splits.update(split_event("r2"))
        later = threading.Timer(0.3, releases.update, [split_event("r2")])
        later.start()
        assert gate.classify("Who?").json()["release"] == "r2"
        later.join()
