"""Every command that a page, a document or a message names exists, with its options."""

from __future__ import annotations

import pytest
from named_commands import Named, everywhere, problem


@pytest.mark.parametrize("named", everywhere(), ids=lambda named: f"{named.where}: {named.text}")
def test_a_named_command_can_be_run_as_it_is_written(named: Named) -> None:
    assert problem(named) is None


def test_commands_are_found_where_people_read_them() -> None:
    places = {named.where for named in everywhere()}
    assert "README.md" in places
    assert "docs/your-own-task.md" in places
    assert "flywheel/console/templates/overview.html" in places
    assert "flywheel/settings.py" in places


@pytest.mark.parametrize(
    ("text", "complete", "said"),
    [
        ("flywheel ingest TASK FILE", True, "unexpected"),
        ("flywheel retrain TASK", True, "needs --by"),
        ("flywheel retrain TASK", False, None),
        ("flywheel retrain", True, None),
        ("flywheel ingest FILE --splitt holdout", False, "No such option"),
        ("flywheel ingest FILE --split test", False, "not one of"),
        ("flywheel rollout", True, "needs a command"),
        ("flywheel rolout show", False, "knows no 'rolout'"),
        ("flywheel rollout pause|resume", False, None),
        ("flywheel rollout pause|resum", False, "knows no 'resum'"),
        ("flywheel serve --folder", False, None),
        ("flywheel serve --folder", True, "requires an argument"),
        ("flywheel -w support up &", True, None),
        ("make demonstration", False, "make knows no"),
        ('make demo ARGS="--expert me"', True, None),
        ('make demo ARGS="--experts me"', True, "No such option"),
    ],
)
def test_what_cannot_be_run_is_noticed(text: str, complete: bool, said: str | None) -> None:
    found = problem(Named("here", text, complete))
    assert found is None if said is None else found is not None and said in found
