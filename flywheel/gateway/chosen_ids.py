"""Sample ids that clients chose lately: an id names one text."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from flywheel.errors import Conflict

_DIGEST_BYTES = 16


class ChosenIds:
    """The digests of the texts behind the latest ``capacity`` ids; about 200 bytes each.

    What was asked longer ago, of another gateway, or before a restart is found out by the label
    agent, which gives the later text a dead letter.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._digests: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def take(self, task: str, sample_id: str, text: str) -> None:
        """Note that the id names this text. Raises Conflict when it names another one."""
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
        if self._digests.setdefault((task, sample_id), digest) != digest:
            raise Conflict(
                f"sample {sample_id!r} of task {task!r} has another text already: an id names one "
                "text, so leave it out, or choose one of its own for each text"
            )
        self._digests.move_to_end((task, sample_id))
        if len(self._digests) > self._capacity:
            self._digests.popitem(last=False)
