"""`Store` gives access to everything a project knows. It raises only StoreError, DataError and BusyError."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import func, insert, select, update

from prefloop.errors import DataError, StoreError
from prefloop.store import mapping, read, twins, write
from prefloop.store.check import problems
from prefloop.store.connections.database import Database, resolve
from prefloop.store.migrate import migrate
from prefloop.store.records import Counts, ImportRow, ModelKind, ModelRow
from prefloop.store.schema import imports, items, logprobs, models, snapshot_members, snapshots
from prefloop.store.write import Parsed
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking, Snapshot, Split

BATCH_ROWS = 1000  # One write transaction has so many rows.
_REASONS_KEPT = 100


class Store:
    """Gives access to everything a project knows. Open it with `Store.open`.

    Several threads may use it safely; one process at a time should write (`ProjectLock`).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def database(self) -> Database:
        """Return the database, for `Queue` and `People`, which live in the same tables."""
        return self._database

    @classmethod
    def open(cls, url: str, root: Path, *, create: bool = True, patience_s: float | None = None) -> Self:
        """Connect and bring the schema up to date. A relative SQLite path starts at `root`.

        create: make the store if there is none; otherwise a missing store is a StoreError
        patience_s: how long a call may wait for other writers, and on Postgres for any answer
        """
        resolved = resolve(url, root)
        if resolved.get_backend_name() == "sqlite":
            path = Path(str(resolved.database))
            if not path.exists() and not create:
                raise StoreError(f"there is no store at {path}. Make a project with: prefloop init")
            if path.is_dir():
                raise StoreError(f"{path} is a folder. Name a file in [project] store, such as sqlite:///prefloop.db")
            path.parent.mkdir(parents=True, exist_ok=True)
        database = Database(resolved)
        try:
            migrate(database, create=create)
        except BaseException:
            database.close()
            raise
        if patience_s is None:
            return cls(database)
        database.close()  # A migration has no time limit.
        return cls(Database(resolved, patience_s))

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- adding ------------------------------------------------------------------------------------------------------

    def add(self, parsed: Iterable[Parsed], *, round: int = 0, file: str | None = None) -> Counts:
        """Add records in order. Records that are already there (by id) add nothing, so repeating is harmless.

        A known item may bring new rankings. A prompt keeps its first metadata. `round` is for items that state none.
        `file` is the SHA-256 of the file whose rows the records are: an item that says the same as one of another file
        becomes that item (`twins`). Records are written in transactions of about 1000 rows, and a failure keeps all
        earlier ones. Raises DataError, naming the record, if an id already means something else or a ranking names a
        wrong completion.
        """
        total, held, size = Counts(), list[Parsed](), 0
        for record in parsed:
            held.append(record)
            size += 1 + (len(record.completions) + len(record.rankings) if isinstance(record, Item) else 0)
            if size >= BATCH_ROWS:
                total += self._add(held, round, file)
                held, size = [], 0
        return total + self._add(held, round, file) if held else total

    def _add(self, batch: Sequence[Parsed], round: int, file: str | None) -> Counts:
        with self._database.write() as connection:
            if file is not None:
                batch = twins.replace_known(connection, batch, file)
            added = write.add_batch(connection, batch, round)
            if file is not None:
                write.add_origins(connection, batch, file)
            return added

    def add_rankings(self, rankings: Iterable[Ranking]) -> int:
        """Append rankings of known items; return how many were new. Raises DataError that names the first bad one."""
        added = 0
        for batch in write.chunks(rankings, BATCH_ROWS):
            with self._database.write() as connection:
                added += write.add_rankings(connection, batch)
        return added

    def add_rollouts(self, prompt_ids: Sequence[str], completions: Sequence[Completion], run_id: str) -> None:
        """Add completions [N] of prompts [N] in one transaction. A known completion id replaces the earlier row."""
        if len(prompt_ids) != len(completions):
            raise DataError(f"{len(prompt_ids)} prompt ids for {len(completions)} rollouts; give one for each")
        with self._database.write() as connection:
            write.add_rollouts(connection, prompt_ids, completions, run_id)

    def add_logprobs(self, model: str, totals: Mapping[str, float]) -> None:
        """Store a model's log-probabilities of completions in nats; `model` is the hash of its weights."""
        rows = [{"model": model, "completion_id": key, "total": total} for key, total in totals.items()]
        with self._database.write() as connection:
            for part in write.chunks(rows, BATCH_ROWS):
                connection.execute(insert(logprobs), part)

    def logprobs(self, model: str, completion_ids: Iterable[str]) -> dict[str, float]:
        """Return the log-probabilities that are known, by completion id."""
        found: dict[str, float] = {}
        with self._database.read() as connection:
            for ids in write.chunks(completion_ids):
                asked = (logprobs.c.model == model, logprobs.c.completion_id.in_(ids))
                rows = connection.execute(select(logprobs.c.completion_id, logprobs.c.total).where(*asked))
                found.update((row.completion_id, row.total) for row in rows)
        return found

    def add_snapshot(self, snapshot: Snapshot) -> str:
        """Store what a model is trained on; return the hash."""
        key = snapshot.hash  # The hash is computed once, since it hashes every id.
        row = {"hash": key, "kind": snapshot.kind, "size": len(snapshot.ids), "created_at": _now()}
        members = [{"snapshot_hash": key, "member_id": member} for member in snapshot.ids]
        with self._database.write() as connection:
            if not write.existing(connection, snapshots.c.hash, [key]):
                connection.execute(insert(snapshots), row)
                for part in write.chunks(members, BATCH_ROWS):
                    connection.execute(insert(snapshot_members), part)
        return key

    def add_model(self, model: ModelRow) -> None:
        """Register a model. The same version again updates the row, but raises DataError for other weights."""
        row = mapping.model_row(model)
        with self._database.write() as connection:
            known = connection.execute(select(models).where(models.c.version == model.version)).mappings().first()
            if known is None:
                connection.execute(insert(models), row | {"created_at": _now()})
            elif known["weights_sha256"] != model.weights_sha256:
                raise DataError(
                    f"model {model.version} is already registered with other weights; give it a new version"
                )
            else:
                connection.execute(update(models).where(models.c.version == model.version).values(row))

    def record_import(
        self, name: str, sha256: str, format: str, counts: Counts | Mapping[str, int], errors: Sequence[object]
    ) -> None:
        """Log a file that was read: what it added, and why rows were rejected (the first 100 reasons)."""
        row = {
            "name": name,
            "sha256": sha256,
            "format": format,
            "counts": mapping.dumps(asdict(counts) if isinstance(counts, Counts) else dict(counts)),
            "rejected": len(errors),
            "reasons": mapping.dumps([str(error) for error in errors[:_REASONS_KEPT]]),
            "imported_at": _now(),
        }
        with self._database.write() as connection:
            connection.execute(insert(imports), row)

    # -- reading -----------------------------------------------------------------------------------------------------

    def prompts(self, *, split: Split | None = None, heldout: float = 0.1, limit: int | None = None) -> list[Prompt]:
        """Return prompts in the order in which they were added.

        `split` selects one side, by `split_of(prompt, heldout)`.
        """
        with self._database.read() as connection:
            return read.read_prompts(connection, split, heldout, limit)

    def demonstrations(self, *, split: Split | None = None, heldout: float = 0.1) -> list[Demonstration]:
        """Return demonstrations in the order in which they were added."""
        with self._database.read() as connection:
            return read.read_demonstrations(connection, split, heldout)

    def items(
        self,
        *,
        split: Split | None = None,
        heldout: float = 0.1,
        source: str | None = None,
        round: int | None = None,
        criterion: str | None = None,
        ranked: bool | None = None,
        excluded: bool = False,
    ) -> Iterator[Item]:
        """Yield items in the order in which they were added, with completions and effective rankings.

        At most 256 items are in memory at a time. A ranking is effective until another of its item supersedes it.
        `criterion` selects rankings. `ranked` selects items with (True) or without (False) any selected ranking.
        Rankings by excluded people, and of discarded items, are left out unless `excluded` is true.
        """
        query = read.ItemQuery(split, heldout, source, round, criterion, ranked, excluded)
        return read.stream_items(self._database, query)

    def item_by_ids(self, ids: Iterable[str]) -> list[Item]:
        """Return items in the order of the ids. Raises DataError that names an unknown id."""
        wanted = list(ids)
        with self._database.read() as connection:
            found = read.items_by_id(connection, wanted)
        for key in wanted:
            if key not in found:
                raise DataError(f"there is no item {key}")
        return [found[key] for key in wanted]

    def item(self, id: str) -> Item:
        """Return one item. Raises DataError if it does not exist."""
        return self.item_by_ids([id])[0]

    def latest_round(self, source: str) -> int:
        """Return the newest round that has items of a source; 0 if there is none."""
        with self._database.read() as connection:
            return connection.scalar(select(func.max(items.c.round)).where(items.c.source == source)) or 0

    def rollouts(self, run_id: str, limit: int | None = None) -> Iterator[tuple[Prompt, Completion]]:
        """Yield what a run sampled while it learned, oldest first."""
        return read.stream_rollouts(self._database, run_id, limit)

    def criteria(self) -> dict[str, int]:
        """Return the number of effective rankings of each criterion, largest first."""
        with self._database.read() as connection:
            return read.read_criteria(connection)

    def counts(self) -> dict[str, Any]:
        """Return totals: prompts, demonstrations, items, completions, rollouts, rankings, annotators and more.

        The keys are "prompts", "demonstrations", "items", "completions", "rollouts", "rankings", "effective",
        "simulated", "annotators" and "criteria". `rankings` counts every event; simulated and annotators count only
        effective ones.
        """
        with self._database.read() as connection:
            return read.read_counts(connection)

    def snapshot(self, hash: str) -> Snapshot:
        """Return the ids of a snapshot. Raises DataError if there is none."""
        with self._database.read() as connection:
            kind = connection.scalar(select(snapshots.c.kind).where(snapshots.c.hash == hash))
            members = select(snapshot_members.c.member_id).where(snapshot_members.c.snapshot_hash == hash)
            ids = connection.scalars(members).all()
        if kind is None:
            raise DataError(f"there is no snapshot {hash} in {self._database.label}")
        return Snapshot(kind, tuple(sorted(ids)))

    def models(self, kind: ModelKind | None = None, criterion: str | None = None) -> list[ModelRow]:
        """Return registered models, oldest first."""
        query = select(models).order_by(models.c.seq)
        if kind is not None:
            query = query.where(models.c.kind == kind)
        if criterion is not None:
            query = query.where(models.c.criterion == criterion)
        with self._database.read() as connection:
            return [mapping.to_model(row) for row in connection.execute(query).mappings()]

    def latest_model(self, kind: ModelKind, criterion: str | None = None) -> ModelRow | None:
        """Return the newest of a kind, or None before the first."""
        return next(reversed(self.models(kind, criterion)), None)

    def model(self, version: str) -> ModelRow:
        """Return the model of a version. Raises DataError that lists the known versions."""
        known = {model.version: model for model in self.models()}
        if version not in known:
            raise DataError(f"there is no model {version!r}. Known: {', '.join(known) or 'none yet'}.")
        return known[version]

    def imports(self) -> list[ImportRow]:
        """Return the log of files read, oldest first."""
        with self._database.read() as connection:
            return [
                mapping.to_import(row) for row in connection.execute(select(imports).order_by(imports.c.seq)).mappings()
            ]

    # -- health ------------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Return one sentence for each fault of the contents; [] if there is none. It reads the whole store."""
        return problems(self._database)

    def warnings(self) -> list[str]:
        """Return settings and versions of the database that endanger data, one sentence each."""
        return self._database.warnings()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
