"""An id that a client chose names one text."""

from __future__ import annotations

import pytest

from flywheel.errors import Conflict
from flywheel.gateway.chosen_ids import ChosenIds


def test_an_id_names_one_text_of_a_task() -> None:
    ids = ChosenIds()
    ids.take("topic", "ticket-1", "a text")
    ids.take("topic", "ticket-1", "a text")
    ids.take("urgency", "ticket-1", "another text")
    with pytest.raises(Conflict, match="ticket-1"):
        ids.take("topic", "ticket-1", "another text")
    ids.take("topic", "ticket-1", "a text")


def test_what_is_remembered_is_bounded_and_what_is_used_is_kept() -> None:
    ids = ChosenIds(capacity=2)
    for sample in ("one", "two", "one", "three"):
        ids.take("topic", sample, "a text")
    with pytest.raises(Conflict):
        ids.take("topic", "one", "another text")
    ids.take("topic", "two", "another text")
