"""The rollout API over HTTP, on an in-memory transaction."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from rollout_memory import START, Fleet, MemoryDatabase, arm, naming, of_ten, pairs

from flywheel.monitoring.problems import install_problem_details
from flywheel.rollout.app import router
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick

TASK = "topics"
SETTINGS = RolloutSettings(min_labels=20, min_requests=10)


class Http:
    """A synchronous client of an application in this process."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._send("GET", path, None))

    def post(self, path: str, json: object) -> httpx.Response:
        return asyncio.run(self._send("POST", path, json))

    async def _send(self, method: str, path: str, json: object) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://console") as http:
            return await http.request(method, path, json=json)


class Console:
    def __init__(self) -> None:
        self.db = MemoryDatabase()
        app = FastAPI()
        install_problem_details(app)
        app.include_router(
            router(self.db.transaction, self.db.reading, {TASK: SETTINGS}, lambda: START)
        )
        self.http = Http(app)

    def ticks(self, count: int) -> None:
        for _ in range(count):
            tick(self.db.transaction, self.db.reading, TASK, SETTINGS, Fleet(), START)

    def canary(self) -> None:
        for release in ("r1", "r2"):
            with self.db.transaction() as tx:
                tx.challengers.enqueue(TASK, release, START, True)
            self.ticks(1)
        self.ticks(1)

    def command(self, **body: object) -> httpx.Response:
        """A command on the rollout that is seen now, unless ``body`` names another."""
        seen = naming(self.db, TASK)
        body = {"rollout": seen["rollout_id"], "revision": seen.get("revision")} | body
        return self.http.post(f"/api/rollouts/{TASK}/commands", json=body)


@pytest.fixture
def console() -> Console:
    return Console()


def test_nothing_yet(console: Console) -> None:
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    assert found["split"] is None
    assert found["champion"] is None
    assert found["active"] is None
    assert found["next"] == "the first registered release becomes the champion"


def test_an_active_rollout_shows_every_check_and_what_comes_next(console: Console) -> None:
    console.canary()
    console.db.state.pairs = pairs([1, 0, -1, 0, 0])
    console.db.state.arms = (arm(300, 3), arm(12, 1))
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    active = found["active"]
    assert found["split"]["challenger_share"] == 0.05
    assert active["paired"] | {"low": 0, "high": 0} == {
        "n": 5,
        "both_right": 3,
        "only_champion_right": 1,
        "only_challenger_right": 1,
        "both_wrong": 0,
        "difference": 0.0,
        "low": 0,
        "high": 0,
        "margin": -0.05,
        "looks": [20, 30, 45, 67, 100],
        "looks_used": 0,
        "next_look": 20,
    }
    assert {(check["kind"], check["name"]) for check in active["checks"]} == {
        ("harm", "accuracy"),
        ("harm", "errors"),
        ("harm", "latency"),
        ("validity", "assignment"),
        ("validity", "traffic"),
        ("step", "requests"),
        ("step", "units"),
        ("step", "labels"),
        ("step", "no worry"),
        ("promotion", "accuracy"),
        ("promotion", "errors"),
        ("promotion", "latency"),
    }
    assert all(check["words"] and check["compares"] for check in active["checks"])
    assert active["challenger"]["error_rate"] == pytest.approx(1 / 12)
    assert [t["state"] for t in active["transitions"]] == ["warming", "canary"]
    assert found["next"].startswith("25% of live traffic waits for requests: 0 of 10")
    one = console.http.get(f"/api/rollouts/{TASK}/{active['rollout']['rollout_id']}").json()
    assert one["next"] == found["next"]


def test_commands_are_recorded_and_carried_out(console: Console) -> None:
    console.canary()
    response = console.command(kind="pause", by="ana", why="a holiday")
    assert response.status_code == 202
    pending = console.http.get(f"/api/rollouts/{TASK}").json()["pending"]
    assert [c["command_id"] for c in pending] == [response.json()["command_id"]]
    console.ticks(1)
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    assert found["pending"] == []
    assert found["active"]["rollout"]["state"] == "paused"
    assert "held at 5%" in found["next"]


@pytest.mark.parametrize("kind", ["pause", "resume", "promote", "rollback"])
def test_commands_without_a_rollout_conflict(console: Console, kind: str) -> None:
    response = console.command(kind=kind, by="ana", why="x")
    assert response.status_code == 409
    assert response.json()["code"] == "conflict"
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    assert found["pending"] == []
    (outcome,) = console.db.state.outcomes.values()
    assert outcome.startswith("refused: no rollout of topics is running")


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "pause", "by": "", "why": "x"},
        {"kind": "pause", "by": "ana", "why": "  "},
        {"kind": "pause", "by": "ana"},
        {"kind": "explode", "by": "ana", "why": "x"},
        {"kind": "pause", "by": "ana", "why": "x", "extra": 1},
        {"kind": "pause", "by": "ana", "why": "x", "revision": 2**70},
        {"kind": "pause", "by": "ana", "why": "x", "revision": -1},
    ],
)
def test_who_and_why_are_required(console: Console, body: dict[str, object]) -> None:
    console.canary()
    response = console.command(**body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_start_is_refused_while_another_runs_and_for_the_unknown(console: Console) -> None:
    console.canary()
    assert console.command(kind="start", by="a", why="b", release="r1").status_code == 409
    console.command(kind="rollback", by="a", why="b")
    console.ticks(1)
    refused = console.command(kind="start", by="a", why="b", release="r9")
    assert "no registered release" in refused.json()["detail"]
    with console.db.transaction() as tx:
        tx.challengers.enqueue(TASK, "r3", START, False)
    assert console.command(kind="start", by="a", why="b", release="r3").status_code == 409
    taken = console.command(kind="start", by="a", why="b", release="r3", override=True)
    assert taken.status_code == 202
    assert taken.json()["override"] == {"by": "a", "why": "b"}


def test_a_promotion_of_what_was_seen_promotes_nothing_else(console: Console) -> None:
    # The dialog is open for r2; a colleague rolls it back; r3 starts by itself; submit.
    console.canary()
    dialog = naming(console.db, TASK)
    with console.db.transaction() as tx:
        tx.challengers.enqueue(TASK, "r3", START, True)
    console.command(kind="rollback", by="ben", why="complaints")
    console.ticks(3)
    active = console.http.get(f"/api/rollouts/{TASK}").json()["active"]["rollout"]
    assert (active["challenger"], active["state"]) == ("r3", "canary")
    for kind in ("promote", "resume", "pause", "rollback"):
        refused = console.command(
            kind=kind, by="ana", why="r2 is good",
            rollout=dialog["rollout_id"], revision=dialog["revision"],
        )  # fmt: skip
        assert refused.status_code == 409
        assert "the rollout of r2 has ended: rolled back: complaints" in refused.json()["detail"]
        assert "what runs is that of r3, canary at 5%" in refused.json()["detail"]
    console.ticks(2)
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    assert (found["champion"], found["active"]["rollout"]["state"]) == ("r1", "canary")
    past = console.http.get(f"/api/rollouts/{TASK}/{dialog['rollout_id']}").json()
    assert [one["command"]["kind"] for one in past["refused"]] == [
        "promote",
        "resume",
        "pause",
        "rollback",
    ]


@pytest.mark.parametrize("kind", ["promote", "resume", "start"])
def test_what_raises_a_share_names_the_state_that_was_seen(console: Console, kind: str) -> None:
    console.canary()
    if kind == "resume":
        console.command(kind="pause", by="a", why="b")
        console.ticks(1)
    if kind == "start":
        console.command(kind="rollback", by="a", why="b")
        console.ticks(1)
    body = {"kind": kind, "by": "a", "why": "b", "release": "r2"}
    assert console.command(**body, revision=None).status_code == 409
    assert console.command(**body, rollout=None).status_code == 409
    assert console.command(**body).status_code == 202


@pytest.mark.parametrize(("kind", "state"), [("pause", "paused"), ("rollback", "rolled_back")])
def test_what_takes_a_share_needs_the_rollout_alone(
    console: Console, kind: str, state: str
) -> None:
    console.canary()
    rollout = naming(console.db, TASK)["rollout_id"]
    # A step is taken meanwhile.
    console.db.state.pairs = pairs([0] * 20)
    console.db.state.arms = (arm(500), arm(100))
    console.db.state.assignment = of_ten(500, 100)
    console.ticks(1)
    assert console.db.state.rollouts[rollout].step == 1  # type: ignore[index]
    asked = {"kind": kind, "by": "a", "why": "b", "rollout": rollout, "revision": None}
    assert console.command(**asked).status_code == 202
    console.ticks(1)
    assert console.db.state.rollouts[rollout].state == state  # type: ignore[index]


def test_the_history_is_told_to_its_end(console: Console) -> None:
    console.canary()
    (rollout,) = [r for r in console.db.state.rollouts.values() if r.challenger == "r2"]
    for number in range(118):
        name = f"past-{number:03}"
        past = msgspec.structs.replace(
            rollout, rollout_id=name, state="rolled_back", ended_at=START
        )
        console.db.state.rollouts[name] = past
    seen: list[str] = []
    while True:
        page = console.http.get(f"/api/rollouts/{TASK}?skip={len(seen)}").json()
        assert page["skip"] == len(seen)
        seen += [one["rollout_id"] for one in page["history"]]
        if not page["older"]:
            break
    assert len(seen) == len(set(seen)) == 120


def test_a_refusal_stays_however_many_commands_follow(console: Console) -> None:
    console.canary()
    console.command(kind="resume", by="first", why="b")
    for _ in range(520):
        console.command(kind="resume", by="later", why="b")
    found = console.http.get(f"/api/rollouts/{TASK}").json()["active"]["refused"]
    assert (len(found), found[0]["command"]["by"]) == (521, "first")


def test_unknown_task_and_rollout_are_not_found(console: Console) -> None:
    assert console.http.get("/api/rollouts/nope").status_code == 404
    assert console.http.get(f"/api/rollouts/{TASK}/nope").status_code == 404
    body = {"kind": "pause", "by": "a", "why": "b"}
    assert console.http.post("/api/rollouts/nope/commands", json=body).status_code == 404


def test_a_past_rollout_keeps_its_story(console: Console) -> None:
    console.canary()
    console.db.state.pairs = pairs([-1] * 20)
    console.db.state.arms = (arm(100), arm(10))
    rollout_id = console.db.state.sent[-1].rollout_id
    console.ticks(1)
    found = console.http.get(f"/api/rollouts/{TASK}").json()
    assert found["active"] is None
    assert found["champion"] == "r1"
    assert [item["state"] for item in found["history"]] == ["rolled_back", "serving"]
    past = console.http.get(f"/api/rollouts/{TASK}/{rollout_id}").json()
    assert past["next"].startswith("ended: accuracy is proven worse")
    assert past["transitions"][-1]["evidence"]["pairs"] == 20
