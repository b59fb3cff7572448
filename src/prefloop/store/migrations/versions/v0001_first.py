"""Makes the first schema. A migration that has been released is never edited: write the next one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _seq() -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", number, primary_key=True, autoincrement=True)


def _text(name: str, *constraints: sa.ForeignKey, unique: bool | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), *constraints, nullable=False, unique=unique)


def upgrade() -> None:
    op.create_table(
        "prompts",
        _seq(),
        _text("id", unique=True),
        _text("content"),
        sa.Column("system", sa.Text()),
        _text("metadata"),
        sa.Column("split", sa.Text()),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'heldout')", name="ck_prompts_split"),
    )
    op.create_table(
        "demonstrations",
        _seq(),
        _text("id", unique=True),
        _text("prompt_id", sa.ForeignKey("prompts.id")),
        _text("text"),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        _text("metadata"),
    )
    op.create_index("ix_demonstrations_prompt_id", "demonstrations", ["prompt_id"])
    op.create_table(
        "items",
        _seq(),
        _text("id", unique=True),
        _text("prompt_id", sa.ForeignKey("prompts.id")),
        sa.Column("external_id", sa.Text()),
        sa.Column("round", sa.Integer(), nullable=False),
        _text("source"),
        _text("metadata"),
    )
    op.create_index("ix_items_prompt_id", "items", ["prompt_id"])
    op.create_table(
        "completions",
        _seq(),
        _text("id", unique=True),
        _text("prompt_id", sa.ForeignKey("prompts.id")),
        sa.Column("item_id", sa.Text(), sa.ForeignKey("items.id")),
        sa.Column("position", sa.Integer(), nullable=False),
        _text("text"),
        sa.Column("model", sa.Text()),
        sa.Column("policy_version", sa.Text()),
        sa.Column("token_ids", sa.LargeBinary()),
        sa.Column("logprobs", sa.LargeBinary()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("sampling", sa.Text()),
        sa.Column("tokenizer", sa.Text()),
        _text("metadata"),
        sa.Column("run_id", sa.Text()),
    )
    op.create_index("ix_completions_item_id", "completions", ["item_id", "position"], unique=True)
    op.create_index("ix_completions_run_id", "completions", ["run_id", "seq"])
    op.create_table(
        "rankings",
        _seq(),
        _text("id", unique=True),
        _text("item_id", sa.ForeignKey("items.id")),
        _text("annotator"),
        _text("criterion"),
        _text("tiers"),
        _text("unacceptable"),
        sa.Column("none_acceptable", sa.Boolean(), nullable=False),
        _text("ratings"),
        sa.Column("comment", sa.Text()),
        _text("flags"),
        _text("shown"),
        sa.Column("duration_s", sa.Float()),
        sa.Column("created_at", sa.Text()),
        sa.Column("supersedes", sa.Text()),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        _text("metadata"),
        sa.Column("ordinal", sa.Integer(), nullable=False),
    )
    op.create_index("ix_rankings_item_id", "rankings", ["item_id", "criterion"])
    op.create_index("ix_rankings_supersedes", "rankings", ["supersedes"])
    op.create_table(
        "imports",
        _seq(),
        _text("name"),
        _text("sha256"),
        _text("format"),
        _text("counts"),
        sa.Column("rejected", sa.Integer(), nullable=False),
        _text("reasons"),
        _text("imported_at"),
    )
    op.create_table("snapshots", _seq(), _text("hash", unique=True), _text("kind"), _count("size"), _text("created_at"))
    op.create_table(
        "snapshot_members",
        sa.Column("snapshot_hash", sa.Text(), sa.ForeignKey("snapshots.hash"), primary_key=True),
        sa.Column("member_id", sa.Text(), primary_key=True),
    )
    op.create_index("ix_snapshot_members_member_id", "snapshot_members", ["member_id"])
    op.create_table(
        "models",
        _seq(),
        _text("version", unique=True),
        _text("kind"),
        _text("path"),
        sa.Column("parent", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("weights_sha256", sa.Text()),
        sa.Column("snapshot_hash", sa.Text(), sa.ForeignKey("snapshots.hash")),
        sa.Column("criterion", sa.Text()),
        _text("metrics"),
        _text("created_at"),
        sa.CheckConstraint("kind IN ('policy', 'reward')", name="ck_models_kind"),
    )


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)
