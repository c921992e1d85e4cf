"""commands name their rollout and the state it was in."""

# ruff: noqa: S608 - statements are put together of what is written here

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PENDING = (
    " NOT EXISTS (SELECT 1 FROM rollout_command_outcomes AS o"
    " WHERE o.command_id = rollout_commands.command_id)"
)
# What people had asked for is not dropped: it is of the rollout that runs. Only what stops one may
# have been asked for before it began, as it was carried out on any.
_RUNNING = (
    "UPDATE rollout_commands SET rollout_id = (SELECT r.rollout_id FROM rollouts AS r"
    " WHERE r.task = rollout_commands.task AND r.ended_at IS NULL"
    " AND (rollout_commands.kind IN ('pause', 'rollback')"
    " OR r.started_at < rollout_commands.at))"
    " WHERE kind <> 'start' AND" + _PENDING
)
# A start names the latest rollout, which has ended if it can be carried out.
_LATEST = (
    "UPDATE rollout_commands SET rollout_id = (SELECT r.rollout_id FROM rollouts AS r"
    " WHERE r.task = rollout_commands.task AND r.started_at < rollout_commands.at"
    " ORDER BY r.started_at DESC, r.rollout_id DESC LIMIT 1)"
    " WHERE kind = 'start' AND" + _PENDING
)
_REVISION = (
    "UPDATE rollout_commands SET revision = (SELECT r.revision FROM rollouts AS r"
    " WHERE r.rollout_id = rollout_commands.rollout_id) WHERE rollout_id IS NOT NULL"
)


def upgrade() -> None:
    # The default keeps SQLite from building the table anew, and its partial index with it.
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE rollouts SET revision = (SELECT count(*) FROM rollout_transitions AS t"
        " WHERE t.rollout_id = rollouts.rollout_id)"
    )
    with op.batch_alter_table("rollout_commands", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rollout_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("revision", sa.Integer(), nullable=True))
    for statement in (_RUNNING, _LATEST, _REVISION):
        op.execute(statement)


def downgrade() -> None:
    with op.batch_alter_table("rollout_commands", schema=None) as batch_op:
        batch_op.drop_column("revision")
        batch_op.drop_column("rollout_id")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_column("revision")
