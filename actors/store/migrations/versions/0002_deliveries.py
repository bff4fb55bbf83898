"""Deliveries: when the present attempts began, and which run was the last to be delivered instead of how many were."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, rename the other: a batch that was delivered n times was delivered in its first n runs."""
    op.add_column("jobs", sa.Column("delivery_since", sa.BigInteger))
    op.execute("ALTER TABLE jobs RENAME COLUMN delivered_runs TO delivered_run")
