"""When the wheel turns: a pure decision from counts, age, requests and what is unfinished."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from flywheel.contracts.stores import LabelCounts
from flywheel.retraining.config import RetrainingSettings
from flywheel.retraining.ports import Ahead, Turn, TurnRequest

# A turn that failed is tried again, but not in a tight loop.
RETRY_AFTER = timedelta(seconds=60)
# The first labels come in one import: the first dataset waits until it is through.
QUIET = timedelta(seconds=3)
# However little changes, a task is looked at so often.
LOOK_AFTER = timedelta(minutes=2)


def _cooling(latest: Turn | None, now: datetime) -> bool:
    failed = latest is not None and latest.state == "failed" and latest.ended_at is not None
    return failed and latest is not None and now - (latest.ended_at or now) < RETRY_AFTER


def _quiet(latest_label: datetime | None, now: datetime) -> bool:
    return latest_label is None or now - latest_label >= QUIET


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision needs. ``new`` counts labels settled since the last dataset version;
    ``latest`` is the newest turn of the task; ``rollout_running`` keeps challengers one by one."""

    new: LabelCounts
    last_dataset_at: datetime | None
    latest: Turn | None
    request: TurnRequest | None
    watermark: str | None
    rollout_running: bool


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Make a turn, for this reason. ``resume`` names an interrupted turn to go on with."""

    reason: str
    request: TurnRequest | None = None
    resume: Turn | None = None


def decide(facts: Facts, settings: RetrainingSettings, now: datetime) -> Start | None:
    """A turn to make now, or None.

    An interrupted turn comes first, then what a person asked for (an import even without any
    label, and at once, for it trains nothing), then new labels: a first turn
    as soon as seed labels and a holdout are there, later ones by count or age, and never while a
    challenger is still being compared (its evidence would be cut short).
    """
    request = facts.request
    if facts.latest is not None and facts.latest.state == "running":
        mine = request is not None and request.request_id == facts.latest.turn_id
        return Start(
            reason=facts.latest.reason, resume=facts.latest, request=request if mine else None
        )
    if request is not None and request.imports:
        return Start(reason=f"{request.by}: {request.why}", request=request)
    if facts.watermark is None:
        return None
    if _cooling(facts.latest, now):
        return None
    if request is not None:
        return Start(reason=f"{request.by}: {request.why}", request=request)
    if not settings.enabled or facts.rollout_running:
        return None
    given = facts.new.given
    if facts.last_dataset_at is None:
        if given and _quiet(facts.new.latest, now):
            return Start(reason=f"first labels: {given}, {facts.new.holdout} held out")
        return None
    if given >= settings.min_new_labels:
        return Start(reason=f"{given} new labels (at least {settings.min_new_labels})")
    age = timedelta(hours=settings.max_age_hours) if settings.max_age_hours else None
    if age is not None and given and now - facts.last_dataset_at >= age:
        return Start(reason=f"{given} new labels, {settings.max_age_hours:g} h since the last turn")
    return None


def idle_for(facts: Facts, settings: RetrainingSettings, now: datetime) -> timedelta:
    """How long no turn becomes due but by other facts: there is no need to look before."""
    moments = []
    if _cooling(facts.latest, now) and facts.latest is not None and facts.latest.ended_at:
        moments.append(facts.latest.ended_at + RETRY_AFTER)
    if facts.last_dataset_at is None and facts.new.latest is not None:
        moments.append(facts.new.latest + QUIET)
    if facts.last_dataset_at is not None and settings.max_age_hours and facts.new.given:
        moments.append(facts.last_dataset_at + timedelta(hours=settings.max_age_hours))
    ahead = [moment - now for moment in moments if moment > now]
    return min([LOOK_AFTER, *ahead])


def when_begun(ahead: Ahead, latest: Turn | None, labelled: bool, now: datetime) -> str:
    """When a turn that is asked for begins, as words to go on with "it begins".

    ``latest`` is the task's newest turn, ``labelled`` whether it has labels to train on.
    """
    running = ahead.running
    if not ahead.trainer:
        first = (
            "" if running is None else f", after the turn of {running.task} that was interrupted"
        )
        return f"as soon as the trainer runs{first}"
    if running is not None:
        since = (now - running.started_at).total_seconds()
        other = "" if not ahead.asked else f", and the {ahead.asked} asked for before"
        return (
            f"after the turn of {running.task} that is being made ({running.stage}, {since:.0f} s "
            f"so far){other}"
        )
    if not labelled:
        return "once there are labels to train on"
    if ahead.asked:
        return f"after the {ahead.asked} asked for before"
    if _cooling(latest, now) and latest is not None and latest.ended_at is not None:
        left = (latest.ended_at + RETRY_AFTER - now).total_seconds()
        return f"in {left:.0f} s, as the last turn failed just now"
    return "within a second"
