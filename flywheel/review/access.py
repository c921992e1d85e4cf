"""Who may answer: what counts as an annotator's name."""

from __future__ import annotations

import unicodedata

from flywheel.contracts.answers import normalised

LONGEST_NAME = 64


def person(name: str) -> str:
    """What two names share when they are one person's: whatever their case, width and spacing."""
    return normalised(name)


def annotator_name(name: str) -> str:
    """The name as it is stored: trimmed and in Unicode's composed form, so one person is one name.

    Raises ValueError for a name that is empty, too long, or holds control characters. The console's
    API keys decide who may call at all; within them a client says who is answering.
    """
    tidy = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(tidy) <= LONGEST_NAME:
        raise ValueError(f"an annotator's name has 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(character).startswith("C") for character in tidy):
        raise ValueError("an annotator's name has no control characters")
    return tidy
