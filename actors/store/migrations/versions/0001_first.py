"""The first schema: jobs, tasks, files, machines, singletons."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("phases", sa.Text, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("placement", sa.Text),
        sa.Column("alarm_at", sa.BigInteger),
        sa.Column("tasks_total", sa.Integer, nullable=False),
        sa.Column("tasks_completed", sa.Integer, nullable=False),
        sa.Column("tasks_failed", sa.Integer, nullable=False),
        sa.Column("tasks_in_flight", sa.Integer, nullable=False),
        sa.Column("files_total", sa.Integer, nullable=False),
        sa.Column("history", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("code", sa.Text),
        sa.Column("refused_since", sa.BigInteger),
        sa.Column("delivery", sa.Text, nullable=False),
        sa.Column("delivery_tries", sa.Integer, nullable=False),
        sa.Column("delivery_at", sa.BigInteger),
        sa.Column("delivery_error", sa.Text),
        sa.Column("delivered_runs", sa.Integer, nullable=False),
        sa.Column("body_digest", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("source_cursor", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("queued_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
    )
    op.create_index("jobs_alarm", "jobs", ["alarm_at"])
    op.create_index("jobs_completed", "jobs", ["completed_at"])
    op.create_index("jobs_created", "jobs", ["created_at", "id"])
    op.create_index("jobs_delivery", "jobs", ["delivery", "delivery_at"])
    op.create_index("jobs_placement", "jobs", ["state", "placement", "created_at"])
    op.create_index("jobs_state", "jobs", ["state", "created_at", "id"])
    op.create_table(
        "tasks",
        sa.Column("job_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("phase", sa.Integer, primary_key=True, nullable=False),
        sa.Column("n", sa.Integer, primary_key=True, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("input_r2_key", sa.Text, nullable=False),
        sa.Column("output_r2_key", sa.Text, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("machine", sa.Text),
        sa.Column("claim", sa.Text),
        sa.Column("assigned_at", sa.BigInteger),
        sa.Column("heard_at", sa.BigInteger),
        sa.Column("deadline_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("output_file_name", sa.Text),
        sa.Column("output_file_size", sa.BigInteger),
        sa.Column("performance", sa.Text),
        sa.Column("cpu_ms", sa.BigInteger),
        sa.Column("pages", sa.Integer),
        sa.Column("notes", sa.Text, nullable=False),
    )
    op.create_index("tasks_output", "tasks", ["job_id", "output_r2_key"])
    op.create_index("tasks_status", "tasks", ["job_id", "status", "phase", "run", "not_before", "n"])
    op.create_index("tasks_task_id", "tasks", ["job_id", "task_id"], unique=True)
    op.create_table(
        "files",
        sa.Column("job_id", sa.Text, primary_key=True, nullable=False),
        sa.Column("phase", sa.Integer, primary_key=True, nullable=False),
        sa.Column("n", sa.Integer, primary_key=True, nullable=False),
        sa.Column("doc", sa.Text, nullable=False),
        sa.Column("r2_key", sa.Text, nullable=False),
    )
    op.create_index("files_key", "files", ["job_id", "r2_key"])
    op.create_table(
        "machines",
        sa.Column("id", sa.Text, primary_key=True, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_id", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("reason", sa.Text),
    )
    op.create_index("machines_state", "machines", ["state", "ended_at"])
    op.create_table(
        "singletons",
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop everything."""
    for table in ("singletons", "machines", "files", "tasks", "jobs"):
        op.drop_table(table)
