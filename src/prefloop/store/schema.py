"""The tables, as SQLAlchemy Core. `migrations/` builds them; a test holds the two together.

`seq` is the order of insertion; every other reference is by the public id, so that joins can be read. JSON is kept as
text: Postgres's own JSON type refuses some strings that models do produce.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

HEAD = "0001"  # the newest migration; a test compares it with Alembic's own idea

metadata = MetaData()
_Seq = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER only


def _seq() -> Column[int]:
    return Column("seq", _Seq, primary_key=True, autoincrement=True)


def _id(name: str = "id") -> Column[str]:
    return Column(name, Text, nullable=False, unique=True)


prompts = Table(
    "prompts",
    metadata,
    _seq(),
    _id(),
    Column("content", Text, nullable=False),  # JSON: a string, or a list of {role, content}
    Column("system", Text),
    Column("metadata", Text, nullable=False),
    Column("split", Text),  # as imported; null: decided by bucket
    Column("bucket", BigInteger, nullable=False),  # split.bucket(): held out when below heldout * 2**32
    CheckConstraint("split IN ('train', 'heldout')", name="ck_prompts_split"),
)

demonstrations = Table(
    "demonstrations",
    metadata,
    _seq(),
    _id(),
    Column("prompt_id", Text, ForeignKey("prompts.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("metadata", Text, nullable=False),
    Index("ix_demonstrations_prompt_id", "prompt_id"),
)

items = Table(
    "items",
    metadata,
    _seq(),
    _id(),
    Column("prompt_id", Text, ForeignKey("prompts.id"), nullable=False),
    Column("external_id", Text),
    Column("round", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Index("ix_items_prompt_id", "prompt_id"),
)

completions = Table(
    "completions",
    metadata,
    _seq(),
    _id(),
    Column("prompt_id", Text, ForeignKey("prompts.id"), nullable=False),
    Column("item_id", Text, ForeignKey("items.id")),  # null: a rollout of reinforcement learning, never ranked
    Column("position", Integer, nullable=False),  # place in the item, or in the rollout batch
    Column("text", Text, nullable=False),
    Column("model", Text),
    Column("policy_version", Text),
    Column("token_ids", LargeBinary),  # codec.pack_ints
    Column("logprobs", LargeBinary),  # codec.pack_floats; nats
    Column("finish_reason", Text),
    Column("sampling", Text),
    Column("tokenizer", Text),
    Column("metadata", Text, nullable=False),
    Column("run_id", Text),
    Index("ix_completions_item_id", "item_id", "position", unique=True),
    Index("ix_completions_run_id", "run_id", "seq"),
)

rankings = Table(
    "rankings",
    metadata,
    _seq(),
    _id(),
    Column("item_id", Text, ForeignKey("items.id"), nullable=False),
    Column("annotator", Text, nullable=False),
    Column("criterion", Text, nullable=False),
    Column("tiers", Text, nullable=False),
    Column("unacceptable", Text, nullable=False),
    Column("none_acceptable", Boolean, nullable=False),
    Column("ratings", Text, nullable=False),
    Column("comment", Text),
    Column("flags", Text, nullable=False),
    Column("shown", Text, nullable=False),
    Column("duration_s", Float),
    Column("created_at", Text),
    Column("supersedes", Text),  # no foreign key: files may list an edit before what it edits
    Column("simulated", Boolean, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Index("ix_rankings_item_id", "item_id", "criterion"),
    Index("ix_rankings_supersedes", "supersedes"),
)

imports = Table(
    "imports",
    metadata,
    _seq(),
    Column("name", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("counts", Text, nullable=False),
    Column("rejected", Integer, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("imported_at", Text, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    _seq(),
    _id("hash"),
    Column("kind", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
)

snapshot_members = Table(
    "snapshot_members",
    metadata,
    Column("snapshot_hash", Text, ForeignKey("snapshots.hash"), primary_key=True),
    Column("member_id", Text, primary_key=True),
    Index("ix_snapshot_members_member_id", "member_id"),
)

models = Table(
    "models",
    metadata,
    _seq(),
    _id("version"),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("parent", Text),
    Column("run_id", Text),
    Column("weights_sha256", Text),
    Column("snapshot_hash", Text, ForeignKey("snapshots.hash")),
    Column("criterion", Text),
    Column("metrics", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("kind IN ('policy', 'reward')", name="ck_models_kind"),
)
