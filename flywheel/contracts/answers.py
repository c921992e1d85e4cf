"""When two texts are the same, and what text can be an answer."""

from __future__ import annotations

import unicodedata

from flywheel.contracts.bounds import unkept_problem
from flywheel.contracts.invisible import is_blank, without_invisible

# The longest free text that a person, a rule or a file may give as the right answer.
LONGEST_TEXT = 8_000


def normalised(text: str) -> str:
    """What two texts must share to count as the same, wherever that is asked: letters whatever
    their case, width and spacing, and whatever nobody sees among them. Normalising again changes
    nothing."""
    return spelt(without_invisible(text))


def spelt(text: str) -> str:
    """What earlier versions took for the same text: invisible characters made a difference."""
    # Folding case can leave a text that is no longer composed (Unicode 3.13, D146): hence twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def same_text(one: str, other: str) -> bool:
    """Whether two free texts say the same, letter by letter after normalising."""
    return one == other or normalised(one) == normalised(other)


def text_problem(text: str) -> str | None:
    """Why a free text cannot be a right answer, or None."""
    if is_blank(text):
        return "the text is empty"
    if len(text) > LONGEST_TEXT:
        return f"the text has {len(text)} characters; at most {LONGEST_TEXT} are accepted"
    return unkept_problem(text)
