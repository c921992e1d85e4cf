"""one person is one name, however it was typed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flywheel.contracts.answers import normalised

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_answers = sa.table(
    "review_answers",
    sa.column("id", sa.BigInteger),
    sa.column("task", sa.String),
    sa.column("sample_id", sa.String),
    sa.column("annotator", sa.String),
)
_claims = sa.table("review_claims", sa.column("annotator", sa.String))


def upgrade() -> None:
    people = op.create_table(
        "review_people",
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("person"),
    )
    connection = op.get_bind()
    spellings = connection.execute(
        sa.select(_answers.c.annotator, sa.func.min(_answers.c.id))
        .group_by(_answers.c.annotator)
        .order_by(sa.func.min(_answers.c.id))
    )
    first: dict[str, str] = {}
    for name, _ in spellings.all():
        known = first.setdefault(normalised(name), name)
        if known != name:
            _rename(connection, name, known)
    if first:
        op.bulk_insert(people, [{"person": key, "name": name} for key, name in first.items()])


def _rename(connection: sa.Connection, name: str, known: str) -> None:
    """What a second spelling answered is the person's; where both answered, both answers stay, and
    count once. What it holds is given back: a lease ends by itself within minutes."""
    other = _answers.alias()
    both = sa.exists().where(
        other.c.task == _answers.c.task,
        other.c.sample_id == _answers.c.sample_id,
        other.c.annotator == known,
    )
    connection.execute(
        sa.update(_answers).where(_answers.c.annotator == name, ~both).values(annotator=known)
    )
    connection.execute(sa.delete(_claims).where(_claims.c.annotator == name))


def downgrade() -> None:
    op.drop_table("review_people")
