"""One accepted request: choose a release, ask it, record what happened, then answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import id_within, new_id, utc_now
from flywheel.contracts.model_server import Call, FailsAtText, Prediction
from flywheel.contracts.sample import Content, as_text
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import FlywheelError, ReleaseNotLoaded, Unavailable
from flywheel.gateway.capture import Capture
from flywheel.gateway.choose_variant import Variant, choose_shadow, choose_variant, unit_of
from flywheel.gateway.circuits import PassedOver
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.metrics import count_cut, observe
from flywheel.gateway.shadow import Copy, Shadow
from flywheel.gateway.splits import Splits

# What events and metrics say of an answer that nobody waited for; no caller gets this status.
CALLER_GONE = 499


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request. ``received`` is time.perf_counter() at its arrival; ``call`` is what a
    task of this kind asks of a model server. ``unit`` is the user whom the client names, or the
    sample where it names nobody; ``gone`` says whether the caller has hung up."""

    task: str
    call: Call
    content: Content
    sample_id: str
    unit: str
    source: str
    received: float
    gone: Callable[[], bool]

    @property
    def text(self) -> str:
        """What a model of texts is asked."""
        return as_text(self.content)


@dataclass(frozen=True, slots=True)
class Answered:
    """What the caller gets."""

    prediction: Prediction
    variant: Variant


def traffic_event_id(task: str, sample_id: str) -> str:
    """The id of the one event that an answered sample counts by, however often it is asked."""
    return id_within(sample_id, task)


class Answers:
    """The use case behind both endpoints that answer.

    An answer whose caller has hung up is recorded as abandoned and counts for nothing; a failure
    counts whether or not anyone waited for it.

    In a rollout each arm has the same patience, and none any longer after it lasted for nothing a
    few times in a row (``circuits``). An arm that does not answer within it is recorded
    as failed, and the champion stands in for it with the time that is left; what it answers then
    counts for no arm, as nobody chose it by lot. A failure none of whose attempts got through to a
    model server, while none answered anyone, is recorded as an outage, which says nothing of the
    arm; a server that ends or hangs with the request in hand may do so by the release. Whether
    it was one is judged alike for both arms, so that equal arms lose equal shares of their failures
    by it.
    """

    def __init__(
        self, splits: Splits, servers: ModelServers, capture: Capture, shadow: Shadow
    ) -> None:
        self._splits = splits
        self._servers = servers
        self._capture = capture
        self._shadow = shadow

    async def answer(self, ask: Ask) -> Answered:
        """The prediction, recorded before this returns. A failure is recorded and raised."""
        split = self._splits.current(ask.task)
        if split is None:
            raise Unavailable(
                f"no release serves task {ask.task!r} yet; it will once one is registered",
                retry_after=5.0,
            )
        self._capture.ensure_room()
        variant = choose_variant(split, unit_of(split, ask.unit, ask.sample_id))
        if variant.arm is None:
            counted, prediction = variant, await self._predict(ask, split, variant)
        else:
            counted, prediction = await self._in_rollout(ask, split, variant)
        gone = ask.gone()
        self._capture.record(_served(ask, split, counted, prediction, abandoned=gone))
        await self._capture.durable()
        seconds = time.perf_counter() - ask.received
        if counted is not variant:
            variant = Variant(counted.release, "champion")
        status = CALLER_GONE if gone else 200
        observe(ask.task, variant.arm, status, seconds, prediction.model_seconds)
        count_cut(ask.task, prediction.tokens_cut)
        if not gone:
            self._copy(ask, split, counted)
        return Answered(prediction, variant)

    async def _predict(self, ask: Ask, split: TrafficSplit, variant: Variant) -> Prediction:
        try:
            return await self._servers.ask(ask.call, variant.release, ask.text)
        except FlywheelError as error:
            self._failed(ask, split, variant, error)
            raise

    async def _in_rollout(
        self, ask: Ask, split: TrafficSplit, variant: Variant
    ) -> tuple[Variant, Prediction]:
        """The answer, and what it counts for: the arm, or none where the champion stood in."""
        servers, started = self._servers, time.monotonic()
        deadline = started + servers.timeout
        try:
            return variant, await servers.ask_arm(ask.call, variant.release, ask.text)
        except Unavailable as error:
            failure = self._failure(ask, split, variant, error)
            unreached = servers.outage_since(started, error)
            passed_over = isinstance(error, PassedOver)
            hopeless = isinstance(error, (FailsAtText, ReleaseNotLoaded))
            if hopeless and variant.release == split.champion:
                self._capture.record(failure)
                raise
        except FlywheelError as error:
            self._failed(ask, split, variant, error)
            raise
        stand_in = Variant(split.champion, None)
        left = deadline - time.monotonic()
        try:
            prediction = await servers.ask(ask.call, stand_in.release, ask.text, left)
        except Unavailable as error:
            # Of an arm that was passed over nobody knows whether it would have been reached.
            outage = unreached or (passed_over and servers.outage_since(started, error))
            self._capture.record(msgspec.structs.replace(failure, outage=outage))
            raise
        except FlywheelError:
            self._capture.record(msgspec.structs.replace(failure, outage=unreached))
            raise
        # One that answers at once says that the servers were there when the arm gave up.
        outage = unreached and prediction.attempts > 1
        self._capture.record(msgspec.structs.replace(failure, outage=outage))
        return stand_in, prediction

    def _copy(self, ask: Ask, split: TrafficSplit, variant: Variant) -> None:
        other = choose_shadow(split, variant, ask.sample_id)
        if other is None or other.arm is None or split.rollout_id is None:
            return
        self._shadow.submit(
            Copy(
                ask.sample_id,
                ask.task,
                ask.call,
                ask.text,
                other.release,
                other.arm,
                split.rollout_id,
                split.challenger_share,
            )
        )

    def _failed(
        self, ask: Ask, split: TrafficSplit, variant: Variant, error: FlywheelError
    ) -> None:
        self._capture.record(self._failure(ask, split, variant, error))

    def _failure(
        self, ask: Ask, split: TrafficSplit, variant: Variant, error: FlywheelError
    ) -> TrafficRecorded:
        """The event of a failure that happens now."""
        seconds = time.perf_counter() - ask.received
        observe(ask.task, variant.arm, error.status, seconds, 0.0)
        # A failure has an id of its own: a retry that succeeds must not be taken for its repeat.
        return msgspec.structs.replace(
            _asked(ask, split, variant, new_id()),
            latency_ms=seconds * 1000,
            status=error.status,
            error=f"{error.code}: {error}",
        )


def accepted(ask: Ask) -> TrafficRecorded:
    """What is recorded of an input that no model is asked about."""
    return TrafficRecorded(
        event_id=traffic_event_id(ask.task, ask.sample_id),
        occurred_at=utc_now(),
        task=ask.task,
        sample_id=ask.sample_id,
        content=ask.content,
        source=ask.source,
        unit=ask.unit,
        status=202,
    )


def _asked(ask: Ask, split: TrafficSplit, variant: Variant, event_id: str) -> TrafficRecorded:
    """What is recorded of a request, whatever came of it."""
    unit = unit_of(split, ask.unit, ask.sample_id)
    return TrafficRecorded(
        event_id=event_id,
        occurred_at=utc_now(),
        task=ask.task,
        sample_id=ask.sample_id,
        content=ask.content,
        source=ask.source,
        unit=unit,
        user="" if unit == ask.unit else ask.unit,
        release=variant.release,
        arm=variant.arm,
        rollout_id=split.rollout_id if variant.arm else None,
        challenger_share=split.challenger_share if variant.arm else None,
    )


def _served(
    ask: Ask, split: TrafficSplit, variant: Variant, prediction: Prediction, *, abandoned: bool
) -> TrafficRecorded:
    # The answer to a repeated request is the one that counts.
    event_id = new_id() if abandoned else traffic_event_id(ask.task, ask.sample_id)
    return msgspec.structs.replace(
        _asked(ask, split, variant, event_id),
        status=CALLER_GONE if abandoned else 200,
        abandoned=abandoned,
        output=prediction.output,
        scores=prediction.scores,
        confidence=prediction.confidence,
        latency_ms=(time.perf_counter() - ask.received) * 1000,
        tokens_in=prediction.tokens_in,
        tokens_out=prediction.tokens_out,
        tokens_cut=prediction.tokens_cut,
    )
