"""Images that removed samples showed: taken from the store once no request can show them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from flywheel.contracts.ids import utc_now
from flywheel.errors import BrokerError
from storage.database import Database
from storage.objects.again import forget_again, put_again
from storage.objects.blobs import Blobs
from storage.objects.store import file_key

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

# Whoever put an image has had the request that shows it in Kafka by then.
ON_ITS_WAY = timedelta(days=1)
# For agents that are at it to come to the end of what lies in Kafka now.
_SECONDS = 10.0


def remove_images(
    database: Database, blobs: Blobs, kafka: KafkaSettings, erased: Collection[str] = ()
) -> int:
    """Remove the images that removed samples showed and no other does; how many.

    A request that shows one may lie in Kafka unread: then it stays until agents have come so far,
    and this is called again. One of those ``erased`` goes all the same where nobody but who is
    erased has put it. Raises StorageError and ArtefactStoreError.
    """

    @cache
    def read() -> bool:
        return _all_read(kafka)

    removed, after = 0, ""
    while True:
        with database.transaction(read_only=True) as tx:
            left = tx.erasures.left_images(after)
            shown = tx.erasures.shown(left) if left else set()
        if not left:
            return removed
        after = left[-1]
        done = []
        for digest in left:
            if digest not in shown:
                again = put_again(blobs, digest)
                own = again is None and digest in erased
                young = again is not None and utc_now() - again < ON_ITS_WAY
                if young or not (own or read()):
                    continue
                went = _remove_image(database, blobs, digest, again)
                if went is None:
                    continue
                removed += went
            done.append(digest)
        with database.transaction() as tx:
            tx.erasures.images_done(done)


def left_images(database: Database) -> set[str]:
    """Those that removed samples showed and that may be in the store yet."""
    found: set[str] = set()
    with database.transaction(read_only=True) as tx:
        while more := tx.erasures.left_images(max(found, default="")):
            found.update(more)
    return found


def _remove_image(
    database: Database, blobs: Blobs, digest: str, again: datetime | None
) -> int | None:
    """How many went: none where it was gone. None: it stays."""
    key = file_key(digest)
    if blobs.size(key) is None:
        forget_again(blobs, digest)
        return 0
    data = blobs.read(key)
    blobs.remove(key)
    # Somebody may have put it meanwhile, and found that it was there.
    with database.transaction(read_only=True) as tx:
        shown = digest in tx.erasures.shown([digest])
    if shown or put_again(blobs, digest) != again:
        blobs.write(key, data)
        return None
    forget_again(blobs, digest)
    return 1


def _all_read(kafka: KafkaSettings) -> bool:
    """Whether agents have handled all that lies in Kafka now; False where it does not say."""
    from streams.agents import labels, review, triage
    from streams.lag import handled_all

    try:
        # In this order: what one has handled, the next one may have to.
        return all(
            handled_all(kafka, agent.GROUP, agent.TOPICS, _SECONDS)
            for agent in (triage, review, labels)
        )
    except BrokerError:
        return False
