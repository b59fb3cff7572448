"""Adds people with sessions and invitations, the queue of tasks and leases, and the audit log, which only grows."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _seq(name: str = "seq") -> sa.Column[int]:
    return sa.Column(name, _big(), primary_key=True, autoincrement=True)


def _big() -> Any:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *constraints: sa.ForeignKey, unique: bool | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), *constraints, nullable=False, unique=unique)


def _maybe(name: str, *constraints: sa.ForeignKey, unique: bool | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), *constraints, unique=unique)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _number(name: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=nullable)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def upgrade() -> None:
    _never_number_a_ranking_twice()
    _people()
    _queue()
    op.create_table(
        "drafts",
        sa.Column("lease", sa.Text(), sa.ForeignKey("leases.id"), primary_key=True),
        _text("state"),
        _number("kept_at"),
    )
    op.create_table(
        "submissions",
        sa.Column("person", sa.Text(), sa.ForeignKey("people.id"), primary_key=True),
        sa.Column("uuid", sa.Text(), primary_key=True),
        _text("body"),
        _text("receipt"),
    )
    op.create_table("settings", sa.Column("key", sa.Text(), primary_key=True), _text("value"))
    op.create_table("removals", sa.Column("ranking_id", sa.Text(), primary_key=True), _number("removed_at"))
    _audit()


def _never_number_a_ranking_twice() -> None:
    """Stop the reuse of ranking numbers, because people can now be removed with their rankings.

    Programs read on from the highest number that they saw.
    """
    if op.get_bind().dialect.name == "sqlite":  # Postgres never reuses a number.
        with op.batch_alter_table("rankings", recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass


def _people() -> None:
    op.create_table(
        "people",
        _seq(),
        _text("id", unique=True),
        _maybe("name"),
        _maybe("login", unique=True),
        _maybe("password"),
        _text("role"),
        _text("groups"),
        sa.Column("most", sa.Integer()),
        _maybe("excluded"),
        _maybe("excluded_by"),
        _flag("disabled"),
        _number("created_at"),
        _whole("taken"),
        _whole("gold_taken"),
        _whole("done"),
        _whole("skipped"),
        _text("cursors"),
        sa.CheckConstraint("role IN ('owner', 'reviewer', 'annotator')", name="ck_people_role"),
    )
    op.create_table(
        "invites",
        _seq(),
        _text("id", unique=True),
        _text("token_hash", unique=True),
        _text("role"),
        _text("groups"),
        _maybe("created_by"),
        _number("created_at"),
        _number("expires_at"),
    )
    op.create_table(
        "sessions",
        _seq(),
        _text("id", unique=True),
        _text("token_hash", unique=True),
        _text("kind"),
        _maybe("person", sa.ForeignKey("people.id")),
        _maybe("label"),
        _maybe("scope"),
        _number("created_at"),
        _number("seen_at"),
    )
    op.create_index("ix_sessions_person", "sessions", ["person"])


def _queue() -> None:
    op.create_table(
        "tasks",
        _seq(),
        _text("item_id", sa.ForeignKey("items.id")),
        _text("criterion"),
        _whole("round"),
        _whole("wanted"),
        _whole("done"),
        _whole("live"),
        _whole("phase"),
        _text("tag"),
        _number("shuffle"),
        _number("priority"),
        _number("waiting_since", nullable=True),
        _maybe("arm"),
        _maybe("gold"),
        _whole("skips"),
        _maybe("discarded"),
        _maybe("discarded_by"),
        sa.UniqueConstraint("item_id", "criterion", name="uq_tasks_item_id"),
    )
    op.create_index("ix_tasks_shuffle", "tasks", ["criterion", "phase", "tag", "shuffle"])
    op.create_index("ix_tasks_priority", "tasks", ["criterion", "phase", "tag", "priority", "shuffle"])
    op.create_index("ix_tasks_waiting", "tasks", ["criterion", "phase", "tag", "waiting_since", "seq"])
    op.create_index("ix_tasks_counts", "tasks", ["criterion", "phase", "round", "wanted", "done", "live"])
    op.create_index("ix_tasks_pages", "tasks", ["criterion", "seq", "phase", "done", "skips"])
    op.create_table(
        "leases",
        _seq(),
        _text("id", unique=True),
        _text("person", sa.ForeignKey("people.id")),
        sa.Column("task", _big(), sa.ForeignKey("tasks.seq"), nullable=False),
        _text("state"),
        _text("arm"),
        _whole("number"),
        _text("shown"),
        _whole("words"),
        _number("started_at"),
        _number("expires_at"),
        _number("given_at", nullable=True),
        _number("duration_s", nullable=True),
        _maybe("ranking_id"),
        _maybe("body"),
        _maybe("reason"),
        _maybe("returned"),
        _maybe("returned_by"),
        _number("returned_at", nullable=True),
        _flag("reopened"),
        _flag("surplus"),
        sa.CheckConstraint("state IN ('live', 'expired', 'done', 'skipped', 'closed')", name="ck_leases_state"),
        sa.UniqueConstraint("person", "task", name="uq_leases_person"),
    )
    op.create_index("ix_leases_task", "leases", ["task"])
    op.create_index("ix_leases_state", "leases", ["person", "state"])
    op.create_index("ix_leases_given_at", "leases", ["person", "given_at"])
    op.create_index("ix_leases_returned", "leases", ["person", "returned_at"])
    op.create_index("ix_leases_expires_at", "leases", ["state", "expires_at"])


def _audit() -> None:
    op.create_table(
        "audit",
        _seq(),
        _number("at"),
        _maybe("who"),
        _text("what"),
        _text("object"),
        _maybe("before"),
        _maybe("after"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_refuses_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
            )
        op.execute(  # INSERT OR REPLACE would delete without the trigger above.
            "CREATE TRIGGER audit_refuses_replace BEFORE INSERT ON audit "
            "WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_refuses_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
    )
