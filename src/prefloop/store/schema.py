"""Defines the tables, as SQLAlchemy Core. `migrations/` builds them, and a test compares the two.

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
    UniqueConstraint,
)

HEAD = "0009"  # the newest migration; a test compares it with Alembic's own list

metadata = MetaData()
_Seq = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER only.


def _seq() -> Column[int]:
    return Column("seq", _Seq, primary_key=True, autoincrement=True)


def _id(name: str = "id") -> Column[str]:
    return Column(name, Text, nullable=False, unique=True)


prompts = Table(
    "prompts",
    metadata,
    _seq(),
    _id(),
    Column("content", Text, nullable=False),  # JSON: a string, or a list of {role, content, ...}
    Column("system", Text),
    Column("tools", Text),  # JSON: a list of schemas; null if there are none
    Column("metadata", Text, nullable=False),
    Column("split", Text),  # as imported; null means that `bucket` decides
    # split.bucket(): the prompt is held out when it is below heldout * 2**32
    Column("bucket", BigInteger, nullable=False),
    CheckConstraint("split IN ('train', 'heldout')", name="ck_prompts_split"),
)

demonstrations = Table(
    "demonstrations",
    metadata,
    _seq(),
    _id(),
    Column("prompt_id", Text, ForeignKey("prompts.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("messages", Text),  # as in completions
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
    # null for a rollout of reinforcement learning, which is never ranked
    Column("item_id", Text, ForeignKey("items.id")),
    Column("position", Integer, nullable=False),  # position in the item, or in the rollout batch
    Column("text", Text, nullable=False),
    # JSON: the turns of an answer that is more than one plain text; null if it is its text alone
    Column("messages", Text),
    Column("model", Text),
    Column("policy_version", Text),
    Column("token_ids", LargeBinary),  # packed by mapping.pack_ints
    Column("logprobs", LargeBinary),  # packed by mapping.pack_floats, in nats
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
    Column("supersedes", Text),  # It is not a foreign key, since a file may list an edit before the edited ranking.
    Column("simulated", Boolean, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Index("ix_rankings_item_id", "item_id", "criterion"),
    Index("ix_rankings_supersedes", "supersedes"),
    sqlite_autoincrement=True,  # Numbers of deleted rankings are not used again.
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
    Column("removed", Integer, nullable=False, server_default="0"),  # records deleted since
)

origins = Table(  # It says where a record was read; one that several files hold has a row for each.
    "origins",
    metadata,
    Column("record_id", Text, primary_key=True),  # the id of a prompt, a demonstration, an item or a ranking
    Column("sha256", Text, primary_key=True),  # the hash of the file, as in imports.sha256
    Column("row", Integer, nullable=False),  # its line, or its row in Parquet
    Index("ix_origins_sha256", "sha256"),
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
    Column("files", Text),
    CheckConstraint("kind IN ('policy', 'reward')", name="ck_models_kind"),
)

logprobs = Table(  # The log-probabilities are those of whole completions, in nats.
    "logprobs",
    metadata,
    Column("model", Text, primary_key=True),  # the hash of the weights and of the tokenization
    Column("completion_id", Text, ForeignKey("completions.id"), primary_key=True),
    Column("total", Float, nullable=False),
)

# -- people, and the queue they work through ---------------------------------------------------------------------------

people = Table(
    "people",
    metadata,
    _seq(),
    _id(),  # random and public; it is rankings.annotator
    Column("name", Text),  # null for a deleted person whose rankings are kept
    Column("login", Text, unique=True),  # the name, in the form that `login_of` gives it
    Column("password", Text),  # argon2id
    Column("role", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("most", Integer),  # in items; null means the limit of the settings
    Column("excluded", Text),  # the reason for exclusion; null if the rankings are trained on
    Column("excluded_by", Text),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("taken", Integer, nullable=False),  # how many items were handed out; gold_taken counts those that were gold
    Column("gold_taken", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("cursors", Text, nullable=False),  # {tag: tasks.waiting_since before which this person had everything}
    Column("guidelines", Text),  # hash of the guidelines they have read; null if they have read none yet
    CheckConstraint("role IN ('owner', 'reviewer', 'annotator')", name="ck_people_role"),
)

invites = Table(
    "invites",
    metadata,
    _seq(),
    _id(),
    _id("token_hash"),
    Column("role", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("created_by", Text),  # null for the command line
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    _seq(),
    _id(),
    _id("token_hash"),
    Column("kind", Text, nullable=False),  # "session" for a browser, "api" for a program
    Column("person", Text, ForeignKey("people.id")),  # null for a token made from the command line
    Column("label", Text),
    Column("scope", Text),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Index("ix_sessions_person", "person"),
)

tasks = Table(
    "tasks",
    metadata,
    _seq(),
    Column("item_id", Text, ForeignKey("items.id"), nullable=False),
    Column("criterion", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("wanted", Integer, nullable=False),  # how many people should rank the item; further rankings are surplus
    Column("done", Integer, nullable=False),
    Column("live", Integer, nullable=False),  # places held by leases that have not been swept
    Column("phase", Integer, nullable=False),  # queue.rows.Phase, which decides which index finds the task
    Column("tag", Text, nullable=False),  # only for people of this group; "" = everybody
    Column("shuffle", Float, nullable=False),  # a random number in [0, 1)
    Column("priority", Float, nullable=False),
    Column("judged_by", Text, nullable=False, server_default=""),  # the models that set the priority; "" if none has
    # since when a task that was handed out has a free place; null if it was never handed out
    Column("waiting_since", Float),
    Column("arm", Text),  # how it was first chosen: "random", "priority" or "gold"
    Column("gold", Text),  # expected tiers of completion ids; null if the item is not gold
    Column("skips", Integer, nullable=False),
    Column("discarded", Text),  # the reason
    Column("discarded_by", Text),
    UniqueConstraint("item_id", "criterion", name="uq_tasks_item_id"),
    Index("ix_tasks_shuffle", "criterion", "phase", "tag", "shuffle"),
    Index("ix_tasks_priority", "criterion", "phase", "tag", "priority", "shuffle"),
    Index("ix_tasks_waiting", "criterion", "phase", "tag", "waiting_since", "seq"),
    Index(
        "ix_tasks_counts", "criterion", "phase", "round", "wanted", "done", "live"
    ),  # these two indexes cover their queries
    Index("ix_tasks_pages", "criterion", "seq", "phase", "done", "skips"),
)

leases = Table(
    "leases",
    metadata,
    _seq(),
    _id(),  # a random name by which annotators know the item
    Column("person", Text, ForeignKey("people.id"), nullable=False),
    Column("task", _Seq, ForeignKey("tasks.seq"), nullable=False),
    Column("state", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("number", Integer, nullable=False),  # 1 for the first item of this person
    Column("shown", Text, nullable=False),  # completion ids by display position
    Column("words", Integer, nullable=False),  # how many words of everything that was shown
    Column("started_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("given_at", Float),  # when it was ranked or skipped
    Column("duration_s", Float),
    Column("ranking_id", Text),  # the latest ranking
    Column("body", Text),  # hash of the latest answer
    Column("reason", Text),  # the reason of a skip
    Column("marked", Text),  # JSON: flags by completion id, and the comment, set before a skip
    Column("returned", Text),  # a reviewer's note; null if the item was not returned
    Column("returned_by", Text),
    Column("returned_at", Float),
    Column("reopened", Boolean, nullable=False),  # the next submit supersedes the answer
    Column("surplus", Boolean, nullable=False),
    CheckConstraint("state IN ('live', 'expired', 'done', 'skipped', 'closed')", name="ck_leases_state"),
    UniqueConstraint("person", "task", name="uq_leases_person"),
    Index("ix_leases_task", "task"),
    Index("ix_leases_state", "person", "state"),
    Index("ix_leases_given_at", "person", "given_at"),
    Index("ix_leases_returned", "person", "returned_at"),
    Index("ix_leases_expires_at", "state", "expires_at"),
)

drafts = Table(
    "drafts",
    metadata,
    Column("lease", Text, ForeignKey("leases.id"), primary_key=True),
    Column("state", Text, nullable=False),
    Column("kept_at", Float, nullable=False),
)

submissions = Table(
    "submissions",
    metadata,
    Column("person", Text, ForeignKey("people.id"), primary_key=True),
    Column("uuid", Text, primary_key=True),  # made by the client; repetitions get the same receipt
    Column("body", Text, nullable=False),
    Column("receipt", Text, nullable=False),
)

settings = Table("settings", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

rules = Table(  # These settings of [annotate] were changed in the browser; the last row of a key counts.
    "rules",
    metadata,
    _seq(),
    Column("at", Float, nullable=False),
    Column("who", Text),
    Column("key", Text, nullable=False),
    Column("value", Text),  # JSON; null returns to the value of the file
    Column("base", Text, nullable=False),  # JSON: the value of the file at that time
    Index("ix_rules_key", "key", "seq"),
)

guidelines = Table(  # Each row is a text that somebody has read or written.
    "guidelines",
    metadata,
    _seq(),
    _id("hash"),
    Column("text", Text, nullable=False),
    Column("at", Float, nullable=False),
)

audit = Table(  # Triggers refuse UPDATE and DELETE.
    "audit",
    metadata,
    _seq(),
    Column("at", Float, nullable=False),
    Column("who", Text),
    Column("what", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
)

removals = Table(  # These are deleted ids, and rankings of deleted people; snapshots may still name them.
    "removals", metadata, Column("member_id", Text, primary_key=True), Column("removed_at", Float, nullable=False)
)
