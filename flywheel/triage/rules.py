"""Rules that experts wrote: a pattern sends a sample to review, or labels it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flywheel.triage.config import ExpertRule


class Rules:
    """The rules of one task, compiled. Those that ask for an expert are looked at first."""

    def __init__(self, rules: Sequence[ExpertRule]) -> None:
        compiled = [(re.compile(rule.pattern), rule) for rule in rules]
        self._reviewing = [(p, rule) for p, rule in compiled if rule.label is None]
        self._labelling = [(p, rule) for p, rule in compiled if rule.label is not None]

    def reviewing(self, text: str) -> ExpertRule | None:
        """The most urgent rule that wants an expert to see this text; of equals the first."""
        hits = [rule for pattern, rule in self._reviewing if pattern.search(text)]
        return max(hits, key=lambda rule: rule.priority, default=None)

    def labelling(self, text: str) -> ExpertRule | None:
        """The first rule, in the order of the file, that labels this text."""
        for pattern, rule in self._labelling:
            if pattern.search(text):
                return rule
        return None

    def matches(self, text: str) -> bool:
        """Whether any rule decides about this text, so that the model does not."""
        return self.reviewing(text) is not None or self.labelling(text) is not None
