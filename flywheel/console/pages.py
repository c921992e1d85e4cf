"""The pages: each is a read model and a template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from flywheel.console.access import (
    SESSION_SECONDS,
    Keyring,
    cookie_name,
    peer_of,
    safe_target,
    session_cookie,
    session_token,
)
from flywheel.console.loop import edges, nodes
from flywheel.console.overview import STAGES, ChampionPolicies, overview
from flywheel.console.ports import ConsoleTransaction, Transactions
from flywheel.console.recent import Recent
from flywheel.console.release_page import Mistakes, confusions, heat
from flywheel.console.rollout_page import rollout_page
from flywheel.console.words import share
from flywheel.contracts.answers import LONGEST_TEXT
from flywheel.contracts.sample import ImagePart, images
from flywheel.errors import NotFound, TooManyRequests
from flywheel.registry.history import ALL, current_status, read_history
from flywheel.registry.lineage import lineage
from flywheel.registry.served import served_at
from flywheel.rollout.judged import RunningJudged
from flywheel.settings import FlywheelSettings

_METRICS = {
    "samples": "Held-out samples",
    "macro_f1": "Macro F1",
    "chrf": "chrF, 0 to 100",
    "chrf_signature": "chrF as computed",
    "token_f1": "F1 of words",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "nll": "Negative log-likelihood",
    "mean_confidence": "Mean confidence",
    "latency_p50_ms": "Median latency, ms",
    "latency_p95_ms": "p95 latency, ms",
}


@dataclass(frozen=True, slots=True)
class Pages:
    """The handlers of every page."""

    settings: FlywheelSettings
    transactions: Transactions
    reading: Transactions
    environment: Environment
    keyring: Keyring
    now: Callable[[], datetime]
    unanswered: Callable[[str], str | None]
    mistakes: Mistakes
    image_bytes: Callable[[ImagePart], bytes]
    recent: Recent[dict[str, Any]] = field(default_factory=Recent)
    judged: RunningJudged = field(default_factory=RunningJudged)
    policies: ChampionPolicies = field(default_factory=ChampionPolicies)

    def routes(self) -> APIRouter:
        """All pages, the overview's JSON, signing in and out."""
        pages = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
        pages.get("/")(self.overview)
        for page in ("review", "rollout", "releases"):
            pages.get(f"/{page}")(self.first)
        pages.get("/review/{task}")(self.review)
        pages.get("/review/{task}/images/{digest}")(self.image)
        pages.get("/rollout/{task}")(self.rollout)
        pages.get("/releases/{task}")(self.releases)
        pages.get("/releases/{task}/{release}")(self.release)
        pages.get("/login")(self.login_form)
        pages.post("/login")(self.login)
        pages.post("/logout")(self.logout)
        routes = APIRouter()
        routes.include_router(pages)
        routes.get("/api/overview/{task}", tags=["overview"])(self.overview_json)
        return routes

    def first(self, request: Request) -> Response:
        """A page without a task is the page of the first one."""
        return RedirectResponse(f"{request.url.path}/{next(iter(self.settings.tasks))}", 307)

    def overview(self, request: Request, task: str = "") -> Response:
        """The loop and its charts."""
        task = task or next(iter(self.settings.tasks))
        read = self.overview_json(task)
        with self.reading() as tx:
            frame = self._frame(tx, request, task, "overview")
        series = {key: read[key] for key in ("releases", "traffic", "split")}
        gateway = self.settings.gateway
        return self._page(
            "overview.html",
            frame,
            read=read,
            series=series,
            stages=STAGES,
            loop_nodes=nodes(read),
            loop_edges=edges(read),
            gateway=f"http://{gateway.host}:{gateway.port}",
        )

    def overview_json(self, task: str) -> dict[str, Any]:
        """What the overview shows, as data."""
        settings = self._task(task)

        def read() -> dict[str, Any]:
            with self.reading() as tx:
                return overview(tx, task, settings, self.now(), self.policies)

        return {**self.recent.get(task, read), "unanswered": self.unanswered(task)}

    def review(self, request: Request, task: str) -> Response:
        """The expert queue."""
        settings = self._task(task)
        with self.reading() as tx:
            depth = tx.desk.depth(task, self.now())
            frame = self._frame(tx, request, task, "review")
        return self._page(
            "review.html",
            frame,
            depth=depth,
            answers=settings.answers,
            input_part=settings.of_kind.input_part,
            titles=settings.label_titles,
            question=settings.title or "Which label is right?",
            longest=LONGEST_TEXT,
            drawn=settings.triage.audit_rate,
            guideline=settings.review.guideline,
            lease_seconds=settings.review.lease_seconds,
            answers_needed=settings.review.answers_needed,
            answers_at_most=settings.review.answers_at_most,
        )

    def image(
        self, task: str, digest: str, sample: Annotated[str, Query(max_length=256)]
    ) -> Response:
        """An image of a sample in the queue, to whoever may see the sample."""
        self._task(task)
        with self.reading() as tx:
            queued = tx.desk.find(task, sample)
        shown = () if queued is None else images(queued.content)
        image = next((image for image in shown if image.sha256 == digest), None)
        if image is None:
            raise NotFound(f"sample {sample!r} of task {task!r} has no image {digest!r}")
        # Opened by itself, it is an image and nothing that could act.
        headers = {"Content-Security-Policy": "default-src 'none'; sandbox"}
        return Response(self.image_bytes(image), media_type=image.media_type, headers=headers)

    def rollout(
        self,
        request: Request,
        task: str,
        rollout: str = "",
        skip: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> Response:
        """The running rollout, or an earlier one (``?rollout=``), with its evidence; the list of
        all goes on after the newest ``?skip=``."""
        settings = self._task(task)
        with self.reading() as tx:
            page = rollout_page(tx, task, settings.rollout, rollout, self.now(), skip, self.judged)
            frame = self._frame(tx, request, task, "rollout")
        return self._page("rollout.html", frame, unanswered=self.unanswered(task), **page)

    def releases(self, request: Request, task: str, at: str = "") -> Response:
        """Every release of a task; ``?at=`` asks which one served at a moment."""
        self._task(task)
        moment, problem = _moment(at)
        with self.reading() as tx:
            releases = tx.releases.history(task)[::-1]
            champion, rollouts = tx.rollouts.champion(task), tx.rollouts.history(task, ALL)
            served = served_at(tx, task, moment).release if moment else None
            frame = self._frame(tx, request, task, "releases")
        statuses = {
            one.release: current_status(one.release, champion, rollouts) for one in releases
        }
        return self._page(
            "releases.html",
            frame,
            releases=releases,
            statuses=statuses,
            at=at,
            moment=moment,
            problem=problem,
            served=served,
            floor=_floor([one.accuracy_low for one in releases]),
        )

    def release(self, request: Request, task: str, release: str) -> Response:
        """One release: its lineage, its metrics, its model card."""
        self._task(task)
        with self.reading() as tx:
            family = lineage(tx, task, release)
            history = read_history(tx, family.release)
            champion, rollouts = tx.rollouts.champion(task), tx.rollouts.history(task, ALL)
            frame = self._frame(tx, request, task, "releases")
        mine = [one for one in rollouts if one.challenger == release]
        # Outside of the transaction: what they were read of may have to be fetched.
        mistakes = confusions(family.release, self.mistakes, self._texts)
        return self._page(
            "release.html",
            frame,
            family=family,
            one=family.release,
            status_of=current_status(release, champion, rollouts),
            rollouts=mine,
            history=history,
            comparison=family.release.metrics.get("comparison"),
            classes=family.release.metrics.get("classes", {}),
            confusions=mistakes,
            confusion=heat(family.release.metrics.get("confusion", {})),
            answers=self._task(task).answers,
            titles=self._task(task).label_titles,
            metric_names=_METRICS,
        )

    def _texts(self, task: str, sample_ids: Sequence[str]) -> dict[str, str]:
        with self.reading() as tx:
            texts: dict[str, str] = tx.overview.texts(task, sample_ids)
        return texts

    def login_form(self, next: str = "/") -> Response:
        """Ask for a key; without keys there is nothing to sign in to."""
        if not self.keyring.required:
            return RedirectResponse("/", 303)
        return self._sign_in(safe_target(next))

    async def login(self, request: Request) -> Response:
        """Open a session for the holder of a key."""
        form = parse_qs((await request.body()).decode(errors="replace"))
        key, target = form.get("key", [""])[0], safe_target(form.get("next", ["/"])[0])
        try:
            accepted = self.keyring.sign_ins.accept(peer_of(request.scope), key)
        except TooManyRequests as error:
            answer = self._sign_in(target, str(error), error.status)
            answer.headers["Retry-After"] = str(math.ceil(error.retry_after))
            return answer
        if not accepted:
            return self._sign_in(target, "That key is not one of the console’s keys.", 401)
        answer = RedirectResponse(target, 303)
        answer.headers.append(
            "Set-Cookie", session_cookie(request.scope, self.keyring.open_session(key))
        )
        return answer

    def logout(self, request: Request) -> Response:
        """End the session: its cookie opens nothing any more, wherever it was copied to."""
        session = self.keyring.session(session_token(request.headers))
        if session is not None:
            with self.transactions() as tx:
                # No copy of its token holds longer than one of this moment.
                tx.sessions.end(
                    session.id, self.now() + timedelta(seconds=SESSION_SECONDS), self.now()
                )
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie_name(request.headers), httponly=True, samesite="strict")
        return answer

    def _sign_in(self, target: str, problem: str = "", status: int = 200) -> Response:
        return self._page("login.html", {}, status=status, next=target, problem=problem)

    def _task(self, name: str) -> Any:
        settings = self.settings.tasks.get(name)
        if settings is None:
            raise NotFound(f"no task {name!r} (tasks: {', '.join(sorted(self.settings.tasks))})")
        return settings

    def _frame(
        self, tx: ConsoleTransaction, request: Request, task: str, here: str
    ) -> dict[str, Any]:
        """What the frame around every page shows."""
        depth = tx.desk.depth(task, self.now())
        active = tx.rollouts.active(task)
        moving, moving_kind = None, "challenger"
        if active is not None:
            moving_kind = "warn" if active.state == "paused" else "challenger"
            moving = share(active.share) if active.state == "canary" else active.state
        releases = len(tx.releases.history(task))
        return {
            "task": task,
            "here": here,
            "note": self._task(task).of_kind.note,
            "tasks": {name: one.title or name for name, one in self.settings.tasks.items()},
            "switch": lambda name: f"/?task={name}" if here == "overview" else f"/{here}/{name}",
            "signed_in": self.keyring.required and bool(session_token(request.headers)),
            "nav": [
                ("overview", "Overview", f"/?task={task}", None, ""),
                ("review", "Review", f"/review/{task}", depth.open + depth.claimed or None, ""),
                ("rollout", "Rollout", f"/rollout/{task}", moving, moving_kind),
                ("releases", "Releases", f"/releases/{task}", releases or None, ""),
            ],
        }

    def _page(
        self, template: str, frame: dict[str, Any], *, status: int = 200, **values: Any
    ) -> Response:
        html = self.environment.get_template(template).render(**frame, **values)
        return HTMLResponse(html, status)


def _floor(lows: list[float]) -> float:
    """Where an axis of accuracies begins: the tenth below the lowest, at most one half."""
    return min([0.5, *(math.floor(low * 10) / 10 for low in lows)])


def _moment(text: str) -> tuple[datetime | None, str]:
    """A moment as a person or a form writes it (UTC without a zone), or what is wrong with it."""
    if not text:
        return None, ""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None, f"“{text}” is no time; write it like 2026-03-31T14:00"
    return moment, ""
