"""Fields of a labelled object that decide whether its label holds, whoever wrote the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """A text and its label as a file has them; whether they can be used is asked later."""

    text: object
    label: object


class LeftOut(NamedTuple):
    """Something of a file that is no label of a sample, and why."""

    reason: str


Said = Sample | LeftOut


class Unusable(Exception):
    """An object that is not what its format has; says what is wrong with it."""


# Each of these fields says of a label that it is wrong, or that nobody stands by it.
_REJECTING = {
    "answer": frozenset({"reject", "rejected", "ignore", "ignored", "skip", "skipped"}),
    "status": frozenset({"rejected", "discarded"}),
} | dict.fromkeys(
    ("label_status", "annotation_status", "review_status", "response_status"),
    frozenset({"rejected", "discarded", "skipped", "cancelled", "draft"}),
)
_REJECTING_IF_TRUE = frozenset(
    {"rejected", "is_rejected", "was_rejected", "incorrect", "is_wrong", "negated", "is_negated"}
    | {"skipped", "was_skipped", "is_skipped", "cancelled", "was_cancelled", "ignored"}
    | {"discarded", "is_discarded", "deleted", "is_deleted"}
)
_REJECTING_IF_FALSE = frozenset(
    {"accepted", "is_accepted", "approved", "is_approved", "confirmed", "is_confirmed"}
    | {"verified", "is_verified", "correct", "is_correct"}
)
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


def turned(item: Mapping[str, Any]) -> str | None:
    """The field, with its value, that says of an object's label that it does not hold; or None."""
    for name, value in item.items():
        field, word = name.strip().lower(), str(value).strip().lower()
        if (
            word in _REJECTING.get(field, ())
            or (field in _REJECTING_IF_TRUE and word in _TRUE)
            or (field in _REJECTING_IF_FALSE and word in _FALSE)
        ):
            return f'"{field}": "{word}"' if isinstance(value, str) else f'"{field}": {word}'
    return None


def one_label(chosen: Sequence[Any]) -> str | LeftOut:
    """The one label of a list. Raises Unusable for several, and for labels of parts of a text."""
    if not chosen:
        return LeftOut("no label")
    if not all(isinstance(label, str) for label in chosen):
        raise Unusable("its labels are no words: labels of parts of a text, or their numbers")
    if len(set(chosen)) > 1:
        shown = ", ".join(repr(label) for label in chosen[:5])
        raise Unusable(f"it has {len(chosen)} labels ({shown}); a sample has one")
    return str(chosen[0])
