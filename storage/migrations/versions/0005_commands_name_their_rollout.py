"""commands name their rollout and the state it was in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


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


def downgrade() -> None:
    with op.batch_alter_table("rollout_commands", schema=None) as batch_op:
        batch_op.drop_column("revision")
        batch_op.drop_column("rollout_id")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_column("revision")
