"""What an archive is made of: whose files, how many of them were missing, and the bytes of the others."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import TEXT

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: jobs of before have no such files."""
    op.add_column("jobs", sa.Column("files_missing", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("bytes_total", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("user_id", TEXT))
    op.create_index("jobs_user", "jobs", ["user_id", "state"])
