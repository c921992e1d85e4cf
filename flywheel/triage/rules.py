"""Rules that experts wrote: a pattern sends a sample to review, or labels it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from flywheel.contracts.invisible import without_invisible
from flywheel.triage.config import ExpertRule


class Rules:
    """The rules of one task, compiled. Those that ask for an expert are looked at first.

    A pattern is searched in the text as it is seen: what nobody sees among its letters, how they
    are composed and how wide they are hide nothing from it. A pattern that names such characters
    itself is searched in the text as it came, too.
    """

    def __init__(self, rules: Sequence[ExpertRule]) -> None:
        compiled = [(_Pattern(rule.pattern), rule) for rule in rules]
        self._reviewing = [(p, rule) for p, rule in compiled if rule.label is None]
        self._labelling = [(p, rule) for p, rule in compiled if rule.label is not None]

    def reviewing(self, text: str) -> ExpertRule | None:
        """The most urgent rule that wants an expert to see this text; of equals the first."""
        seen = _as_seen(text) if self._reviewing else ()
        hits = [rule for pattern, rule in self._reviewing if pattern.matches(text, seen)]
        return max(hits, key=lambda rule: rule.priority, default=None)

    def labelling(self, text: str) -> ExpertRule | None:
        """The first rule, in the order of the file, that labels this text."""
        seen = _as_seen(text) if self._labelling else ()
        return next((rule for p, rule in self._labelling if p.matches(text, seen)), None)

    def matches(self, text: str) -> bool:
        """Whether any rule decides about this text, so that the model does not."""
        patterns = [pattern for pattern, _ in (*self._reviewing, *self._labelling)]
        seen = _as_seen(text) if patterns else ()
        return any(pattern.matches(text, seen) for pattern in patterns)


class _Pattern:
    def __init__(self, pattern: str) -> None:
        self._search = re.compile(pattern).search
        self._literal = _names_what_is_not_seen(pattern)

    def matches(self, text: str, seen: Sequence[str]) -> bool:
        as_seen = any(self._search(form) for form in seen)
        return as_seen or (self._literal and self._search(text) is not None)


def _as_seen(text: str) -> Sequence[str]:
    """The text without what nobody sees, composed; and, if that is another, with letters, digits
    and spaces of every width as the plain ones."""
    seen = without_invisible(text)
    if seen.isascii():
        return (seen,)
    forms = [unicodedata.normalize(form, seen) for form in ("NFC", "NFKC")]
    return forms[:1] if forms[0] == forms[1] else forms


_ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}]*)\})")


def _names_what_is_not_seen(pattern: str) -> bool:
    """Whether a pattern has characters, as they are or escaped, that no text as seen has."""
    named = [
        unicodedata.lookup(one[4]) if one[4] else chr(int(one[1] or one[2] or one[3], 16))
        for one in _ESCAPED.finditer(pattern)
    ]
    whole = pattern + "".join(named)
    return unicodedata.normalize("NFC", without_invisible(whole)) != whole
