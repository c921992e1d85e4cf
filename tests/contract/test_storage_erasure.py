"""An erasure leaves nothing of a sample or a user, keeps what was counted, and lets none back."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from kept_rows import OF_LABELS, begin_rollout, keep, rows, totals
from sqlalchemy import select
from storage_events import START, TASK, label, request, settled, shadow, traffic

from flywheel.contracts.events import Event
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import NotFound
from flywheel.kinds import FreeText
from flywheel.retention.erasure import Erasure, erase_rows
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.submit import submit_answer
from storage.database import Database
from storage.repositories.admission import wanted
from storage.tables import metadata

OTHER = "urgency"
SECRET = "nobody may know"
# What there is to do or to learn from, which goes with the samples.
STANDING = (*OF_LABELS, "review_totals")
SAMPLE_TABLES = sorted(table.name for table in metadata().sorted_tables if "sample_id" in table.c)


def erased(database: Database, *, user: str | None = None, sample: str | None = None) -> Any:
    name = user or sample or ""
    kind: Any = "sample" if user is None else "user"
    with database.transaction() as tx:
        subject = tx.erasures.subject(kind, name)
    erasure = Erasure(
        erasure_id=new_id(), at=utc_now(), by="ada", why="asked", kind=kind, subject=subject
    )
    return erase_rows(
        database.transaction,
        lambda: database.transaction(read_only=True),
        erasure,
        name,
        [TASK, OTHER],
    )


def story(sample: str, user: str = "kim", **other: Any) -> list[Event]:
    """All that may be said of one sample."""
    of_arm = {"arm": "champion", "rollout_id": "rollout", "challenger_share": 0.1}
    return [
        traffic(sample, 1, unit=user, content=SECRET, **of_arm, **other),
        shadow(sample, 2, challenger_share=0.1),
        request(sample, seconds=3, audit=True, content=SECRET, **other),
        label(sample, "a", "user", 4, **other),
        settled(sample, "b", 5, **other),
    ]


def everything(database: Database) -> str:
    """Every row of the database, as text."""
    with database.work(read_only=True) as work:
        return "\n".join(
            str(tuple(row))
            for table in metadata().sorted_tables
            for row in work.rows(select(table))
        )


def held(database: Database, sample: str) -> list[str]:
    return [name for name in SAMPLE_TABLES if sample in rows(database, name)]


def test_nothing_of_a_sample_is_left_anywhere(database: Database) -> None:
    begin_rollout(database, ended=False)
    keep(database, story("sample-7"))
    keep(database, story("another", user="bo"))
    assert len(held(database, "sample-7")) >= 7
    before = totals(database, STANDING)
    samples, went = erased(database, sample="sample-7")
    assert samples == [(TASK, "sample-7"), (OTHER, "sample-7")]
    assert went["traffic"] == 1
    with database.transaction() as tx:
        # Those who read what was judged were told that it is gone, and have read on.
        assert [
            one.gone for one in tx.evidence.judged("rollout") if one.sample_id == "sample-7"
        ] == [True]
        tx.erasures.forget_judged(TASK, tx.erasures.judged_tick(TASK))
    assert "sample-7" not in everything(database)
    assert held(database, "another")
    after = totals(database, STANDING)
    assert after == before
    kept = totals(database)
    database.recount()
    assert totals(database) == kept


def test_a_user_goes_with_all_that_they_sent_and_nobody_else_does(database: Database) -> None:
    begin_rollout(database, ended=False)
    keep(database, [*story("s1"), *story("s2"), *story("s3", user="bo")])
    keep(database, story("s4", task=OTHER)[:1])
    samples, _ = erased(database, user="kim")
    assert samples == [(TASK, "s1"), (TASK, "s2"), (OTHER, "s4")]
    with database.transaction() as tx:
        tx.erasures.forget_judged(TASK, tx.erasures.judged_tick(TASK))
    left = everything(database)
    assert "kim" not in left
    assert "'s1'" not in left
    assert held(database, "s3")


def test_no_redelivery_brings_it_back(database: Database) -> None:
    events = story("sample-7")
    keep(database, events)
    erased(database, sample="sample-7")
    before = totals(database)
    keep(database, events)
    # Triage was at it when it was erased, a feedback came later, a shadow was late.
    keep(database, [request("sample-7", seconds=9), label("sample-7", "c", "user", 10)])
    keep(database, [shadow("sample-7", 11), settled("sample-7", "c", 12)])
    assert not [
        t for t in held(database, "sample-7") if t not in ("rollout_judged", "release_audits")
    ]
    assert totals(database) == before


def test_labels_of_a_sample_that_never_came_wait_no_more(database: Database) -> None:
    keep(database, [label(name, "a", "user", 1) for name in ("never", "nor this")])
    keep(database, [settled("never", "b", 2)])
    erased(database, sample="never")
    with database.transaction(read_only=True) as tx:
        assert tx.balance.waiting() == {TASK: 1}
        assert tx.balance.labels_without_sample() == [f"{TASK}/nor this"]


@pytest.mark.parametrize("first", ["request", "review", "shadow"])
def test_what_an_erased_user_had_on_the_way_is_not_taken_in(database: Database, first: str) -> None:
    erased(database, user="kim")
    sent, copied, asked, *_ = story("on its way")
    order = {"request": [sent, asked, copied], "review": [asked, sent, copied]}
    for event in order.get(first, [copied, asked, sent]):
        keep(database, [event])
    assert held(database, "on its way") == []
    # What they send from now on is a new matter.
    later = traffic("new", unit="kim")
    with database.work() as work:
        work.connection.exec_driver_sql("UPDATE erased_users SET until = '2026-01-01 00:00:00+00'")
    keep(database, [msgspec.structs.replace(later, occurred_at=START + timedelta(days=1))])
    assert "traffic" in held(database, "new")


def test_who_compares_log_and_database_asks_for_nothing_that_was_erased(database: Database) -> None:
    events = story("sample-7")
    keep(database, events)
    erased(database, user="kim")
    late = story("on its way")[0]
    others = story("another", user="bo")
    with database.work(read_only=True) as work:
        for kinds in (("traffic", "automatic", "labelled"), ("evidence",), ("review",)):
            assert wanted(work, [*events, late, *others], kinds) == others


def test_an_expert_who_holds_it_right_now_is_told_that_it_is_gone(database: Database) -> None:
    keep(database, story("sample-7")[:1])
    keep(database, [request("sample-7", seconds=3)])
    review = ReviewSettings()
    with database.transaction("console") as tx:
        (given,) = claimed(tx, review)
        assert given.sample_id == "sample-7"
    erased(database, sample="sample-7")
    answer = _answer("sample-7")
    with pytest.raises(NotFound), database.transaction("console") as tx:
        submit_answer(tx, TASK, FreeText(), review, answer)
    with database.transaction("console") as tx:
        assert claimed(tx, review) == []
        depth = tx.desk.depth(TASK, utc_now())
    assert (depth.claimed, depth.open) == (0, 0)
    assert held(database, "sample-7") == []


def test_what_waits_to_be_published_goes_as_well(database: Database) -> None:
    keep(database, [request("sample-7", seconds=3), request("another", seconds=3)])
    review = ReviewSettings()
    with database.transaction("console") as tx:
        for sample in ("sample-7", "another"):
            claimed(tx, review)
            submit_answer(tx, TASK, FreeText(), review, _answer(sample))
    waiting = database.outbox_rows("console").unsent(100)
    assert any(b"sample-7" in record.value for _, record in waiting)
    erased(database, sample="sample-7")
    waiting = database.outbox_rows("console").unsent(100)
    assert waiting
    assert not any(b"sample-7" in record.value for _, record in waiting)


def test_the_record_says_who_and_why_and_not_whose(database: Database) -> None:
    keep(database, story("s1"))
    erased(database, user="kim")
    with database.transaction(read_only=True) as tx:
        (record,) = tx.erasures.history()
    assert (record.by, record.why, record.kind) == ("ada", "asked", "user")
    assert "kim" not in str(record)
    with database.transaction() as tx:
        assert record.subject == tx.erasures.subject("user", "kim"), "who asks again can be told"


def test_ended_midway_it_goes_on_when_it_is_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.repositories.erasure import SqlErasures

    keep(database, [one for n in range(120) for one in story(f"s{n}")])
    before = totals(database, STANDING)
    removed = SqlErasures.remove
    calls = iter(range(100))

    def cut(self: SqlErasures, task: str, sample_ids: Sequence[str]) -> Any:
        went = removed(self, task, sample_ids)
        if next(calls) == 1:
            raise KeyboardInterrupt
        return went

    monkeypatch.setattr(SqlErasures, "remove", cut)
    with pytest.raises(KeyboardInterrupt):
        erased(database, user="kim")
    assert len(rows(database, "traffic")) == 70
    # What is left is refused already.
    keep(database, story("s0"))
    erased(database, user="kim")
    assert rows(database, "traffic") == set()
    after = totals(database, STANDING)
    assert after == before


def claimed(tx: Any, review: ReviewSettings) -> list[Any]:
    now = utc_now()
    return claim_next(tx, task=TASK, annotator="ada", limit=5, now=now, settings=review).items


def _answer(sample: str) -> Any:
    from flywheel.review.ports import Answer

    return Answer(sample_id=sample, annotator="ada", value="a", answered_at=utc_now(), seconds=1.0)


def test_what_is_queued_while_it_is_erased_goes_as_well(database: Database) -> None:
    """The queue's agent has asked what may enter, and not ended, when the erasure comes."""
    with ThreadPoolExecutor(1) as beside:
        with database.transaction() as tx:
            tx.intake.open([request("sample-7", seconds=3, content=SECRET)])
            erasing = beside.submit(erased, database, sample="sample-7")
            wait([erasing], timeout=1.0)
        erasing.result()
    assert held(database, "sample-7") == []


def test_a_user_is_found_where_each_request_was_assigned_by_itself(database: Database) -> None:
    keep(database, [traffic("s1", 1, unit="s1", user="kim"), shadow("s1", 2)])
    samples, _ = erased(database, user="kim")
    assert samples == [(TASK, "s1")]
    assert held(database, "s1") == []
    keep(database, [traffic("on its way", 1, unit="on its way", user="kim")])
    assert held(database, "on its way") == []
