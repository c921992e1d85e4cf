"""How often a source's automatic labels had been corrected, as it was known at a moment."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from storage.features.store import FeatureStore

# The join holds every row of a source's history once per moment: fewer moments, less memory.
MOMENTS_AT_ONCE = 200


def correction_rates(
    folder: Path, task: str, moments: Iterable[tuple[str, datetime]]
) -> dict[tuple[str, datetime], float]:
    """How often a task's experts had corrected each source at each moment: a point-in-time join.

    ``folder`` is the feature store's; one that is not there knows nothing. The watermark does not
    bound the join as it does the labels: a source's history is written seconds after what it
    tells. Rows are only added, and each holds nothing later than its moment, so a build that is
    repeated reads what the first one read; except that a row written in between, of a moment no
    later than a label's, then counts. DVC repeats no build that finished.
    """
    entities = sorted(moments)
    if not entities or not folder.exists():
        return {}  # Feast takes seconds to import
    import pandas

    store = FeatureStore(folder)
    rates: dict[tuple[str, datetime], float] = {}
    for start in range(0, len(entities), MOMENTS_AT_ONCE):
        part = entities[start : start + MOMENTS_AT_ONCE]
        sources, times = zip(*part, strict=True)
        joined = store.historical(
            task,
            pandas.DataFrame(
                {"source": sources, "event_timestamp": pandas.to_datetime(list(times), utc=True)}
            ),
        )
        known = zip(part, joined["correction_rate"], strict=True)
        rates |= {moment: float(rate) for moment, rate in known if not pandas.isna(rate)}
    return rates
