"""first tables

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('admin', 'editor', 'viewer', 'predictor')", name=op.f("ck_api_keys_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_sessions_api_key_id_api_keys"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_api_key_id"), "sessions", ["api_key_id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column(
            "details", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "empty",
                "importing",
                "ready",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="empty",
            nullable=False,
        ),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("task IN ('image_classification')", name=op.f("ck_datasets_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("deployed", "undeployed", name="state", native_enum=False, create_constraint=True, length=16),
            server_default="deployed",
            nullable=False,
        ),
        sa.Column("log_sample", sa.Float(precision=53), server_default="1", nullable=False),
        sa.Column("log_pictures", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("log_retention_days", sa.BigInteger(), server_default="7", nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("log_sample BETWEEN 0 AND 1", name=op.f("ck_deployments_log_sample")),
        sa.CheckConstraint("log_retention_days BETWEEN 1 AND 3650", name=op.f("ck_deployments_log_retention_days")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        sa.UniqueConstraint("name", name=op.f("uq_deployments_name")),
    )
    op.create_table(
        "request_log",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("item", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(precision=53), nullable=False),
        sa.Column("scores", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("statistics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("latency_ms", sa.Float(precision=53), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("picture_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("deployment_id", "id", name=op.f("pk_request_log")),
    )
    op.create_index(op.f("ix_request_log_deployment_id_at"), "request_log", ["deployment_id", "at"], unique=False)
    op.create_index(
        op.f("ix_request_log_deployment_id_request_id_item"),
        "request_log",
        ["deployment_id", "request_id", "item"],
        unique=False,
    )
    op.create_table(
        "traffic_minutes",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("latencies", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "minute", "process", name=op.f("pk_traffic_minutes")),
    )
    op.create_table(
        "feedback",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("item", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name=op.f("fk_feedback_deployment_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("deployment_id", "request_id", "item", name=op.f("pk_feedback")),
    )
    op.create_index(op.f("ix_feedback_deployment_id_at"), "feedback", ["deployment_id", "at"], unique=False)
    op.create_table(
        "doomed_objects",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_doomed_objects")),
    )
    op.create_table(
        "events",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("stream", "number", name=op.f("pk_events")),
    )
    op.create_table(
        "idempotent_replies",
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("api_key_id", "idempotency_key", name=op.f("pk_idempotent_replies")),
    )
    op.create_index(op.f("ix_idempotent_replies_created_at"), "idempotent_replies", ["created_at"], unique=False)
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("device", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "blob_chunks",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_blob_chunks_sha256"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256", "ordinal", name=op.f("pk_blob_chunks")),
    )
    # Weights do not compress; EXTERNAL saves the attempt and makes slices of a chunk cheap.
    op.execute("ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL")
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("preprocessing", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("images_key", sa.Text(), nullable=False),
        sa.Column("index_key", sa.Text(), nullable=False),
        sa.Column("shard_keys", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("example_count", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stats", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("example_count > 0", name=op.f("ck_dataset_versions_not_empty")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_versions_dataset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("dataset_id", "number", name=op.f("uq_dataset_versions_dataset_id_number")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "succeeded",
                "failed",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("attempt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("losses", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("hinted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dataset_id", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("input_sha256", sa.LargeBinary(), nullable=True),
        sa.Column(
            "progress", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('import', 'evaluation', 'export', 'batch_prediction', 'reference', 'explanation')",
            name=op.f("ck_jobs_kind"),
        ),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_jobs_failed_has_error")),
        sa.CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", name=op.f("ck_jobs_running_has_lease")),
        sa.CheckConstraint("state <> 'succeeded' OR result IS NOT NULL", name=op.f("ck_jobs_succeeded_has_result")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_jobs_dataset_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["input_sha256"], ["blobs.sha256"], name=op.f("fk_jobs_input_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_state_lease_until"), "jobs", ["state", "lease_until"], unique=False)
    op.create_table(
        "examples",
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("label", sa.BigInteger(), nullable=False),
        sa.Column("split", sa.SmallInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("phash", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.BigInteger(), nullable=False),
        sa.Column("height", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=False),
        sa.Column("shard_offset", sa.BigInteger(), nullable=False),
        sa.Column("shard_length", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("split IN (0, 1, 2)", name=op.f("ck_examples_split")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_examples_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "number", name=op.f("pk_examples")),
    )
    op.create_index(
        op.f("ix_examples_version_id_label_number"), "examples", ["version_id", "label", "number"], unique=False
    )
    op.create_table(
        "findings",
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("examples", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("severity IN ('info', 'warning', 'error')", name=op.f("ck_findings_severity")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_findings_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "ordinal", name=op.f("pk_findings")),
    )
    op.create_table(
        "report_lines",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_report_lines_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name=op.f("pk_report_lines")),
    )
    op.create_table(
        "searches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=False),
        sa.Column("objective", sa.Text(), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column(
            "space_options",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column(
            "strategy_options",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("strategy_state", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "seeds", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="[]", nullable=False
        ),
        sa.Column(
            "limits", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column(
            "proxy", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("floor", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("budget_s", sa.Float(precision=53), nullable=True),
        sa.Column("budget_trials", sa.BigInteger(), nullable=True),
        sa.Column("spent_s", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("ticked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "paused",
                "finishing",
                "succeeded",
                "failed",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("hinted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("best_trial_id", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("failed_turns", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_searches_failed_has_error")),
        sa.CheckConstraint(
            "state <> 'succeeded' OR model_id IS NOT NULL", name=op.f("ck_searches_succeeded_has_model")
        ),
        sa.CheckConstraint("(budget_s IS NULL) <> (budget_trials IS NULL)", name=op.f("ck_searches_one_budget")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_searches_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("name", name=op.f("uq_searches_name")),
    )
    op.create_index(op.f("ix_searches_state"), "searches", ["state"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("search_id", sa.Text(), nullable=True),
        sa.Column("trial_id", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("genotype", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "space_options",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("mirror_at_test", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("preprocessing", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("weights_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("onnx_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("parity", sa.Float(precision=53), nullable=False),
        sa.Column("params", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("lineage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["onnx_sha256"], ["blobs.sha256"], name=op.f("fk_models_onnx_sha256")),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_models_search_id"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_models_version_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["weights_sha256"], ["blobs.sha256"], name=op.f("fk_models_weights_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", "number", name=op.f("uq_models_name_number")),
        sa.UniqueConstraint("trial_id", name=op.f("uq_models_trial_id")),
    )
    op.create_index(op.f("ix_models_search_id"), "models", ["search_id"], unique=False)
    op.create_table(
        "trials",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("search_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("candidate", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("warm_start_id", sa.Text(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "succeeded",
                "failed",
                "pruned",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("attempt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("losses", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("hinted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("score", sa.Float(precision=53), nullable=True),
        sa.Column("merit", sa.Float(precision=53), nullable=True),
        sa.Column("metrics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("cost", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("network_source", sa.Text(), nullable=True),
        sa.Column(
            "curve", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="[]", nullable=False
        ),
        sa.Column("seconds", sa.Float(precision=53), nullable=True),
        sa.Column("report", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("held_s", sa.Float(precision=53), nullable=True),
        sa.Column("checkpoint_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("weights_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("purpose IN ('floor', 'supernet', 'explore', 'final')", name=op.f("ck_trials_purpose")),
        sa.CheckConstraint("report IS NULL OR purpose = 'supernet'", name=op.f("ck_trials_report_of_supernet")),
        sa.CheckConstraint(
            "purpose <> 'supernet' OR state <> 'succeeded' OR report IS NOT NULL",
            name=op.f("ck_trials_succeeded_supernet_has_report"),
        ),
        sa.CheckConstraint("score = score AND abs(score) <> 'Infinity'", name=op.f("ck_trials_score_is_finite")),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_trials_failed_has_error")),
        sa.CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", name=op.f("ck_trials_running_has_lease")),
        sa.CheckConstraint(
            "state <> 'succeeded' OR (score IS NOT NULL AND merit IS NOT NULL)",
            name=op.f("ck_trials_succeeded_has_score"),
        ),
        sa.ForeignKeyConstraint(["checkpoint_sha256"], ["blobs.sha256"], name=op.f("fk_trials_checkpoint_sha256")),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_trials_search_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["weights_sha256"], ["blobs.sha256"], name=op.f("fk_trials_weights_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("search_id", "number", name=op.f("uq_trials_search_id_number")),
    )
    op.create_table(
        "search_notes",
        sa.Column("search_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("data", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_search_notes_search_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_search_notes")),
        sa.UniqueConstraint("search_id", "kind", "step", name=op.f("uq_search_notes_search_id_kind_step")),
    )
    op.create_index(op.f("ix_trials_search_id_state"), "trials", ["search_id", "state"], unique=False)
    op.create_index(op.f("ix_trials_state_lease_until"), "trials", ["state", "lease_until"], unique=False)
    op.create_table(
        "model_aliases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["name", "number"], ["models.name", "models.number"], name=op.f("fk_model_aliases_name_number")
        ),
        sa.PrimaryKeyConstraint("name", "alias", name=op.f("pk_model_aliases")),
    )
    op.create_index(op.f("ix_model_aliases_name_number"), "model_aliases", ["name", "number"], unique=False)
    op.create_table(
        "deployment_targets",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("alias_name", sa.Text(), nullable=True),
        sa.Column("alias", sa.Text(), nullable=True),
        sa.Column("weight", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(model_id IS NULL) = (alias IS NOT NULL)", name=op.f("ck_deployment_targets_one_model")),
        sa.CheckConstraint("(alias IS NULL) = (alias_name IS NULL)", name=op.f("ck_deployment_targets_whole_alias")),
        sa.Column("precision", sa.Text(), server_default="fp32", nullable=False),
        sa.CheckConstraint("weight BETWEEN 1 AND 100", name=op.f("ck_deployment_targets_weight")),
        sa.CheckConstraint("precision IN ('fp32', 'int8')", name=op.f("ck_deployment_targets_precision")),
        sa.ForeignKeyConstraint(
            ["alias_name", "alias"],
            ["model_aliases.name", "model_aliases.alias"],
            name=op.f("fk_deployment_targets_alias_name_alias"),
        ),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name=op.f("fk_deployment_targets_deployment_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_deployment_targets_model_id")),
        sa.PrimaryKeyConstraint("deployment_id", "number", name=op.f("pk_deployment_targets")),
    )
    op.create_index(
        op.f("ix_deployment_targets_alias_name_alias"), "deployment_targets", ["alias_name", "alias"], unique=False
    )
    op.create_index(op.f("ix_deployment_targets_model_id"), "deployment_targets", ["model_id"], unique=False)
    op.create_table(
        "model_references",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("training_labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("validation_labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("confidences", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("inputs", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_model_references_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_references_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_references")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("example_count", sa.BigInteger(), nullable=False),
        sa.Column("skipped", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("trained_on", sa.BigInteger(), nullable=True),
        sa.Column("metrics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("intervals", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("per_label", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("confusion", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("reliability", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("slices", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("curves_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("answers_sha256", sa.LargeBinary(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("split IN ('train', 'validation', 'test', 'all')", name=op.f("ck_evaluations_split")),
        sa.CheckConstraint(
            "version_id IS NOT NULL OR answers_sha256 IS NULL", name=op.f("ck_evaluations_no_answers_without_data")
        ),
        sa.ForeignKeyConstraint(["answers_sha256"], ["blobs.sha256"], name=op.f("fk_evaluations_answers_sha256")),
        sa.ForeignKeyConstraint(["curves_sha256"], ["blobs.sha256"], name=op.f("fk_evaluations_curves_sha256")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_evaluations_model_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_evaluations_version_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_model_id_id"), "evaluations", ["model_id", "id"], unique=False)
    op.create_index(op.f("ix_evaluations_version_id"), "evaluations", ["version_id"], unique=False)
    op.create_table(
        "exports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("options", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("report", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "format IN ('onnx', 'onnx-int8', 'pt2', 'safetensors', 'python', 'docker', 'mlflow')",
            name=op.f("ck_exports_format"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_exports_job_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_exports_model_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_exports_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
        sa.UniqueConstraint("model_id", "format", "options", name=op.f("uq_exports_model_id_format_options")),
    )
    op.create_table(
        "explanations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("example", sa.BigInteger(), nullable=True),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(precision=53), nullable=False),
        sa.Column("predicted", sa.Text(), nullable=False),
        sa.Column("predicted_score", sa.Float(precision=53), nullable=False),
        sa.Column("grid", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("delta", sa.Float(precision=53), nullable=True),
        sa.Column("details", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("overlay_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("overlay_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "method IN ('integrated_gradients', 'grad_cam', 'occlusion')", name=op.f("ck_explanations_method")
        ),
        sa.CheckConstraint(
            "(method = 'integrated_gradients') = (delta IS NOT NULL)", name=op.f("ck_explanations_delta")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_explanations_job_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_explanations_model_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["overlay_sha256"], ["blobs.sha256"], name=op.f("fk_explanations_overlay_sha256")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_explanations_version_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_explanations")),
    )
    op.create_index(op.f("ix_explanations_model_id_id"), "explanations", ["model_id", "id"], unique=False)
    op.create_table(
        "batch_predictions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_number", sa.BigInteger(), nullable=False),
        sa.Column("precision", sa.Text(), server_default="fp32", nullable=False),
        sa.Column("deployment", sa.Text(), nullable=True),
        sa.Column("version_id", sa.Text(), nullable=True),
        sa.Column("source", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("top_k", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("top_k > 0", name=op.f("ck_batch_predictions_top_k")),
        sa.CheckConstraint("precision IN ('fp32', 'int8')", name=op.f("ck_batch_predictions_precision")),
        sa.CheckConstraint(
            "source ->> 'kind' IN ('dataset', 'upload', 'uris')", name=op.f("ck_batch_predictions_source")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_batch_predictions_job_id")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_batch_predictions_model_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["dataset_versions.id"], name=op.f("fk_batch_predictions_version_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_predictions")),
        sa.UniqueConstraint("job_id", name=op.f("uq_batch_predictions_job_id")),
    )
    op.create_index(op.f("ix_batch_predictions_model_id"), "batch_predictions", ["model_id"], unique=False)
    op.create_index(op.f("ix_batch_predictions_version_id"), "batch_predictions", ["version_id"], unique=False)
    op.create_table(
        "batch_parts",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("correct", sa.BigInteger(), nullable=False),
        sa.Column("labels", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.CheckConstraint("rows > 0 AND errors BETWEEN 0 AND rows", name=op.f("ck_batch_parts_rows")),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batch_predictions.id"], name=op.f("fk_batch_parts_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_parts")),
    )


def downgrade() -> None:
    op.drop_table("batch_parts")
    op.drop_index(op.f("ix_batch_predictions_version_id"), table_name="batch_predictions")
    op.drop_index(op.f("ix_batch_predictions_model_id"), table_name="batch_predictions")
    op.drop_table("batch_predictions")
    op.drop_index(op.f("ix_explanations_model_id_id"), table_name="explanations")
    op.drop_table("explanations")
    op.drop_table("exports")
    op.drop_index(op.f("ix_evaluations_version_id"), table_name="evaluations")
    op.drop_index(op.f("ix_evaluations_model_id_id"), table_name="evaluations")
    op.drop_table("evaluations")
    op.drop_table("model_references")
    op.drop_index(op.f("ix_deployment_targets_model_id"), table_name="deployment_targets")
    op.drop_index(op.f("ix_deployment_targets_alias_name_alias"), table_name="deployment_targets")
    op.drop_table("deployment_targets")
    op.drop_index(op.f("ix_model_aliases_name_number"), table_name="model_aliases")
    op.drop_table("model_aliases")
    op.drop_table("search_notes")
    op.drop_index(op.f("ix_trials_state_lease_until"), table_name="trials")
    op.drop_index(op.f("ix_trials_search_id_state"), table_name="trials")
    op.drop_table("trials")
    op.drop_index(op.f("ix_models_search_id"), table_name="models")
    op.drop_table("models")
    op.drop_index(op.f("ix_searches_state"), table_name="searches")
    op.drop_table("searches")
    op.drop_table("report_lines")
    op.drop_table("findings")
    op.drop_index(op.f("ix_examples_version_id_label_number"), table_name="examples")
    op.drop_table("examples")
    op.drop_index(op.f("ix_jobs_state_lease_until"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("dataset_versions")
    op.drop_table("blob_chunks")
    op.drop_table("workers")
    op.drop_index(op.f("ix_idempotent_replies_created_at"), table_name="idempotent_replies")
    op.drop_table("idempotent_replies")
    op.drop_table("events")
    op.drop_table("doomed_objects")
    op.drop_index(op.f("ix_feedback_deployment_id_at"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("traffic_minutes")
    op.drop_index(op.f("ix_request_log_deployment_id_request_id_item"), table_name="request_log")
    op.drop_index(op.f("ix_request_log_deployment_id_at"), table_name="request_log")
    op.drop_table("request_log")
    op.drop_table("deployments")
    op.drop_table("datasets")
    op.drop_table("blobs")
    op.drop_table("audit")
    op.drop_index(op.f("ix_sessions_api_key_id"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("api_keys")
