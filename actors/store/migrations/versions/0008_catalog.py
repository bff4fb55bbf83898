"""The catalog that ZIP exports read."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import TEXT

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_IS_KEPT = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    """Add the tables, empty."""
    op.create_table(
        "storage_files",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("user_id", TEXT, nullable=False),
        sa.Column("r2_key", TEXT, nullable=False),
        sa.Column("filename", TEXT, nullable=False),
        sa.Column("mime_type", TEXT),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("product", TEXT),
        sa.Column("category", TEXT),
        sa.Column("parent_id", TEXT),
        sa.Column("metadata", TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    )
    op.create_index("storage_files_key", "storage_files", ["r2_key"], unique=True)
    op.create_index(
        "storage_files_user", "storage_files", ["user_id", "id"], sqlite_where=_IS_KEPT, postgresql_where=_IS_KEPT
    )
    op.create_index(
        "storage_files_product",
        "storage_files",
        ["user_id", "product", "id"],
        sqlite_where=_IS_KEPT,
        postgresql_where=_IS_KEPT,
    )
    op.create_index(
        "storage_files_category",
        "storage_files",
        ["user_id", "category", "id"],
        sqlite_where=_IS_KEPT,
        postgresql_where=_IS_KEPT,
    )
    op.create_table(
        "storage_exports",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("user_id", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("export_type", TEXT, nullable=False),
        sa.Column("filter_params", TEXT, nullable=False),
        sa.Column("r2_key", TEXT),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("file_count", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("error_message", TEXT),
    )
    op.create_index("storage_exports_user", "storage_exports", ["user_id", "created_at", "id"])
