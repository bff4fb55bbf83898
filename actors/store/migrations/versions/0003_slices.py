"""Deleting in slices: what of a job is being deleted; and of which manifest its list is."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import TEXT

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Nothing is being deleted, and of no list it is known which manifest it came from."""
    op.add_column("jobs", sa.Column("list_digest", TEXT))
    op.add_column("jobs", sa.Column("deleting", TEXT))
