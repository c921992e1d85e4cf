"""Records that anyone may put into a topic and no agent can use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from flywheel.contracts.codec import SCHEMA_HEADER, Record
from flywheel.contracts.events import (
    EVENTS,
    DatasetVersioned,
    Event,
    LabelRecorded,
    LabelSettled,
    ReleaseRegistered,
    ReviewRequested,
    RolloutChanged,
    ShadowRecorded,
    TrafficRecorded,
)


def document(kind: type[Event], **fields: Any) -> bytes:
    """A sound event's JSON with some fields replaced."""
    return msgspec.json.encode({**SOUND[kind], **fields})


COMMON = {"event_id": "e", "occurred_at": "2026-01-01T00:00:00Z", "task": "topic"}
SPLIT = {"task": "topic", "champion": "topic-1"}
SOUND: dict[type[Event], dict[str, Any]] = {
    TrafficRecorded: {**COMMON, "sample_id": "s", "content": "?"},
    ShadowRecorded: {
        **COMMON, "sample_id": "s", "release": "topic-1", "arm": "challenger", "rollout_id": "r",
    },
    LabelSettled: {
        **COMMON, "sample_id": "s", "value": "v", "annotators": ["a"], "agreement": 1.0,
        "inclusion_probability": 1.0, "audit": False,
    },
    DatasetVersioned: {
        **COMMON, "version": "v", "parent": None, "git_commit": "c", "dvc_hash": "h",
        "watermark": "1", "expert_labels": 1, "auto_labels": 0, "holdout_labels": 0,
    },
    ReleaseRegistered: {
        **COMMON, "release": "topic-1", "dataset_version": "v", "parent": None,
        "address": f"folder:sha256:{64 * 'a'}:1", "accuracy": 0.9, "gate_passed": True,
        "gate_reason": "",
    },
    LabelRecorded: {
        **COMMON, "sample_id": "s", "value": "v", "source": "user", "annotator": "a",
    },
    ReviewRequested: {
        **COMMON, "sample_id": "s", "content": "?", "reason": "r", "priority": 1.0,
        "inclusion_probability": 0.5, "audit": False,
    },
    RolloutChanged: {
        **COMMON, "rollout_id": "r", "state": "serving", "split": SPLIT, "decided_by": "c",
        "reason": "r",
    },
}  # fmt: skip
# (event, what a record may hold in its place, the field that the reason names)
OUT_OF_BOUNDS: tuple[tuple[type[Event], dict[str, Any], str], ...] = (
    *((TrafficRecorded, {"sample_id": bad}, "sample_id") for bad in ("", ".", "..", "x" * 10_240)),
    *((TrafficRecorded, {"event_id": bad}, "event_id") for bad in ("", "a\x00b", "a\nb")),
    (TrafficRecorded, {"occurred_at": "0001-01-01T00:00:00Z"}, "occurred_at"),
    (TrafficRecorded, {"occurred_at": "9999-12-31T23:59:59Z"}, "occurred_at"),
    (TrafficRecorded, {"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
    (TrafficRecorded, {"content": "x" * 1_000_001}, "content"),
    (TrafficRecorded, {"confidence": -0.1}, "confidence"),
    (TrafficRecorded, {"scores": {"a": 1e308}}, "scores"),
    (TrafficRecorded, {"latency_ms": -1.0}, "latency_ms"),
    (TrafficRecorded, {"latency_ms": 1e308}, "latency_ms"),
    (TrafficRecorded, {"tokens_in": 2**70}, "tokens_in"),
    (TrafficRecorded, {"status": -5}, "status"),
    (TrafficRecorded, {"release": "../../etc"}, "release"),
    *((LabelRecorded, {"inclusion_probability": bad}, "inclusion_probability")
      for bad in (0, -1, 1e308)),
    *((ReviewRequested, {"priority": bad}, "priority") for bad in (-1, 101, 1e308)),
    (ReviewRequested, {"inclusion_probability": 0}, "inclusion_probability"),
    (RolloutChanged, {"challenger": "../.."}, "challenger"),
    *((RolloutChanged, {"split": {**SPLIT, "champion": bad}}, "champion")
      for bad in ("..", "../..", "a/b", "")),
    (RolloutChanged, {"split": {**SPLIT, "challenger_share": -0.5}}, "challenger_share"),
)  # fmt: skip


def named(kind: type[Event]) -> dict[str, bytes]:
    spec = next(spec for spec in EVENTS if spec.type is kind)
    return {SCHEMA_HEADER: f"{spec.schema}/{spec.version}".encode()}


def nested(kind: type[Event], levels: int) -> bytes:
    """A sound event with a field of tomorrow that is nested ``levels`` deep."""
    deep = b"[" * levels + b"]" * levels
    return document(kind)[:-1] + b',"of_tomorrow":' + deep + b"}"


class RawName(str):
    """A header's name as other clients send it: any bytes."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe odd"


def hostile(topic: str) -> Iterator[Record]:
    """Records for one topic, with what Kafka's clients can send and Flywheel never does."""
    for spec in EVENTS:
        if spec.topic != topic or spec.type not in SOUND:
            continue
        sound = document(spec.type)
        headers = tuple(named(spec.type).items())
        yield Record(topic, b"deep", nested(spec.type, 1_000), headers)
        yield Record(topic, b"deeper", nested(spec.type, 200_000), headers)
        yield Record(topic, b"cut", sound[: len(sound) // 2], headers)
        yield Record(topic, b"list", b"[]", headers)
        yield Record(
            topic,
            b"surrogate",
            document(spec.type, event_id="X").replace(b'"X"', b'"\\ud800"'),
            headers,
        )
        yield Record(topic, b"no header", sound, ())
        yield Record(topic, b"null header", sound, ((SCHEMA_HEADER, None),))
        yield Record(topic, b"odd headers", b"{", (("\u00fc", b"\xff\x00"), *headers, ("n", None)))
        yield Record(topic, b"unknown", sound, ((SCHEMA_HEADER, b"TrafficRecorded/99"),))
        yield Record(topic, b"no such", sound, ((SCHEMA_HEADER, b"\xff\xfe" * 1_000),))
        yield Record(topic, b"large", b"x" * 1_000_000, headers)
        yield Record(topic, b"", b"", headers)
        yield Record(topic, b"foreign", document(spec.type, task="no-such-task"), headers)
        yield Record(topic, b"task", document(spec.type, task="x" * 300), headers)
        for kind, fields, field in OUT_OF_BOUNDS:
            if kind is spec.type:
                yield Record(topic, field.encode(), document(kind, **fields), headers)
    yield Record(topic, b"nothing", None, ())
