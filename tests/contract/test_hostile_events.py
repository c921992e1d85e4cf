"""Whatever a field of an event holds, every agent handles it or says why it cannot, on both
databases; and what it says fits a dead letter."""

from __future__ import annotations

from typing import Any

import pytest
from audits import NoAudits
from hostile_records import SOUND, document, named
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.events import Event
from flywheel.errors import EventError
from flywheel.kinds import Choice
from flywheel.triage.config import TriageSettings
from flywheel.triage.triager import Triager
from storage.database import Database
from streams.agent_loop import Agent
from streams.agents import evidence, labels, review, triage
from streams.agents.acceptance import configured
from streams.batches import handle_batch
from streams.dead_letters import letter_of

TASK = "topic"
LABELS = ("v", "w")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["..", ".", "", "a/b", "v", "user", "9999-12-31T23:59:59Z", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.fixture
def agents(database: Database) -> list[Agent]:
    accept = configured({TASK: Choice(LABELS)})
    return [
        triage.agent(
            Triager({TASK: (Choice(LABELS), TriageSettings())}, NoAudits(), salt="salt"), accept
        ),
        review.agent(database, accept),
        labels.agent(database, accept=accept),
        evidence.agent(database, accept),
    ]


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_an_event_is_handled_or_becomes_a_letter_whatever_a_field_holds(
    agents: list[Agent], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(SOUND, key=lambda kind: kind.__name__)))
    fields = data.draw(st.dictionaries(st.sampled_from(kind.__struct_fields__), values, max_size=3))
    body = document(kind, **fields)
    try:
        event = decode(body, named(kind))
    except EventError as error:
        letter = letter_of(received(body, kind), "group", error, "")
        record = encode(letter)
        assert decode(record.value, dict(record.headers)) == letter
        return
    encode(event)
    for agent in agents:
        outcome = handle_batch(
            lambda events, agent=agent: [encode(one) for one in agent.handle(events)],
            [event],
            suspicious=True,
        )
        for refused, error in outcome.rejected:
            encode(letter_of(received(body, kind), agent.group, error, refused.task))


def received(value: bytes, kind: type[Event]) -> Any:
    """What a Kafka client gives."""

    class Received:
        topic, partition, offset, timestamp, key = "flywheel.traffic", 0, 1, -0.001, None

    Received.value = value  # type: ignore[attr-defined]
    Received.headers = list(named(kind).items())  # type: ignore[attr-defined]
    return Received
