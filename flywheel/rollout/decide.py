"""What happens to a rollout next: pure, from its state, the evidence, the settings and the time.

Harm is looked at first and in every state that has traffic, paused ones too. Nothing but a person
or the proof of every promotion check makes a challenger champion, and no share rises without the
requests, the labels and the estimates that its step asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from flywheel.contracts.split import RolloutState
from flywheel.rollout.analysis.assess import assess
from flywheel.rollout.analysis.evidence import Assessment, Check, Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import percent
from flywheel.rollout.ports import Rollout

CONTROLLER = "controller"
PERSON_MAY = "a person resumes it, promotes the challenger or rolls it back"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The number of model servers on which a release answers, and why it does not on others.

    ``late`` is the number of those that have it and let a real request run out of time: a busy
    server does. Whether they would answer nobody knows.
    """

    ready: int
    total: int
    reason: str = ""
    late: int = 0

    @property
    def nowhere(self) -> bool:
        """Whether it certainly answers nobody."""
        return not self.ready and not self.late


class Servers(msgspec.Struct, frozen=True, kw_only=True):
    """How both arms stand on the model servers."""

    challenger: Readiness
    champion: Readiness

    @property
    def challenger_missing(self) -> bool:
        """Whether the challenger is missing where the champion answers. Where neither answers it
        is the servers that are down, which says nothing about the challenger."""
        there = self.challenger.ready + self.challenger.late
        return self.champion.ready > 0 and there < self.champion.ready

    @property
    def champion_gone(self) -> bool:
        """Whether the champion answers nowhere while the challenger does: rolled back, nothing
        would be answered at all."""
        return self.challenger.ready > 0 and self.champion.nowhere

    @property
    def challenger_gone(self) -> bool:
        """The same the other way round: promoted, nothing would be answered at all."""
        return self.champion.ready > 0 and self.challenger.nowhere


@dataclass(frozen=True, slots=True)
class Decision:
    """The state and share a rollout should have, why (with numbers), and what comes after."""

    state: RolloutState
    share: float
    step: int
    reason: str
    next: str
    assessment: Assessment

    def changes(self, rollout: Rollout) -> bool:
        """Whether this differs from what the rollout is."""
        return (self.state, self.share, self.step) != (rollout.state, rollout.share, rollout.step)


def decide(
    rollout: Rollout,
    facts: Facts,
    settings: RolloutSettings,
    now: datetime,
    servers: Servers | None = None,
    *,
    shown: bool = True,
) -> Decision:
    """The decision for an active rollout. ``servers`` None means that they were not asked.

    It is the same whether or not it is ``shown``; only then its checks have all that people see.
    """
    seen = assess(rollout, facts, settings, shown=shown)
    harm = seen.failed("harm")
    if harm:
        reason = "; ".join(check.words for check in harm)
        if servers is not None and servers.champion_gone:
            return _held(rollout, f"{reason}; but {nowhere(rollout.champion, servers)}", seen)
        return _end(rollout, reason, seen)
    lost = _lost(rollout, settings, now, servers)
    if lost:
        return _end(rollout, lost, seen)
    if rollout.state == "paused":
        return _stay(rollout, f"held at {percent(rollout.share)} until {PERSON_MAY}", seen)
    if rollout.state == "warming":
        return _warming(rollout, settings, seen, servers)
    return _answering(rollout, settings, now, seen)


def nowhere(champion: str, servers: Servers) -> str:
    """Words on a champion that answers on no model server, and what a rollback would then do."""
    readiness = servers.champion
    return (
        f"{champion}, the champion, answers on none of {readiness.total} model servers"
        + (f" ({readiness.reason})" if readiness.reason else "")
        + ": rolled back to it, no request would be answered"
    )


def _held(rollout: Rollout, reason: str, seen: Assessment) -> Decision:
    """The rollout stays where it is until the champion answers again, or a person decides."""
    if rollout.state == "paused":
        return _stay(rollout, reason, seen)
    return _pause(rollout, reason, seen)


def _answering(
    rollout: Rollout, settings: RolloutSettings, now: datetime, seen: Assessment
) -> Decision:
    broken = seen.failed("validity")
    if broken:
        return _pause(rollout, broken[0].words, seen)
    since = max(rollout.started_at, rollout.resumed_at or rollout.started_at)
    if now - since > timedelta(minutes=settings.max_minutes):
        return _pause(
            rollout,
            f"no decision after {settings.max_minutes:g} minutes: "
            + _missing((*seen.open("step"), *seen.open("promotion"))),
            seen,
        )
    last = rollout.state == "canary" and rollout.step == len(rollout.steps) - 1
    unproven = seen.open("promotion")
    if last and not unproven and seen.all_passed("step"):
        return _proven(rollout, settings, seen)
    if seen.failed("promotion") and rollout.resumed_at is None:
        return _pause(rollout, seen.failed("promotion")[0].words, seen)
    if not last and seen.all_passed("step"):
        step = rollout.step + 1 if rollout.state == "canary" else 0
        reason = "; ".join(check.words for check in seen.of("harm"))
        return _canary(rollout, step, f"step {step + 1}: {reason}", seen)
    waits = _missing((*seen.open("step"), *unproven) if last else seen.open("step"))
    goal = "promotion" if last else f"{percent(_next_share(rollout))} of live traffic"
    return _stay(rollout, f"{goal} waits for {waits}", seen)


def _proven(rollout: Rollout, settings: RolloutSettings, seen: Assessment) -> Decision:
    reason = "; ".join(check.words for check in seen.of("promotion"))
    if settings.auto_promote:
        return Decision(
            state="promoted",
            share=0.0,
            step=rollout.step,
            reason=reason,
            next="the challenger is the champion",
            assessment=seen,
        )
    if rollout.resumed_at is None:
        return _pause(rollout, f"{reason}; auto_promote is off", seen)
    return _stay(rollout, f"proven; waits until {PERSON_MAY}", seen)


def _lost(
    rollout: Rollout,
    settings: RolloutSettings,
    now: datetime,
    servers: Servers | None,
) -> str:
    """Why the challenger counts as lost; empty while it answers or may still come (back)."""
    if servers is None or not servers.challenger_missing:
        return ""
    challenger = servers.challenger
    since = rollout.unready_since
    if since is None or now - since <= timedelta(seconds=settings.warm_seconds):
        return ""
    what = "could not be loaded" if rollout.state == "warming" else "stopped answering"
    return (
        f"failed: {rollout.challenger} {what}: on {challenger.ready} of {challenger.total} model "
        f"servers for more than {settings.warm_seconds:g} s"
        + (f" ({challenger.reason})" if challenger.reason else "")
    )


def _warming(
    rollout: Rollout,
    settings: RolloutSettings,
    seen: Assessment,
    servers: Servers | None,
) -> Decision:
    if servers is None or servers.challenger_missing or not servers.challenger.ready:
        readiness = servers.challenger if servers else None
        return _stay(rollout, _waits_for_servers(rollout, readiness), seen)
    loaded = f"answers on {servers.challenger.ready} of {servers.challenger.total} model servers"
    if not rollout.steps:
        return Decision(
            state="promoted",
            share=0.0,
            step=-1,
            reason=f"{rollout.reason}; it {loaded}",
            next="it is the champion again",
            assessment=seen,
        )
    if settings.shadow_requests:
        return Decision(
            state="shadow",
            share=0.0,
            step=-1,
            reason=f"{loaded}; it now answers copies that no caller sees",
            next=f"{settings.shadow_requests} shadow answers, then live traffic",
            assessment=seen,
        )
    return _canary(rollout, 0, loaded, seen)


def _waits_for_servers(rollout: Rollout, readiness: Readiness | None) -> str:
    where = (
        f"{readiness.ready} of {readiness.total} model servers"
        if readiness
        else "no model server asked"
    )
    why = f" ({readiness.reason})" if readiness and readiness.reason else ""
    return f"waits for {rollout.challenger} to answer wherever the champion does: {where}{why}"


def _canary(rollout: Rollout, step: int, reason: str, seen: Assessment) -> Decision:
    share = rollout.steps[step]
    return Decision(
        state="canary",
        share=share,
        step=step,
        reason=f"{reason}; it now answers {percent(share)} of live traffic",
        next="evidence of this step is collected",
        assessment=seen,
    )


def _end(rollout: Rollout, reason: str, seen: Assessment) -> Decision:
    return Decision(
        state="rolled_back",
        share=0.0,
        step=rollout.step,
        reason=reason,
        next="the champion answers everything",
        assessment=seen,
    )


def _pause(rollout: Rollout, reason: str, seen: Assessment) -> Decision:
    return Decision(
        state="paused",
        share=rollout.share,
        step=rollout.step,
        reason=reason,
        next=f"held at {percent(rollout.share)} until {PERSON_MAY}",
        assessment=seen,
    )


def _stay(rollout: Rollout, next_: str, seen: Assessment) -> Decision:
    return Decision(
        state=rollout.state,
        share=rollout.share,
        step=rollout.step,
        reason=rollout.reason,
        next=next_,
        assessment=seen,
    )


def _next_share(rollout: Rollout) -> float:
    return rollout.steps[rollout.step + 1 if rollout.state == "canary" else 0]


def _missing(checks: tuple[Check, ...]) -> str:
    return "; ".join(f"{check.name}: {check.words}" for check in checks) or "nothing"
