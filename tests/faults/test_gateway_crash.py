"""kill -9, SIGTERM, taken ports and folders: no acknowledged request is ever lost."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.gateway.spill import SpillLog
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app
from flywheel.serving.engine import InProcess
from flywheel.serving.releases import ReleaseSet

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def test_a_killed_writer_has_every_record_that_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    following = 0
    for _ in range(6):
        arguments = [sys.executable, str(HERE / "spill_writer.py"), str(tmp_path), str(following)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]
            time.sleep(random.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        acknowledged += [int(line) for line in lines if line.endswith(b"\n")]
        following = acknowledged[-1] + 1
    log = SpillLog(tmp_path)
    found: list[int] = []
    while True:
        batch, after = log.read()
        log.advance(after)
        if not batch:
            break
        for record in batch:
            number = int(record.key)
            assert record.value == b"x" * (number * 37 % 900)
            found.append(number)
    log.close()
    # One record more per kill may be there: written, but its writer died before saying so. The
    # next writer then uses that number again.
    assert set(acknowledged) <= set(found)
    assert found == sorted(found)
    assert len(found) - len(acknowledged) <= 6


class Constant(InProcess):
    """Answers the same label always."""

    labels = ("a", "b")

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [{"a": 0.75, "b": 0.25} for _ in texts]


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    releases = ReleaseSet(lambda _release: Constant())
    releases.update(
        RolloutChanged(
            event_id=new_id(),
            occurred_at=utc_now(),
            task="t",
            rollout_id="r",
            state="serving",
            split=TrafficSplit(task="t", champion="r1"),
            decided_by="test",
            reason="",
        )
    )
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()
    thread.join()
    releases.stop()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(folder: Path, port: int, model_url: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, str(HERE / "gateway_process.py"), str(folder), str(port)]
    return subprocess.Popen([*arguments, model_url], stderr=subprocess.PIPE)


def wait_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if http.get("/v1/models").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("the gateway did not start")


def published(folder: Path) -> dict[str, set[str]]:
    """Sample id → ids of its events."""
    found: dict[str, set[str]] = {}
    path = folder / "published"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        sample, event = msgspec.json.decode(line)
        found.setdefault(sample, set()).add(event["event_id"])
    return found


def ask(http: httpx.Client, sample: str) -> bool:
    try:
        response = http.post(
            "/v1/classify",
            json={"task": "t", "text": f"text of {sample}"},
            headers={"x-flywheel-sample-id": sample},
        )
    except httpx.TransportError:
        return False
    return response.status_code == 200


def test_a_killed_gateway_loses_no_acknowledged_request(tmp_path: Path, model_url: str) -> None:
    port = free_port()
    acknowledged: list[str] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        for life in range(3):
            # In the second life the broker is away all the time.
            down = tmp_path / "broker-down"
            down.touch() if life == 1 else down.unlink(missing_ok=True)
            gateway = start(tmp_path, port, model_url)
            wait_ready(http)
            killer = threading.Timer(random.uniform(0.05, 0.3), gateway.kill)
            killer.start()
            for number in range(10_000):
                sample = f"{life}-{number}"
                if not ask(http, sample):
                    break
                acknowledged.append(sample)
            killer.join()
            gateway.communicate()
        down.unlink(missing_ok=True)
        gateway = start(tmp_path, port, model_url)
        wait_ready(http)
        # A client repeats what it got no answer to; it counts once all the same.
        assert all(ask(http, f"{life}-0") for life in range(3))
        gateway.terminate()
        _, errors = gateway.communicate(timeout=60)
    assert gateway.returncode == 0, errors.decode()
    found = published(tmp_path)
    assert set(acknowledged) <= set(found)
    assert all(len(ids) == 1 for ids in found.values())


def test_sigterm_finishes_what_is_under_way_and_publishes_it(
    tmp_path: Path, model_url: str
) -> None:
    port = free_port()
    gateway = start(tmp_path, port, model_url)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        wait_ready(http)
        assert all(ask(http, str(number)) for number in range(50))
    gateway.terminate()
    _, errors = gateway.communicate(timeout=60)
    assert gateway.returncode == 0, errors.decode()
    assert set(published(tmp_path)) == {str(number) for number in range(50)}


def test_sigterm_while_the_broker_is_away_leaves_the_rest_for_the_next_start(
    tmp_path: Path, model_url: str
) -> None:
    port = free_port()
    down = tmp_path / "broker-down"
    down.touch()
    gateway = start(tmp_path, port, model_url)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        wait_ready(http)
        assert all(ask(http, str(number)) for number in range(20))
        gateway.terminate()
        _, errors = gateway.communicate(timeout=60)
        assert gateway.returncode == 0, errors.decode()
        assert published(tmp_path) == {}
        down.unlink()
        gateway = start(tmp_path, port, model_url)
        wait_ready(http)
    gateway.terminate()
    gateway.communicate(timeout=60)
    assert set(published(tmp_path)) == {str(number) for number in range(20)}


def test_a_taken_port_and_a_taken_folder_are_named(tmp_path: Path, model_url: str) -> None:
    port = free_port()
    first = start(tmp_path / "one", port, model_url)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        wait_ready(http)
        same_port = start(tmp_path / "two", port, model_url)
        _, errors = same_port.communicate(timeout=60)
        assert same_port.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}".encode() in errors
        assert b"another gateway.port in flywheel.toml" in errors
        same_folder = start(tmp_path / "one", free_port(), model_url)
        _, errors = same_folder.communicate(timeout=60)
        assert same_folder.returncode == 1
        assert b"another gateway is using" in errors
        assert ask(http, "still-here")
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 0
