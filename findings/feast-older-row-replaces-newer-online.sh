#!/bin/bash
# Feast 0.67.0, its default SQLite online store: write_to_online_store keeps the row that is written
# last, not the row of the latest event_timestamp. Feast's documentation calls the online store the
# place of the latest feature values; its Redis store compares event timestamps before it writes
# (pull request "eventtime check before writing features, use pipelines, ttl"), SQLite's does not.
# So a batch that comes late, or a second writer that is slower, puts old features back online, and
# they stay until the entity is written again.
#
# Output seen:
#   newer row, then older one: samples online = 1, of 2026-03-01 10:00
#
# Ends with 1 when the newer row is online in the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'feast==0.67.0' 'pandas==2.3.3'
cat > feature_store.yaml <<'YAML'
project: finding
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
offline_store: {type: dask}
entity_key_serialization_version: 3
YAML
cat > show.py <<'PYTHON'
from datetime import UTC, datetime, timedelta

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Int64

newer, older = (datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (12, 10))
rows = pd.DataFrame({"source": ["app"], "samples": [2], "event_timestamp": [newer]})
rows.to_parquet("history.parquet")
source = Entity(name="source", join_keys=["source"], value_type=ValueType.STRING)
view = FeatureView(
    name="history",
    entities=[source],
    ttl=timedelta(0),
    schema=[Field(name="samples", dtype=Int64)],
    source=FileSource(path="history.parquet", timestamp_field="event_timestamp"),
)
store = FeatureStore(repo_path=".")
store.apply([source, view])
store.write_to_online_store("history", rows)
store.write_to_online_store("history", rows.assign(samples=1, event_timestamp=older))
found = store.get_online_features(
    features=["history:samples"], entity_rows=[{"source": "app"}]
).to_dict(include_event_timestamps=True)
samples = found["samples"][0]
moment = datetime.fromtimestamp(found["samples__ts"][0], UTC)
print(f"newer row, then older one: samples online = {samples}, of {moment:%Y-%m-%d %H:%M}")
raise SystemExit(samples != 1)
PYTHON
venv/bin/python -W ignore show.py
