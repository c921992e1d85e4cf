"""The champion's files are gone and its server restarted: what is said is what is answered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from gateway_harness import KeywordClassifier, client, model_server, split_event, started_gateway
from kafka_fixture import free_port

from flywheel.cli import cli
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import ArtefactError
from flywheel.processes.answering import Answering
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.ports import Command
from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings, load_settings
from storage.database import Database
from storage.workspace import champions, open_database

TASK = "questions"


class Machine:
    """A workspace with a model server of its own, and folders that releases are loaded from."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.folder, self.servers = folder, servers
        self.port = 0
        for release in ("r1", "r2"):
            (folder / release).touch()
        self.restart()
        arguments = ["-w", str(folder), "init", "--task", TASK, "--label", "NUM", "--label", "HUM"]
        ports = ["--set", f"kafka.local_port={free_port()}"]
        done = CliRunner().invoke(cli, [*arguments, *ports], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    def restart(self) -> None:
        """The model server, with what lies there now."""
        self.servers.close()
        started = model_server(split_event("r1", "r2", 0.1), load=self.load, port=self.port)
        url, _ = self.servers.enter_context(started)
        self.port = urlsplit(url).port or 0

    def load(self, release: str) -> KeywordClassifier:
        if not (self.folder / release).exists():
            raise ArtefactError(f"{self.folder / release} is gone")
        return KeywordClassifier(release)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> FlywheelSettings:
        return load_settings(self.folder, {"FLYWHEEL_SERVING_URLS": self.url})

    def status(self, *arguments: str) -> str:
        environment = {"FLYWHEEL_SERVING_URLS": self.url}
        asked = ["-w", str(self.folder), "status", *arguments]
        return CliRunner(env=environment).invoke(cli, asked).stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ExitStack() as servers:
        yield Machine(tmp_path, servers)


def controlled(machine: Machine, database: Database, servers: PolledServers) -> None:
    tick(
        partial(database.transaction, "controller"),
        partial(database.transaction, read_only=True),
        TASK,
        RolloutSettings(steps=(0.1,)),
        servers,
        utc_now(),
    )


def test_status_health_and_rollback_go_by_what_is_answered(machine: Machine) -> None:
    servers = PolledServers(probes([machine.url]), remember=0.0)
    with open_database(machine.settings) as database:
        for release in ("r1", "r2"):
            with database.transaction("controller") as tx:
                tx.challengers.enqueue(TASK, release, utc_now(), True)
            controlled(machine, database, servers)
        controlled(machine, database, servers)
        answering = Answering(lambda: champions(database, machine.settings), servers)
        answering.refresh()
        assert (answering.every(), answering.all_tasks()) == (None, None)
        assert f"{TASK}: r1 serves\n" in machine.status()

        (machine.folder / "r1").unlink()
        machine.restart()

        answering.refresh()
        problem = answering.unanswered(TASK)
        assert problem is not None
        assert problem.startswith("r1 is the champion and answers on none of 1 model servers: ")
        assert "r1 is gone" in problem
        said = machine.status()
        assert "serves" not in said
        assert f"{TASK}: r1 is the champion and answers on none of 1 model servers" in said
        assert "requests are not answered" in said
        answers = json.loads(machine.status("--json"))["tasks"][TASK]["answers"]
        assert (answers["ready"], answers["total"]) == (0, 1)

        outcome = rolled_back(machine, database, servers)
        assert outcome.startswith("refused: r1, the champion, answers on none of 1 model servers")
        assert "r1 is gone" in outcome

        (machine.folder / "r1").touch()
        machine.restart()
        answering.refresh()
        assert answering.every() is None
        assert rolled_back(machine, database, servers) == "rolled_back"


def rolled_back(machine: Machine, database: Database, servers: PolledServers) -> str:
    with database.transaction("cli") as tx:
        running = tx.rollouts.active(TASK)
        assert running is not None
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind="rollback",
            by="ada",
            why="it is wrong",
            at=utc_now(),
            rollout_id=running.rollout_id,
        )
        tx.commands.add(command)
    controlled(machine, database, servers)
    with database.transaction(read_only=True) as tx:
        found = tx.commands.asked(command.command_id)
    assert found is not None
    return found.outcome or ""


def test_the_gateways_health_says_that_nobody_answers(machine: Machine, tmp_path: Path) -> None:
    split = split_event("r1")
    servers = PolledServers(probes([machine.url]), remember=0.0)
    answering = Answering(lambda: {TASK: split.split.champion}, servers)
    checks = {"champions": answering.all_tasks}
    gateway = started_gateway(tmp_path, [machine.url], split=split, timeout=1.0, checks=checks)
    with contextlib.closing(machine.servers), gateway as gate:
        answering.refresh()
        assert gate.http.get("/healthz").status_code == 200
        assert gate.classify("Who?").status_code == 200
        (machine.folder / "r1").unlink()
        machine.restart()
        answering.refresh()
        answer = gate.http.get("/healthz")
        assert answer.status_code == 503
        assert "r1 is gone" in answer.json()["checks"]["champions"]
        assert gate.classify("Who?").status_code == 503
        with client(machine.url) as server:
            assert server.get("/healthz").status_code == 503


def test_one_task_that_is_not_answered_takes_no_other_from_its_callers(machine: Machine) -> None:
    (machine.folder / "r1").unlink()
    machine.restart()
    servers = PolledServers(probes([machine.url]), remember=0.0)
    answering = Answering(lambda: {TASK: "r1", "other": "r2"}, servers)
    answering.refresh()
    assert answering.all_tasks() is None
    assert "r1 is the champion" in (answering.every() or "")


def test_a_server_that_is_down_is_said_as_well(machine: Machine) -> None:
    with open_database(machine.settings) as database, database.transaction("controller") as tx:
        tx.rollouts.set_champion(TASK, "r1")
    machine.servers.close()
    said = machine.status()
    assert f"{TASK}: r1 is the champion and answers on none of 1 model servers" in said
    assert "refused" in said
