"""`flywheel rollout …`: what is asked for happens, or the command says that it did not, and why."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from kafka_fixture import free_port

from flywheel.cli import cli
from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import Conflict, FlywheelError, Unavailable
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Rollout
from flywheel.settings import load_settings
from storage.database import Database
from storage.workspace import open_database

TASK = "topics"
SETTINGS = RolloutSettings(steps=(0.005, 0.5))
WHO = ("--by", "ada", "--why", "a night shift")


class Everywhere:
    def ready(self, release: str) -> Readiness:
        return Readiness(ready=1, total=1)


class Workspace:
    """A workspace whose controller runs only while ``controlled``."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database

    def run(self, *arguments: str) -> str:
        """What a command says; its FlywheelError when it fails."""
        done = self.invoke(*arguments)
        if isinstance(done.exception, FlywheelError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def invoke(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli, ["-w", str(self.folder), "rollout", *arguments])

    def register(self, release: str, passed: bool = True) -> None:
        with self.database.transaction("controller") as tx:
            tx.challengers.enqueue(TASK, release, utc_now(), passed)

    def tick(self) -> None:
        tick(
            partial(self.database.transaction, "controller"),
            partial(self.database.transaction, read_only=True),
            TASK,
            SETTINGS,
            Everywhere(),
            utc_now(),
        )

    @contextmanager
    def controlled(self) -> Iterator[None]:
        stopping = threading.Event()

        def work() -> None:
            while not stopping.wait(0.05):
                self.tick()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    @property
    def newest(self) -> Rollout:
        with self.database.transaction(read_only=True) as tx:
            return tx.rollouts.history(TASK, 1)[0]


def last(said: str) -> str:
    """The last line: the controller of these tests writes its log to the same place."""
    return said.splitlines()[-1]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """r1 serves; the challenger r2 answers 0.5 % of the traffic."""
    ports = ("--set", f"controller_port={free_port()}")
    labels = ("--label", "a", "--label", "b")
    arguments = ["-w", str(tmp_path), "init", "--task", TASK, *labels, *ports]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with open_database(load_settings(tmp_path)) as database:
        made = Workspace(tmp_path, database)
        for release in ("r1", "r2"):
            made.register(release)
            made.tick()
        made.tick()
        assert made.newest.state == "canary"
        yield made


@pytest.mark.parametrize("kind", ["pause", "resume", "promote", "rollback"])
def test_with_nothing_running_it_is_refused_and_the_refusal_is_kept(
    workspace: Workspace, kind: str
) -> None:
    with workspace.controlled():
        workspace.run("rollback", *WHO)
        with pytest.raises(Conflict, match=f"nothing to {kind}"):
            workspace.run(kind, *WHO)
    shown = workspace.run("show")
    assert any(
        ["ada", kind, "a night shift"] == re.split(r"  +", line)[1:4]
        and f"refused: no rollout of {TASK}" in line
        for line in shown.splitlines()
    )


def test_without_a_controller_it_is_withdrawn_and_that_is_said(workspace: Workspace) -> None:
    with pytest.raises(Unavailable, match=r"within 0\.3 s.*no controller answers.*flywheel up"):
        workspace.run("rollback", *WHO, "--wait", "0.3")
    workspace.tick()
    assert workspace.newest.state == "canary", "what was withdrawn comes true later"
    assert "withdrawn: nobody carried it out" in workspace.run("show")


def test_what_changed_is_said(workspace: Workspace) -> None:
    with workspace.controlled():
        said = workspace.run("pause", *WHO)
        assert last(said) == (
            "pause carried out: the rollout of r2 is paused at 0.5%; r1 is the champion"
        )
        ours = workspace.newest.rollout_id
        workspace.run("resume", *WHO, "--rollout", ours)
        said = workspace.run("promote", *WHO, "--rollout", ours[-8:])
    assert last(said) == "promote carried out: the rollout of r2 is promoted; r2 is the champion"
    shown = workspace.run("show")
    assert "100%" in next(
        line for line in shown.splitlines() if re.search(r"  r2 +promoted ", line)
    )


@pytest.mark.parametrize("kind", ["promote", "resume"])
def test_whoever_raises_a_share_names_the_rollout(workspace: Workspace, kind: str) -> None:
    done = workspace.invoke(kind, *WHO)
    assert done.exit_code == 2
    assert f"--rollout {workspace.newest.rollout_id}" in done.output
    assert "r2, canary at 0.5%" in " ".join(done.output.split())


def test_no_command_meets_a_later_rollout(workspace: Workspace) -> None:
    seen = workspace.newest.rollout_id
    with workspace.controlled():
        workspace.run("rollback", *WHO)
        workspace.register("r3")
        while workspace.newest.challenger != "r3" or workspace.newest.state != "canary":
            pass
        for kind in ("promote", "pause", "rollback", "resume"):
            with pytest.raises(Conflict, match=r"r2 has ended: rolled back.*what runs is.*r3"):
                workspace.run(kind, *WHO, "--rollout", seen)
    assert workspace.newest.state == "canary"


def test_a_rollout_that_changed_since_it_was_seen_is_not_promoted(workspace: Workspace) -> None:
    seen = workspace.newest
    with workspace.controlled():
        workspace.run("pause", *WHO, "--rollout", seen.rollout_id)
        named = ("--rollout", seen.rollout_id, "--revision", str(seen.revision))
        with pytest.raises(Conflict, match=r"changed since.*paused at 0\.5%"):
            workspace.run("promote", *WHO, *named)
        workspace.run("rollback", *WHO, "--rollout", seen.rollout_id)
    assert workspace.newest.state == "rolled_back"


def test_a_start_names_the_state_that_was_seen(workspace: Workspace) -> None:
    with workspace.controlled():
        workspace.run("rollback", *WHO)
        seen = workspace.newest
        workspace.register("r3")
        while workspace.newest.challenger != "r3" or workspace.newest.state != "canary":
            pass
        workspace.run("rollback", *WHO)
        named = ("--rollout", seen.rollout_id, "--revision", str(seen.revision))
        with pytest.raises(Conflict, match="a rollout of r3 has been since this was asked for"):
            workspace.run("start", *WHO, "--release", "r2", *named)
        assert "the rollout of r2 is" in workspace.run("start", *WHO, "--release", "r2")


def test_older_rollouts_are_said_and_shown(workspace: Workspace) -> None:
    with workspace.controlled():
        for number in range(3, 6):
            workspace.run("rollback", *WHO)
            workspace.register(f"r{number}")
            while workspace.newest.challenger != f"r{number}":
                pass
    few = workspace.run("show", "--limit", "2")
    assert "the latest 2; there are older ones" in few
    assert "r2" not in few.split("asked")[0]
    every = workspace.run("show")
    assert "older ones" not in every
    assert "r2" in every
    assert json.loads(workspace.run("show", "--json", "--limit", "2"))["older"] is True


def test_start_says_what_became_of_it(workspace: Workspace) -> None:
    with workspace.controlled():
        workspace.run("rollback", *WHO)
        with pytest.raises(Conflict, match="TYPO is no registered release"):
            workspace.run("start", *WHO, "--release", "TYPO")
        workspace.register("bad", passed=False)
        with pytest.raises(Conflict, match=r"did not pass the gate.*override"):
            workspace.run("start", *WHO, "--release", "bad")
        assert "the rollout of bad is" in workspace.run(
            "start", *WHO, "--release", "bad", "--override"
        )
        assert "past the gate" in _first(workspace)
        workspace.run("rollback", *WHO)
        workspace.run("start", *WHO, "--release", "r2", "--override")
    assert "past the gate" not in _first(workspace), "it had passed"


def test_one_caller_is_said_with_the_way_out(workspace: Workspace) -> None:
    seen = workspace.newest
    began = seen.step_started_at - timedelta(minutes=1)
    with workspace.database.transaction("controller") as tx:
        tx.rollouts.save(msgspec.structs.replace(seen, step_started_at=began), None)
    with workspace.database.transaction("worker") as tx:
        tx.evidence_intake.record(
            [
                TrafficRecorded(
                    event_id=new_id(),
                    occurred_at=utc_now(),
                    task=TASK,
                    sample_id=f"s{number}",
                    content="?",
                    unit="the-app",
                    release="r1",
                    arm="champion",
                    rollout_id=seen.rollout_id,
                    challenger_share=seen.share,
                )
                for number in range(60)
            ]
        )
    shown = workspace.run("show")
    assert "the challenger answered 0 of 60 requests (0%); 0 of 1 units fell to it, 0.5%" in shown
    assert "one unit sent 60 of 60 requests (100%)" in shown
    assert 'assign_by = "request"' in shown
    units = json.loads(workspace.run("show", "--json"))["units"]
    assert (units["units"], units["share_of_requests"]) == (1, 0.0)


def _first(workspace: Workspace) -> str:
    with workspace.database.transaction(read_only=True) as tx:
        return tx.rollouts.transitions(workspace.newest.rollout_id)[0].reason
