"""`prefloop backup`: all that people said, in one folder, taken while they work; and the way back. Loads no model.

    TO/backup.json        what is in it: row counts, and the SHA-256 of every file
       store.db           the store as one SQLite file, whatever database it came from
       files/             prefloop.toml, the guidelines, and with `runs` also runs/ and model/

Whoever has it has the password hashes and secrets of the store too, so nobody else can read the folder. Left out:
checkpoints' half-written files, links, and whatever lies elsewhere (a pretrained model, imported files).

A backup may come from somebody else. Restoring one writes inside the new project folder and nowhere else, follows no
links, and keeps no setting that reaches outside of that folder, unless the user says so (`--trust`, `--set`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL

import prefloop
from prefloop.config import CONFIG_NAME, Config, load_config, make_config
from prefloop.errors import DataError
from prefloop.project.project import Project
from prefloop.project.toml import with_overrides
from prefloop.record import write_json_atomic
from prefloop.results import BackedUp, Restored
from prefloop.stages.backup.checks import (
    CHUNK,
    FILES,
    LAYOUT,
    MANIFEST,
    STORE,
    check_store,
    copy_checked,
    for_me_alone,
    read_list,
    refuse_reaching_out,
)
from prefloop.store import Store
from prefloop.store.connections.database import resolve
from prefloop.store.dump import dump, load
from prefloop.store.overview import note_backup

RUNS = ("runs", "model")


def backup(project: Project, to: Path, runs: bool = False) -> BackedUp:
    """Make the folder `to`: whole, verified and on the disk, or not at all. Writers go on meanwhile.

    runs: the trained models and run folders too, which may be large. Raises DataError where `to` holds something.
    """
    _refuse_occupied(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    try:
        counts = dump(project.store, aside / STORE)
        for name in _belongings(project, runs):
            _copy(project.root / name, aside / FILES / name)
        hashes = {name: _sha256(aside / name) for name in _names(aside)}
        manifest = {
            "layout": LAYOUT,
            "prefloop": prefloop.__version__,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "project": project.config.project.name,
            "runs": runs,
            "rows": counts,
            "files": hashes,
        }
        write_json_atomic(aside / MANIFEST, manifest)
        for name in (STORE, MANIFEST):
            (aside / name).chmod(0o600)
        _sync(aside)
        size = sum((aside / name).stat().st_size for name in _names(aside))
        _take_place(aside, to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # After a success the folder is gone.
    note_backup(project.store, time.time())
    models = len(project.store.models())
    if models and not runs:
        project.say(f"backup: the files of {models} trained models are not in it; say --runs to have them")
    return BackedUp(folder=str(to), rankings=counts["rankings"], rows=counts, files=len(hashes), bytes=size)


def restore(source: Path, root: Path, overrides: tuple[str, ...] = (), trust: bool = False) -> Restored:
    """Make the project `root` from a backup. Every file is checked against its hash, the rows are counted.

    overrides: settings that become part of the new prefloop.toml; `project.store` is the usual one.
    trust: keep settings of the backup that reach outside of the project folder.
    Raises DataError where `root` or the store it names holds something, where the backup is not what it was, and where
    its settings reach outside.
    """
    listed = read_list(source)
    _refuse_occupied(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    aside = root.with_name(f".{root.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    try:
        staged = aside / ".restoring.db"
        for name, wanted in listed.files.items():
            copy_checked(source, name, staged if name == STORE else aside / name.removeprefix(f"{FILES}/"), wanted)
        check_store(staged, source, listed.rows)
        config = _configured(aside / CONFIG_NAME, overrides)
        if not trust:
            refuse_reaching_out(config, root, {override.partition("=")[0].strip() for override in overrides})
        url = resolve(config.project.store, root)
        if url.get_backend_name() == "sqlite":
            rows = _fill_file(staged, url, root, aside)
        else:
            with Store.open(config.project.store, root) as target:
                rows = load(staged, target)
        _unlink(staged)
        _sync(aside)
        _take_place(aside, root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Restored(project=str(root), source=str(source), made_at=listed.made_at, rankings=rows["rankings"], rows=rows)


# -- what belongs to a project -----------------------------------------------------------------------------------------


def _belongings(project: Project, runs: bool) -> Iterator[str]:
    """Yield paths below the project. A file that vanishes while it is looked for (an old checkpoint) is left out."""
    yield CONFIG_NAME
    guidelines = Path(project.config.annotate.guidelines)
    if not guidelines.is_absolute() and ".." not in guidelines.parts and (project.root / guidelines).is_file():
        yield str(guidelines)
    for folder in RUNS if runs else ():
        for name in _names(project.root / folder):
            yield f"{folder}/{name}"


def _names(folder: Path) -> list[str]:
    """Return every regular file below a folder, with / between the parts.

    Hidden files are unfinished, and links lead elsewhere, so both are left out.
    """
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(place) / name
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with (
        suppress(FileNotFoundError),  # An old checkpoint goes while a run writes a newer one.
        source.open("rb") as old,
        open(to, "xb", opener=for_me_alone) as new,
    ):
        shutil.copyfileobj(old, new, CHUNK)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_occupied(path: Path) -> None:
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path} exists already, and nothing is overwritten. Name a new folder.")


# -- settings ----------------------------------------------------------------------------------------------------------


def _configured(path: Path, overrides: tuple[str, ...]) -> Config:
    """Return the settings with the overrides, which are also written into the file."""
    if overrides:
        load_config(path, overrides)  # This says what is wrong with the file or with an override.
        text = with_overrides(path.read_text(encoding="utf-8"), overrides)
        make_config(tomllib.loads(text), where="--set")
        path.write_text(text, encoding="utf-8")
    return load_config(path)


# -- on the disk -------------------------------------------------------------------------------------------------------


def _fill_file(staged: Path, url: URL, root: Path, aside: Path) -> dict[str, int]:
    """Make a SQLite store where the settings want it; below the project, that is still the folder aside.

    Rows are copied into a store of our own making: the file of the backup may hold triggers and views of anybody's.
    """
    wanted = Path(str(url.database))
    if wanted.exists():
        raise DataError(f"{wanted} exists already, and nothing is overwritten. Say --set project.store=sqlite:///NAME")
    place = aside / wanted.relative_to(root) if wanted.is_relative_to(root) else wanted
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        open(place, "xb", opener=for_me_alone).close()
    except FileExistsError:
        raise DataError(
            f"{place.name} is also the name of a file in the backup. Say --set project.store=sqlite:///NAME"
        ) from None
    try:
        with Store.open(f"sqlite:///{place.name}", place.parent) as target:
            return load(staged, target)
    except BaseException:
        _unlink(place)
        raise


def _unlink(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Write all of it to the disk, so that a rename afterwards never shows a folder of empty files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink() or (path.is_dir() and os.name != "posix"):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _take_place(aside: Path, to: Path) -> None:
    with suppress(FileNotFoundError):
        to.rmdir()  # It is empty, which was checked before.
    aside.rename(to)
