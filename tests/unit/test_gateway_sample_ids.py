"""Which sample a request is: the same one, however often it is sent and by whatever name."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flywheel.errors import Conflict, RequestError
from flywheel.gateway.auth import Caller, Keys
from flywheel.gateway.sample_ids import RETRY_SECONDS, Attempts, SampleIds, sample_name
from flywheel.monitoring.headers import header_text, header_value

CALLER = Caller("shop", "key-1", "1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(ids: SampleIds, caller: Caller = CALLER, **more: str) -> str:
    """The id of a request; ``more`` are its user, text and body, and its headers."""
    user, text = more.pop("user", None), more.pop("text", "Who?")
    body = more.pop("body", f"{user} {text}").encode()
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return ids.of(headers, caller, task="t", content=text, user=user, body=body)


def test_every_host_derives_the_same_id_from_key_user_and_idempotency_key() -> None:
    here, there = SampleIds(), SampleIds()
    first = asked(here, user="ada", idempotency_key="k")
    assert asked(here, user="ada", idempotency_key="k") == first
    assert asked(there, user="ada", idempotency_key="k") == first
    others = {
        asked(there, user="bob", idempotency_key="k"),
        asked(there, idempotency_key="k"),
        asked(there, user="ada", idempotency_key="l"),
        asked(there, Caller("shop", "key-2", "2"), user="ada", idempotency_key="k"),
        asked(there, user="ada"),
    }
    assert len(others | {first}) == 6


def test_a_callers_key_is_the_same_from_every_address_and_under_every_source() -> None:
    keys = Keys(["s3cret"])
    headers = {"authorization": "Bearer s3cret"}
    one = keys.identify(headers, "10.0.0.1")
    other = keys.identify({**headers, "x-flywheel-source": "shop"}, "10.0.0.2")
    assert one.key == other.key != ""
    assert "s3cret" not in one.key
    assert Keys().identify({}, "10.0.0.1").key == Keys().identify({}, "10.0.0.2").key


def test_an_idempotency_key_stands_for_one_text() -> None:
    ids = SampleIds()
    asked(ids, idempotency_key="k")
    with pytest.raises(Conflict, match="Idempotency-Key 'k' came with another text"):
        asked(ids, idempotency_key="k", text="Where?")
    for wrong in ("", "x" * 129, "a\x7f", "\xff"):
        with pytest.raises(RequestError, match=r"(?i)idempotency-key"):
            asked(ids, idempotency_key=wrong)
    assert asked(ids, idempotency_key="k", x_flywheel_sample_id="mine") == "mine"


def test_the_same_request_sent_again_is_the_same_sample() -> None:
    ids = SampleIds(Clock())
    first = asked(ids, x_stainless_retry_count="0")
    assert asked(ids, x_stainless_retry_count="1") == first
    assert asked(ids, x_stainless_retry_count="2") == first
    for more in ({"user": "bob"}, {"text": "Where?"}, {"body": "{ }"}):
        assert asked(ids, x_stainless_retry_count="1", **more) != first
    elsewhere = Caller("shop", "key-2", "2")
    assert asked(ids, elsewhere, x_stainless_retry_count="3") != first


def test_an_attempt_that_went_elsewhere_is_no_gap() -> None:
    ids = SampleIds(Clock())
    first = asked(ids, x_stainless_retry_count="0")
    assert asked(ids, x_stainless_retry_count="2") == first


def test_callers_who_ask_the_same_at_once_stay_two() -> None:
    ids = SampleIds(Clock())
    first = {asked(ids, x_stainless_retry_count="0") for _ in range(2)}
    assert len(first) == 2
    assert {asked(ids, x_stainless_retry_count="1") for _ in range(2)} == first
    assert asked(ids, x_stainless_retry_count="1") not in first


def test_a_repetition_comes_within_a_minute_of_the_attempt_before() -> None:
    clock = Clock()
    ids = SampleIds(clock)
    first = asked(ids, x_stainless_retry_count="0")
    clock.now = RETRY_SECONDS
    assert asked(ids, x_stainless_retry_count="1") == first
    clock.now = 2 * RETRY_SECONDS
    assert asked(ids, x_stainless_retry_count="2") == first
    clock.now = 3 * RETRY_SECONDS + 1
    assert asked(ids, x_stainless_retry_count="3") != first


@pytest.mark.parametrize("count", ["", "-1", "one", "²", "9" * 30])
def test_a_count_that_is_none_is_a_new_request(count: str) -> None:
    ids = SampleIds(Clock())
    assert asked(ids, x_stainless_retry_count=count) != asked(ids, x_stainless_retry_count=count)


def test_what_is_remembered_of_attempts_is_bounded() -> None:
    clock = Clock()
    attempts = Attempts(clock, capacity=10)
    ids = [attempts.sample_id("c", b"%d" % number, 0) for number in range(20)]
    assert attempts.sample_id("c", b"19", 1) == ids[19]
    assert attempts.sample_id("c", b"0", 1) != ids[0]


@given(st.text(min_size=1, max_size=60))
@example("größe-42")
@example("日本")
@example("chatcmpl-order-17")
@example("u\u0308")
@example(" s")
@example("a\u200bb")
def test_a_name_is_the_same_in_header_and_body_or_refused_in_both(name: str) -> None:
    try:
        in_body = sample_name("sample_id", name)
    except RequestError:
        return
    sent = header_text(name.encode("utf-8").decode("latin-1").strip(" \t"))
    assert sent is not None
    assert sample_name("x-flywheel-sample-id", sent) == in_body
    # And so is the id of the answer that carries it.
    assert sample_name("sample_id", f"chatcmpl-{in_body}") == in_body
    assert header_text(header_value(in_body)) == in_body
    assert unicodedata.normalize("NFC", in_body) == in_body


def test_a_header_that_is_no_utf8_names_nothing() -> None:
    with pytest.raises(RequestError, match="x-flywheel-sample-id: its bytes are no UTF-8"):
        asked(SampleIds(), x_flywheel_sample_id="gr\xf6\xdfe")


def told(ids: SampleIds, said: str = "t s-1 HUM", caller: Caller = CALLER, **headers: str) -> str:
    """The id of feedback by ada."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ids.of_feedback(named, caller, "ada", said, said.encode())


def test_feedback_under_a_key_is_one_event_on_every_host() -> None:
    here, there = SampleIds(), SampleIds()
    first = told(here, idempotency_key="k")
    assert told(here, idempotency_key="k") == told(there, idempotency_key="k") == first
    assert told(there, idempotency_key="l") != first
    assert told(there, caller=Caller("shop", "key-2", "2"), idempotency_key="k") != first
    assert asked(here, idempotency_key="k") != first, "a question is no feedback"
    with pytest.raises(Conflict, match="'k' came with other feedback before"):
        told(here, "t s-1 LOC", idempotency_key="k")


def test_feedback_that_a_client_repeats_is_one_event() -> None:
    ids = SampleIds()
    first = told(ids, x_stainless_retry_count="0")
    assert told(ids, x_stainless_retry_count="1") == first
    assert told(ids, x_stainless_retry_count="0") != first
    assert len({told(ids), told(ids)}) == 2
