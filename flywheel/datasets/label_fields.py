"""Fields of a labelled object that decide whether its label holds, whoever wrote the file."""

from __future__ import annotations

import re
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


# Each of these fields says of a label that it is wrong, or that nobody stands by it. A status alone
# may be that of the text: a ticket is cancelled, and its label holds.
_REJECTING = {
    "answer": frozenset({"reject", "rejected", "ignore", "ignored", "skip", "skipped"}),
    "status": frozenset({"rejected", "discarded"}),
}
_OF_THE_LABEL = re.compile(
    r"(label|annotation|annotator|assignment|response|review|reviewer|qa|quality)"
    r"(status|state|result|decision|verdict|outcome|check)"
)
_WRONG = frozenset({"reject", "rejected", "invalid", "incorrect", "wrong", "disapproved", "failed"})
_NOBODYS = frozenset(
    {"ignored", "skipped", "cancelled", "canceled", "discarded", "deleted", "draft"}
)
_SAYS_NO = frozenset(
    {"reject", "rejected", "incorrect", "wrong", "negated", "invalid", "mislabeled", "mislabelled"}
    | {"skip", "skipped", "cancelled", "canceled", "ignore", "ignored", "discard", "discarded"}
    | {"deleted", "exclude", "excluded", "withdrawn", "tainted"}
)
_SAYS_YES = frozenset(
    {"accept", "accepted", "approve", "approved", "confirmed", "verified", "validated", "valid"}
    | {"correct", "labelcorrect", "labeliscorrect", "keep", "kept", "include", "included", "usable"}
)
_TRUE = frozenset(
    {"reject", "rejected", "is_rejected", "was_rejected", "incorrect", "is_incorrect", "wrong"}
    | {"is_wrong", "negated", "is_negated", "invalid", "is_invalid", "mislabeled", "mislabelled"}
    | {"is_mislabeled", "is_mislabelled", "skip", "skipped", "was_skipped", "is_skipped"}
    | {"cancelled", "was_cancelled", "canceled", "was_canceled", "ignore", "ignored", "is_ignored"}
    | {"discard", "discarded", "is_discarded", "deleted", "is_deleted"}
    | {"exclude", "excluded", "is_excluded", "withdrawn", "is_withdrawn", "_tainted", "tainted"}
)
_REJECTING_IF_FALSE = frozenset(
    {"accept", "accepted", "is_accepted", "approve", "approved", "is_approved", "confirmed"}
    | {"is_confirmed", "verified", "is_verified", "validated", "is_validated", "correct"}
    | {"is_correct", "label_is_correct", "is_label_correct", "label_correct", "valid", "is_valid"}
    | {"keep", "is_kept", "include", "included", "is_included", "usable", "is_usable"}
)
_TRUE = frozenset({"true", "yes", "y", "t", "1", "1.0", "x"})
_FALSE = frozenset({"false", "no", "n", "f", "0", "0.0"})


def turned(item: Mapping[str, Any]) -> str | None:
    """The field, with its value, that says of an object's label that it does not hold; or None."""
    for name, value in item.items():
        field, word = _spelt(name), str(value).strip().lower()
        if (
            word in _REJECTING.get(field, ())
            or (word in _WRONG | _NOBODYS and _OF_THE_LABEL.fullmatch(field))
            or (_said(field) in _SAYS_NO and word in _TRUE)
            or (_said(field) in _SAYS_YES and word in _FALSE)
        ):
            shown = name.strip().lower()
            return f'"{shown}": "{word}"' if isinstance(value, str) else f'"{shown}": {word}'
    return None


def _spelt(name: str) -> str:
    """A field's name as it stands above: "isRejected", "Is Rejected" and "is-rejected" are one."""
    return re.sub(r"[\W_]+", "", name).lower()


def _said(field: str) -> str:
    """A field's name without what asks: "isrejected" and "wasrejected" say "rejected"."""
    return re.sub(r"^(is|was)(label)?", "", field)


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
