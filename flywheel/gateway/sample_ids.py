"""Which sample, or which word on one, a request is: one that comes again is the same one."""

from __future__ import annotations

import hashlib
import time
import unicodedata
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping

from flywheel.contracts.ids import new_id
from flywheel.contracts.sample import Content, written
from flywheel.errors import Conflict, RequestError
from flywheel.gateway.auth import Caller
from flywheel.gateway.chosen_ids import ChosenIds
from flywheel.gateway.requests import CHAT_PREFIX, check_id
from flywheel.monitoring.headers import header_text

SAMPLE_HEADER = "x-flywheel-sample-id"
IDEMPOTENCY_HEADER = "idempotency-key"
RETRY_HEADER = "x-stainless-retry-count"
_NAMES = frozenset(name.encode() for name in (SAMPLE_HEADER, IDEMPOTENCY_HEADER, RETRY_HEADER))
# A client that repeats a request by itself does so within this time.
RETRY_SECONDS = 60.0
_MOST_RETRIES = 100
_MOST_ALIKE = 1_000
_IDEMPOTENT_IDS = uuid.UUID("5a2a2c8b-93a5-5c0e-8a43-0b1f6d1f2c77")
_FEEDBACK_IDS = uuid.UUID("0c1d7f1e-54a4-5d43-9d0f-7c0f6b8f4a52")
# No task has this name: feedback is no sample of any.
_FEEDBACK = "\x1ffeedback"


def naming_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that ``SampleIds.of`` reads, of an ASGI scope's: in one walk, since every request
    pays for it."""
    return {name.decode(): value.decode("latin-1") for name, value in raw if name in _NAMES}


def sample_name(field: str, value: str) -> str:
    """The id that ``value`` names: itself, or what follows ``chatcmpl-`` in an answer's id.

    One name has one spelling: raises RequestError for one that would not come back as it was sent
    in a header, or that looks like another.
    """
    while value.startswith(CHAT_PREFIX):
        value = value.removeprefix(CHAT_PREFIX)
    check_id(field, value)
    if value != value.strip():
        raise RequestError(f"{field}: {value!r} begins or ends with a space: leave it out")
    if not unicodedata.is_normalized("NFC", value):
        raise RequestError(
            f"{field}: {value!r} is not in Unicode's composed form (NFC), so that another id looks "
            "like it: normalise it first"
        )
    return value


def idempotent_id(
    caller: Caller, user: str | None, key: str, kind: uuid.UUID = _IDEMPOTENT_IDS
) -> str:
    """The sample that an Idempotency-Key of this caller and user stands for, on every host."""
    return str(uuid.uuid5(kind, "\x1f".join((caller.key, user or "", key))))


class SampleIds:
    """The id of the sample behind each request, or of its feedback. Lives in one event loop.

    In this order: the id that its client chose; the one of its Idempotency-Key; of a client that
    repeats by itself, the one of the attempt before; a new one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._chosen = ChosenIds()
        self._attempts = Attempts(clock)

    def of(
        self,
        headers: Mapping[str, str],
        caller: Caller,
        *,
        task: str,
        content: Content,
        user: str | None,
        body: bytes,
    ) -> str:
        """The id for a request. Raises RequestError for one that is none, and Conflict for one
        that stands for another text."""
        named = headers.get(SAMPLE_HEADER)
        text = written(content)
        if named is not None:
            sample_id = sample_name(SAMPLE_HEADER, _read(SAMPLE_HEADER, named))
            self._chosen.take(task, sample_id, text)
            return sample_id
        key = headers.get(IDEMPOTENCY_HEADER)
        if key is not None:
            return self._of_key(_read(IDEMPOTENCY_HEADER, key), caller, task, text, user)
        return self._of_attempt(headers, caller, body)

    def of_feedback(
        self, headers: Mapping[str, str], caller: Caller, annotator: str, said: str, body: bytes
    ) -> str:
        """The id of the event that says ``said``, which its repeats have too: a word that arrives
        late must not undo what was said in between. Raises as ``of`` does."""
        key = headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            return self._of_attempt(headers, caller, body)
        key = _read(IDEMPOTENCY_HEADER, key)
        check_id("Idempotency-Key", key)
        event_id = idempotent_id(caller, annotator, key, _FEEDBACK_IDS)
        self._stands_for(key, _FEEDBACK, event_id, said)
        return event_id

    def _of_attempt(self, headers: Mapping[str, str], caller: Caller, body: bytes) -> str:
        attempt = headers.get(RETRY_HEADER)
        if attempt is not None and attempt.isascii() and attempt.isdigit() and len(attempt) < 6:
            return self._attempts.sample_id(caller.limited_as, body, int(attempt))
        return new_id()

    def _of_key(self, key: str, caller: Caller, task: str, text: str, user: str | None) -> str:
        check_id("Idempotency-Key", key)
        sample_id = idempotent_id(caller, user, key)
        self._stands_for(key, task, sample_id, text)
        return sample_id

    def _stands_for(self, key: str, task: str, named: str, text: str) -> None:
        try:
            self._chosen.take(task, named, text)
        except Conflict:
            what = "other feedback" if task == _FEEDBACK else "another text"
            raise Conflict(
                f"Idempotency-Key {key!r} came with {what} before: a key stands for one "
                "request, so make a new one for each"
            ) from None


class Attempts:
    """The latest attempts of clients that say which attempt this is, to know an attempt's sequel.

    Of requests that are the same to the byte, each is followed up once: two callers who ask the
    same at the same time stay two.
    """

    def __init__(self, clock: Callable[[], float], capacity: int = 20_000) -> None:
        self._clock = clock
        self._capacity = capacity
        self._waiting: OrderedDict[tuple[bytes, int], deque[tuple[float, str]]] = OrderedDict()

    def sample_id(self, caller: str, body: bytes, attempt: int) -> str:
        """The id of attempt number ``attempt`` (0: the first) at sending ``body``."""
        now = self._clock()
        digest = hashlib.blake2b(body, digest_size=16, key=caller.encode()[:64]).digest()
        sample_id = self._sequel(digest, attempt, now) if attempt else None
        if sample_id is None:
            sample_id = new_id()
        known = self._waiting.setdefault((digest, attempt), deque(maxlen=_MOST_ALIKE))
        known.append((now, sample_id))
        self._waiting.move_to_end((digest, attempt))
        self._forget(now)
        return sample_id

    def _sequel(self, digest: bytes, attempt: int, now: float) -> str | None:
        for earlier in range(attempt - 1, max(-1, attempt - 1 - _MOST_RETRIES), -1):
            known = self._waiting.get((digest, earlier))
            if known:
                at, sample_id = known.pop()
                if not known:
                    del self._waiting[digest, earlier]
                if now - at <= RETRY_SECONDS:
                    return sample_id
        return None

    def _forget(self, now: float) -> None:
        while self._waiting:
            key, known = next(iter(self._waiting.items()))
            if len(self._waiting) <= self._capacity and now - known[-1][0] <= RETRY_SECONDS:
                return
            del self._waiting[key]


def _read(header: str, value: str) -> str:
    text = header_text(value)
    if text is None:
        raise RequestError(f"{header}: its bytes are no UTF-8; send it in UTF-8, or in ASCII alone")
    return text
