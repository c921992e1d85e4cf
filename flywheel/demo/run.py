"""The demo, from an empty folder to the report: only public interfaces, as a user would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from flywheel.demo.client import Client
from flywheel.demo.data import LABELS, TASK, DemoData
from flywheel.demo.expert import SimulatedExpert
from flywheel.demo.plan import Plan
from flywheel.demo.report import print_table, release_rows, write_report
from flywheel.demo.screen import Screen
from flywheel.demo.traffic import Traffic
from flywheel.demo.workspace import flywheel
from flywheel.errors import WorkspaceError

Json = dict[str, Any]

# Labels that are given when the gate refused a turn, before the next one.
EXTRA_LABELS = 40
ATTEMPTS = 3
# vLLM takes a minute on two cores, and a start that failed is tried again.
LOADING_SECONDS = 420.0


class Demo:
    """One run of the demo."""

    def __init__(self, plan: Plan, data: DemoData, screen: Screen) -> None:
        self.plan = plan
        self.data = data
        self.screen = screen
        self.began = time.monotonic()
        self.state: Json = {}
        self.client: Client
        self.traffic: Traffic
        self.expert: SimulatedExpert
        self.drilling = False
        self._jobs: list[asyncio.Task[None]] = []

    async def run(self) -> Json:
        """Turn the wheel and return the report."""
        plan, data = self.plan, self.data
        urls = json.loads(flywheel(plan.workspace, "status", "--urls"))
        async with httpx.AsyncClient(timeout=40, trust_env=False) as http:
            self.client = Client(http, urls["gateway"], urls["console"])
            self.traffic = Traffic(self.client, TASK, data.stream)
            self.expert = SimulatedExpert(self.client, TASK, list(LABELS), self.traffic.truth)
            self._allow(plan.budget)
            async with self._background():
                await self._first_release(data)
                for number in range(1, plan.turns + 1):
                    await self._turn(number)
                if plan.drill:
                    await self._drill()
                return await self._finish()

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        jobs = [self.traffic.run(), self._watch()]
        if self.plan.expert == "simulated":
            jobs.append(self.expert.run())
        self._jobs = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in self._jobs:
                task.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Sleep; raises what ended one of the background jobs."""
        await asyncio.sleep(seconds)
        for job in self._jobs:
            if job.done() and not job.cancelled():
                job.result()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                self.state = await self.client.overview(TASK)
                self.screen.show(self.state, self.traffic, self.expert)
            await asyncio.sleep(0.5)

    async def _first_release(self, data: DemoData) -> None:
        self.screen.phase(f"Bringing in {len(data.seed)} labelled questions as the seed")
        workspace = self.plan.workspace
        seed = ["--task", TASK, "--annotator", "seed"]
        await asyncio.to_thread(
            flywheel,
            workspace,
            *("ingest", str(workspace / "holdout.jsonl"), "--split", "holdout", *seed),
        )
        await asyncio.to_thread(flywheel, workspace, "ingest", str(workspace / "seed.jsonl"), *seed)
        self.screen.phase("Training the first release on the seed")
        await self._until(
            lambda s: s["champion"] is not None, "the first release to serve", self.plan.patience
        )
        await self._released(1)
        await self._loaded()

    async def _loaded(self) -> None:
        """Wait until the champion's servers have loaded it, which may take a minute: traffic before
        that would wait, or fail. Says what keeps them."""
        workspace, said = self.plan.workspace, ""
        deadline = time.monotonic() + LOADING_SECONDS
        while True:
            standing = await asyncio.to_thread(flywheel, workspace, "status", "--json")
            answers = json.loads(standing)["tasks"][TASK]["answers"]
            if answers and answers["ready"] == answers["total"]:
                break
            reason = (answers or {}).get("reason", "")
            if time.monotonic() > deadline:
                raise WorkspaceError(
                    f"the first release does not answer after {LOADING_SECONDS:.0f} s: {reason}"
                )
            if reason != said:
                said = reason
                self.screen.note(f"not all model servers answer yet: {reason}")
            await self._pause(2.0)
        await asyncio.to_thread(flywheel, workspace, "status", "--wait", "60")

    async def _turn(self, number: int) -> None:
        pace = self.plan.pace
        self.screen.phase(
            f"Turn {number}: production traffic; triage keeps the sure, experts label the rest"
        )
        self._allow(self.plan.budget)
        self._pace(pace.labelling, pace.answers)
        patience = self.plan.patience if self.plan.expert == "simulated" else 24 * 3600.0
        await self._until(
            lambda s: len(s["releases"]) > number or _running(s), "enough labels", patience
        )
        self.screen.phase(f"Turn {number}: build → train → compress → evaluate")
        self._pace(pace.training, 0.0)
        for _ in range(ATTEMPTS):
            if await self._released(number + 1):
                break
            await self._more_labels()
        else:
            raise WorkspaceError(f"the gate refused every one of {ATTEMPTS} turns")
        await self._compared(f"Turn {number}")

    async def _more_labels(self) -> None:
        """The gate refused what a turn made: some more labels, and another turn."""
        self.screen.note(f"the gate refused it, {self.state['turn']['error']}; more labels")
        before, began = self.expert.given, time.monotonic()
        self._allow(EXTRA_LABELS)
        self._pace(self.plan.pace.labelling, self.plan.pace.answers)
        # A person's pace is their own: after a while it goes on with what there is.
        while self.expert.given < before + EXTRA_LABELS and time.monotonic() - began < 120:
            await self._pause(0.5)
        self._pace(self.plan.pace.training, 0.0)
        await asyncio.to_thread(
            flywheel,
            self.plan.workspace,
            *("retrain", TASK, "--by", "demo", "--why", "the gate refused the turn before"),
        )
        await self._until(_running, "the next turn", 120)

    async def _drill(self) -> None:
        self.screen.phase("Drill: a challenger trained on shuffled labels, put past the gate")
        self._pace(self.plan.pace.training, 0.0)
        self.drilling = True
        known = len(self.state["releases"])
        await asyncio.to_thread(
            flywheel,
            self.plan.workspace,
            *("retrain", TASK, "--drill", "shuffled-labels", "--by", "demo", "--override"),
            *("--why", "drill: does a bad challenger get rolled back by itself?"),
        )
        await self._released(known + 1)
        await self._compared("Drill")

    async def _compared(self, what: str) -> None:
        """Traffic and an expert until the newest release's rollout has ended, and any before it."""
        pace = self.plan.pace
        self.screen.phase(f"{what}: the challenger against the champion on live traffic")
        deadline = time.monotonic() + self.plan.patience
        followed: str | None = None
        spent_at: float | None = None
        while True:
            newest = self.state["releases"][-1]["release"]
            rollouts = await self.client.rollouts(TASK)
            if _ended(rollouts, newest):
                break
            if time.monotonic() > deadline:
                raise WorkspaceError(
                    f"the rollout of {newest} did not end in {self.plan.patience:.0f} s"
                )
            running = (rollouts.get("active") or {}).get("rollout")
            if running is None or running["state"] == "warming":
                # A label that is given before both arms answer proves nothing.
                self._pace(pace.training, 0.0)
            elif running["rollout_id"] != followed:
                followed, spent_at = running["rollout_id"], None
                self._allow(self.plan.rollout_budget)
                self._pace(pace.comparing, pace.answers_comparing)
            if running and running["rollout_id"] == followed:
                if self.expert.given >= self.expert.budget:
                    spent_at = spent_at or time.monotonic()
                if running["state"] == "paused":
                    await self._decide(running["reason"])
                elif spent_at is not None and spent_at < time.monotonic() - self.plan.spent_seconds:
                    await self._decide("the expert's labels are used up")
            await self._pause(0.5)
        row = next(row for row in rollouts["history"] if row["challenger"] == newest)
        self.screen.note(f"{newest} {row['state'].replace('_', ' ')}: {row['reason']}")
        self._pace(pace.training, 0.0)

    async def _released(self, count: int) -> bool:
        """Wait for the running turn: True with its release, False when the gate refused it."""
        began = time.time() - 2.0

        def ended(state: Json) -> bool:
            return not _running(state) and (
                len(state["releases"]) >= count or _refused(state, began)
            )

        await self._until(ended, f"release {count}", self.plan.patience)
        if len(self.state["releases"]) < count:
            return False
        newest = self.state["releases"][-1]
        self.screen.note(f"{newest['release']}: held-out accuracy {newest['accuracy']:.3f}")
        return True

    async def _until(self, ready: Any, what: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not (self.state and ready(self.state)):
            turn = self.state.get("turn") or {}
            if turn.get("state") == "failed":
                raise WorkspaceError(f"waiting for {what}, the turn ended with: {turn['error']}")
            if time.monotonic() > deadline:
                raise WorkspaceError(f"waited {patience:.0f} s in vain for {what}")
            await self._pause(0.3)

    async def _decide(self, reason: str) -> None:
        """A rollout that evidence could not decide waits for a person; here that is the demo."""
        self.screen.note(f"the rollout waits for a person: {reason}")
        why = ("--why", "not proved within its looks: the champion stays")
        await asyncio.to_thread(
            flywheel, self.plan.workspace, "rollout", "rollback", TASK, "--by", "demo", *why
        )
        await self._pause(2.0)

    def _allow(self, labels: int) -> None:
        """Let the expert give so many more labels, as far as the budget goes."""
        left = 0 if self.drilling or not self.plan.drill else self.plan.drill_budget
        self.expert.budget = min(self.expert.given + labels, self.plan.budget - left)

    def _pace(self, requests: float, answers: float) -> None:
        self.traffic.rate = requests
        self.expert.per_second = answers

    async def _finish(self) -> Json:
        self.screen.phase("Counting every event and every label once, by id")
        await self.traffic.drain()
        self.expert.per_second = 0.0
        await asyncio.sleep(0.5)
        workspace = self.plan.workspace
        expected = workspace / "answered.txt"
        expected.write_text("".join(f"{key}\n" for key in self.traffic.answered), "utf-8")
        check = await asyncio.to_thread(
            flywheel,
            workspace,
            *("doctor", "--full", "--json", "--expect", str(expected), "--wait", "60"),
        )
        counted = json.loads(check)
        releases = await self.client.releases(TASK)
        rollouts = await self.client.rollouts(TASK)
        counts = {
            "requests": self.traffic.sent,
            "failed_requests": len(self.traffic.failures),
            "traffic_recorded": counted["traffic_recorded"],
            "lost": counted["lost"],
            "doubled": counted["doubled"],
        }
        report = write_report(
            workspace / "demo-report.json",
            release_rows(releases["releases"], rollouts["history"]),
            counts,
            time.monotonic() - self.began,
        )
        self.screen.stop()
        print_table(report, self.screen.console)
        return report


def _refused(state: Json, since: float) -> bool:
    turn = state.get("turn") or {}
    ended = turn.get("ended") or 0.0
    return ended >= since and str(turn.get("error") or "").startswith("no release")


def _ended(rollouts: Json, challenger: str) -> bool:
    return any(
        row["challenger"] == challenger and row["state"] in ("promoted", "rolled_back")
        for row in rollouts["history"]
    )


def _running(state: Json) -> bool:
    return bool(state.get("turn")) and state["turn"]["state"] == "running"


def start_up(workspace: Path) -> subprocess.Popen[bytes]:
    """`flywheel up` beside us. Its own messages go to the terminal."""
    return subprocess.Popen([sys.executable, "-m", "flywheel", "-w", str(workspace), "up"])
