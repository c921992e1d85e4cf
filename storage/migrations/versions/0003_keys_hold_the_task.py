"""keys hold the task: one sample may be sent to several."""

# ruff: noqa: S608 - the names put into statements are those written here

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Table → its key without the task.
_HAD_TASK = {
    "review_tasks": ["sample_id"],
    "evidence_scores": ["sample_id", "release", "live"],
    "evidence_truths": ["sample_id", "source"],
}
_GETS_TASK = {
    "review_withdrawals": ["sample_id"],
    "review_claims": ["sample_id", "annotator"],
    "review_outcomes": ["sample_id"],
    "review_lifts": ["release"],
    "review_ended_rollouts": ["rollout_id"],
}
# A sample was queued for one task at most, so what is known of it in the queue was that task's. A
# row that nothing tells the task of (a withdrawal ahead of its sample, a rollout of long ago) keeps
# an empty one.
_QUEUED = "(SELECT task FROM review_tasks q WHERE q.sample_id = {table}.sample_id)"
_LABELLED = (
    "(SELECT MIN(task) FROM labels l WHERE l.sample_id = {table}.sample_id"
    " AND l.source IN ('seed', 'outcome', 'user'))"
)
_TASK_OF = {
    "review_withdrawals": [_QUEUED, _LABELLED],
    "review_claims": [_QUEUED],
    "review_outcomes": [_QUEUED],
    "review_lifts": [
        "(SELECT task FROM releases r WHERE r.release = review_lifts.release)",
        "(SELECT MIN(task) FROM rollouts o WHERE o.challenger = review_lifts.release)",
        "(SELECT MIN(task) FROM review_tasks q WHERE q.release = review_lifts.release)",
    ],
    "review_ended_rollouts": [
        "(SELECT task FROM rollouts o WHERE o.rollout_id = review_ended_rollouts.rollout_id)",
        "(SELECT MIN(task) FROM review_tasks q"
        " WHERE q.rollout_id = review_ended_rollouts.rollout_id)",
    ],
}
# What experts, users and outcomes said of a sample in one task had overwritten what they said of
# it in another. Every word is in the labels: the latest of each source is the truth.
_LOST_TRUTHS = """
INSERT INTO evidence_truths
    (task, sample_id, source, rank, event_id, value, audit, inclusion_probability, occurred_at)
SELECT l.task, l.sample_id, l.source, l.rank, l.event_id, l.value, l.audit,
    l.inclusion_probability, l.occurred_at
FROM labels l
WHERE l.settles AND l.source IN ('expert', 'seed', 'outcome', 'user')
    AND EXISTS (SELECT 1 FROM evidence_truths t
        WHERE t.sample_id = l.sample_id AND t.source = l.source AND t.task <> l.task)
    AND NOT EXISTS (SELECT 1 FROM evidence_truths t
        WHERE t.sample_id = l.sample_id AND t.source = l.source AND t.task = l.task)
    AND NOT EXISTS (SELECT 1 FROM labels later
        WHERE later.sample_id = l.sample_id AND later.task = l.task AND later.source = l.source
        AND later.settles
        AND (later.occurred_at > l.occurred_at
            OR (later.occurred_at = l.occurred_at AND later.event_id > l.event_id)))
"""
_ONCE = "uq_review_answers_once"


def upgrade() -> None:
    """Give every row its task, and every key."""
    for table, key in _GETS_TASK.items():
        op.add_column(table, sa.Column("task", sa.String(), nullable=True))
        found = ", ".join(words.format(table=table) for words in _TASK_OF[table])
        op.execute(f"UPDATE {table} SET task = COALESCE({found}, '')")
        _rekey(table, ["task", *key])
    for table, key in _HAD_TASK.items():
        _rekey(table, ["task", *key])
    _answered_once(["task", "sample_id", "annotator"])
    op.execute(_LOST_TRUTHS)


def downgrade() -> None:
    """Back to keys without the task; of rows that then share a key one stays."""
    _answered_once(["sample_id", "annotator"], without_task=True)
    for table, key in _HAD_TASK.items():
        _keep_one(table, key)
        _rekey(table, key)
    for table, key in _GETS_TASK.items():
        _keep_one(table, key)
        _rekey(table, key)
        with op.batch_alter_table(table) as batch:
            batch.drop_column("task")


def _rekey(table: str, key: list[str]) -> None:
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        for name in key:
            op.alter_column(table, name, nullable=False)
        op.drop_constraint(f"{table}_pkey", table, type_="primary")
        op.create_primary_key(f"{table}_pkey", table, key)
        return
    # SQLite changes no key: another table takes the place. (Alembic's batch mode warns here.)
    old = sa.Table(table, sa.MetaData(), autoload_with=bind)
    indexes = [
        (str(index.name), [column.name for column in index.columns]) for index in old.indexes
    ]
    columns = [
        sa.Column(column.name, column.type, nullable=column.nullable and column.name not in key)
        for column in old.columns
    ]
    names = ", ".join(column.name for column in old.columns)
    op.create_table(f"{table}_rekeyed", *columns, sa.PrimaryKeyConstraint(*key))
    op.execute(f"INSERT INTO {table}_rekeyed ({names}) SELECT {names} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"{table}_rekeyed", table)
    for name, of in sorted(indexes):
        op.create_index(name, table, of)


def _answered_once(key: list[str], *, without_task: bool = False) -> None:
    if without_task:
        _keep_one("review_answers", key)
    with op.batch_alter_table(
        "review_answers", table_kwargs={"sqlite_autoincrement": True}
    ) as batch:
        batch.drop_constraint(_ONCE, type_="unique")
        batch.create_unique_constraint(_ONCE, key)


def _keep_one(table: str, key: list[str]) -> None:
    same = " AND ".join(f"other.{name} = {table}.{name}" for name in key)
    op.execute(
        f"DELETE FROM {table} WHERE EXISTS"
        f" (SELECT 1 FROM {table} AS other WHERE {same} AND other.task < {table}.task)"
    )
