"""What the rollout page says of a rollout, and what it does not say."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from rollout_memory import Fleet

from flywheel.console.app import create_app
from flywheel.console.words import moment
from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.rollout.commands import ask
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.ports import Command, CommandKind
from storage.database import Database
from storage.objects import open_artefacts

sys.path.append(str(Path(__file__).parents[1] / "browser"))
from console_places import vendored_assets
from console_seed import TASK, console_settings, opened, release_id, seed


class World:
    """The console over a story in which release 4 is at 25 %, its controller, and a person."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.database = database
        self.unanswered: str | None = None
        settings = console_settings(folder)
        self.app: FastAPI = create_app(
            settings,
            partial(database.transaction, "console"),
            vendored_assets(),
            artefacts=open_artefacts(settings),
            reading=partial(database.transaction, read_only=True),
            unanswered=lambda _task: self.unanswered,
        )

    def get(self, path: str) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.get(path)

        return asyncio.run(send())

    def words(self, rollout: str = "") -> str:
        """The page's text."""
        page = self.get(f"/rollout/{TASK}?rollout={rollout}")
        assert page.status_code == 200
        text = re.sub(r"</?bdi>", "", page.text)
        return " ".join(re.sub(r"<[^>]*>", " ", text).split())

    def asks(self, kind: CommandKind, ago: float = 0) -> None:
        with self.database.transaction("console") as tx:
            running = tx.rollouts.active(TASK)
            assert running is not None
            values: dict[str, Any] = {"rollout_id": running.rollout_id}
            tx.commands.add(
                Command(
                    command_id=new_id(),
                    task=TASK,
                    kind=kind,
                    by="ada",
                    why="the move",
                    at=utc_now() - timedelta(seconds=ago),
                    revision=running.revision,
                    **values,
                )
            )

    def traffic(self, *users: str) -> None:
        """A request of each user to the champion of the running rollout, a while into its step."""
        with self.database.transaction("worker") as tx:
            running = tx.rollouts.active(TASK)
            assert running is not None
            tx.evidence_intake.record_traffic(
                [
                    TrafficRecorded(
                        event_id=new_id(),
                        occurred_at=utc_now(),
                        task=TASK,
                        sample_id=f"of-{number}",
                        content="?",
                        unit=user,
                        release=running.champion,
                        arm="champion",
                        rollout_id=running.rollout_id,
                        challenger_share=running.share,
                    )
                    for number, user in enumerate(users)
                ]
            )

    def tick(self) -> None:
        tick(
            partial(self.database.transaction, "controller"),
            partial(self.database.transaction, read_only=True),
            TASK,
            RolloutSettings(min_requests=10**6),
            Fleet(),
            utc_now(),
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = opened(f"sqlite:///{tmp_path / 'flywheel.db'}", seed)
    yield World(tmp_path, database)
    database.dispose()


def test_a_canary_that_failed_its_gate_says_so_and_who_put_it_past(world: World) -> None:
    words = world.words("broken")
    assert "Failed its gate: accuracy 40.2% is worse" in words
    assert "ada put it past: “fire drill: must be rolled back”" in words
    assert "Failed its gate" not in world.words()


def test_evidence_that_was_not_kept_is_not_made_up(world: World) -> None:
    words = world.words("broken")
    assert "No evidence was kept" in words
    assert (
        "audited samples"
        not in words.split("How it ended")[1].split("Evidence")[1].split("What was decided")[0]
    )


def test_a_command_that_nobody_carries_out_is_told_apart_from_one_that_waits(world: World) -> None:
    world.asks("pause")
    assert "waits for the controller" in world.words()
    world.asks("rollback", ago=30)
    assert "nobody has carried it out for 30 s. Is the controller running?" in world.words()


def test_a_release_that_waits_is_named(world: World) -> None:
    assert "waits: it is rolled out when" not in world.words()
    with world.database.transaction("controller") as tx:
        tx.challengers.enqueue(TASK, "questions-abcdef123456", utc_now(), True)
    assert "abcdef1 waits: it is rolled out when this one has ended" in world.words()


def test_a_pause_is_timed_from_where_it_began(world: World) -> None:
    world.asks("pause")
    world.tick()
    assert re.search(r"paused for \d s", world.words())
    assert world.get(f"/api/overview/{TASK}").json()["rollout"]["in_state"] < 60


def test_whoever_was_promoted_has_all_the_traffic(world: World) -> None:
    world.asks("promote")
    world.tick()
    page = world.get(f"/rollout/{TASK}").text
    assert 'aria-label="Champion 0\u202f%, challenger 100\u202f%"' in page
    assert "Promoted · Rollout" in page
    assert release_id(4)[-12:][:7] in world.words()


def test_only_audits_say_how_often_an_arm_is_right(world: World) -> None:
    found = world.get(f"/api/rollouts/{TASK}").json()["active"]
    audited = found["champion"]["audited"] + found["challenger"]["audited"]
    assert audited == found["paired"]["n"]


def test_harm_that_is_not_proven_has_not_passed_anything(world: World) -> None:
    harm = world.words().split("Harm ·")[1].split("Validity ·")[0]
    assert harm.count("not proven") == 3
    assert "passed" not in harm


def test_one_caller_as_one_unit_is_said_with_the_way_out(world: World) -> None:
    assert "by user: each meets one model throughout" in world.words()
    world.traffic(*["the-app"] * 4000)
    words = world.words()
    assert "One unit sent 4000 of" in words
    assert 'Way out: a person may set assign_by = "request"' in words.replace("&#34;", '"')
    assert "one user may meet both models in turn" in words
    found = world.get(f"/api/rollouts/{TASK}").json()["active"]["units"]
    assert found["heaviest_requests"] == 4000
    assert found["heaviest_share"] > 0.2


def test_a_champion_that_answers_nobody_serves_nothing(world: World) -> None:
    for page in ("/", f"/rollout/{TASK}"):
        assert "Requests are not answered" not in world.get(page).text
    world.unanswered = "r3 is the champion and answers on none of 2 model servers: it is gone"
    for page in ("/", f"/rollout/{TASK}"):
        text = world.get(page).text
        assert "Requests are not answered" in text
        assert "it is gone" in text
        assert "serving " not in text
        assert "serves all traffic" not in text


def test_a_release_of_long_ago_keeps_its_status_and_its_rollout(world: World) -> None:
    with world.database.transaction("controller") as tx:
        (broken,) = [one for one in tx.rollouts.history(TASK) if one.rollout_id == "broken"]
        for number in range(60):
            later = msgspec.structs.replace(
                broken,
                rollout_id=f"later-{number}",
                challenger=release_id(5),
                champion=release_id(6),
                started_at=broken.started_at + timedelta(seconds=number + 1),
                revision=0,
            )
            tx.rollouts.save(later, None)
    page = world.get(f"/releases/{TASK}/{broken.challenger}").text
    assert f"/rollout/{TASK}?rollout=broken" in page
    assert '<span class="chip fail">rolled back</span>' in page


def test_a_start_that_is_refused_before_the_first_rollout_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, opened(f"sqlite:///{tmp_path / 'empty.db'}"))
    with world.database.transaction("console") as tx:
        command = Command(
            command_id=new_id(), task=TASK, kind="start", by="ada", why="the move",
            at=utc_now() - timedelta(hours=1), rollout_id=None, release="TYPO",
        )  # fmt: skip
        assert "TYPO is no registered release" in ask(tx, command)
    words = world.words()
    assert "start not carried out" in words
    assert "refused: TYPO is no registered release" in words
    world.database.dispose()


def test_a_rollout_of_long_ago_is_found_and_the_list_says_that_it_is_none_of_all(
    world: World,
) -> None:
    assert "All rollouts" in world.words()
    with world.database.transaction("controller") as tx:
        (first,) = [one for one in tx.rollouts.history(TASK) if one.rollout_id == "first"]
        for number in range(60):
            later = msgspec.structs.replace(
                first,
                rollout_id=f"later-{number}",
                started_at=first.started_at + timedelta(seconds=number + 1),
                revision=0,
            )
            tx.rollouts.save(later, None)
    assert "The latest 50 rollouts" in world.words()
    older = world.get(f"/rollout/{TASK}?skip=50").text
    assert "Rollouts before the latest 50" in older
    assert 'id="h-first"' in older
    assert f'href="/rollout/{TASK}?skip=0"' in older
    assert world.get(f"/rollout/{TASK}?skip=-1").status_code == 422
    assert f"ended {moment(first.ended_at)}" in world.words("first")
    assert world.get(f"/api/rollouts/{TASK}/first").status_code == 200


def test_a_first_release_was_not_tried_against_itself(tmp_path: Path) -> None:
    world = World(tmp_path, opened(f"sqlite:///{tmp_path / 'empty.db'}"))
    with world.database.transaction("trainer") as tx:
        tx.challengers.enqueue(TASK, release_id(1), utc_now(), True)
    world.tick()
    words = world.words()
    short = release_id(1).rsplit("-", 1)[-1][:7]
    assert f"{short}, the first release, since" in words
    assert f"{short} first release" in words
    assert f"against {short}" not in words
    assert f"{short} {short}" not in words
    world.database.dispose()
