"""Checks a backup that somebody else may have made, before anything of it is used."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from prefloop.config import CONFIG_NAME, Config
from prefloop.errors import DataError, StoreError
from prefloop.store.connections.database import resolve
from prefloop.store.dump import inspect

LAYOUT = 1
MANIFEST, STORE, FILES = "backup.json", "store.db", "files"
CHUNK = 1 << 20
LARGEST_LIST = 64_000_000  # backup.json has at most so many bytes, which are several hundred thousand files.


def _inside(name: str) -> str:
    """Return a path of the list, which must be relative, by ordinary names, of a file that `backup` writes."""
    parts = name.split("/")
    odd = any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts)
    if odd or PurePosixPath(name).is_absolute():
        raise ValueError(f"names a file outside of the backup: {name!a}")
    if name != STORE and (parts[0] != FILES or len(parts) < 2 or any(part.startswith(".") for part in parts)):
        raise ValueError(f"names a file that no backup has: {name!a}")
    return name


class _Layout(BaseModel):
    """Holds what every list says, also that of a newer prefloop."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    layout: int
    prefloop: str = Field(default="", max_length=100)


class Listed(_Layout):
    """Holds what `backup.json` says."""

    made_at: str = Field(default="", max_length=100)
    rows: dict[str, int]
    files: dict[Annotated[str, AfterValidator(_inside)], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


def read_list(source: Path) -> Listed:
    """Return the list of a backup. Raises DataError where it is not one that `backup` made."""
    path = source / MANIFEST
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise DataError(f"{path} is too large to be the list of a backup. Use another backup.")
        content = path.read_bytes()
        made_by = _Layout.model_validate_json(content)
        if made_by.layout > LAYOUT:
            raise DataError(f"{source} was made by a newer prefloop ({made_by.prefloop!a}). Upgrade, then restore.")
        listed = Listed.model_validate_json(content)
    except FileNotFoundError:
        raise DataError(
            f"{source} is no backup: there is no {MANIFEST} in it. Give the folder that backup made."
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"] if part != "[key]") or "it"
        raise DataError(
            f"{path} is not the list of a backup, or it was tampered with: {where}: {first['msg']}. Use another backup."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Use another backup.") from None
    names = set(listed.files)
    if STORE not in names or f"{FILES}/{CONFIG_NAME}" not in names:
        raise DataError(f"{source} lists no {STORE} or no {CONFIG_NAME}: the backup is not whole. Use another one.")
    for name in names:
        if both := names & {str(above) for above in PurePosixPath(name).parents}:
            raise DataError(f"{path} lists {min(both)!a} as a file and as a folder. It was tampered with.")
    return listed


def copy_checked(source: Path, name: str, to: Path, wanted: str) -> None:
    """Copy one file of a backup and compare its hash on the way, so that what is kept is what was checked."""
    place = source
    found = hashlib.sha256()
    try:
        for part in name.split("/"):
            place = place / part
            if place.is_symlink():
                raise DataError(f"{place} is a link, and a backup has none: it was tampered with. Use another backup.")
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.stat().st_size > shutil.disk_usage(to.parent).free:  # A sparse file may say any size.
            raise DataError(f"{place} is larger than what is free on the disk of {to.parent.parent}.")
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as old:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DataError(f"{place} is not a regular file. It was tampered with. Use another backup.")
            with open(to, "xb", opener=for_me_alone) as new:
                while block := old.read(CHUNK):
                    found.update(block)
                    new.write(block)
    except FileNotFoundError:
        raise DataError(f"{place} is missing: the backup is not whole. Use another one.") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(f"{str(place)[:300]} cannot be copied: {why}. Use another backup.") from None
    if found.hexdigest() != wanted:
        raise DataError(f"{place} is not what was backed up: its hash differs. Use another backup.")


def check_store(staged: Path, source: Path, rows: dict[str, int]) -> None:
    """Check the copy, because SQLite would take a journal that lies beside the original for part of it."""
    try:
        found = inspect(staged)
    except StoreError as error:
        raise StoreError(str(error).replace(str(staged), str(source / STORE))) from None
    if found != rows:
        raise StoreError(f"{source / STORE} holds {found}, {MANIFEST} says {rows}. Use another backup.")


def refuse_reaching_out(config: Config, root: Path, said: set[str]) -> None:
    """Raise DataError for settings that name a place outside of the project, or let others in.

    said: the settings that the user gave; they are the user's own.
    """

    def outside(name: str) -> bool:
        return not (root / name).resolve().is_relative_to(root.resolve())

    url = resolve(config.project.store, root)
    elsewhere = url.get_backend_name() != "sqlite" or outside(str(url.database))
    found = {
        "project.store": elsewhere and url.render_as_string(hide_password=True),
        "annotate.guidelines": outside(config.annotate.guidelines) and config.annotate.guidelines,
        "annotate.webhooks": ", ".join(config.annotate.webhooks),
        "annotate.public_url": config.annotate.public_url,  # Invitations lead there.
        "annotate.hosts": ", ".join(config.annotate.hosts),
        "annotate.proxies": ", ".join(config.annotate.proxies),  # Their word counts for who logs in.
        "model.text": ", ".join(name for name in config.model.text if outside(name)),
        "model.trust_remote_code": config.model.trust_remote_code and "true",
    }
    left = {key: value for key, value in found.items() if value and key not in said}
    if left:
        listed = "; ".join(f"{key} = {value}" for key, value in left.items())
        raise DataError(
            f"settings of this backup reach outside of the new project: {listed}. If you know where the backup comes "
            f"from, restore it with --trust. Else say what you want instead: --set {min(left)}=..."
        )


def for_me_alone(path: str, flags: int) -> int:
    """Open files that hold secrets: nobody else may read them, whatever the umask."""
    return os.open(path, flags, 0o600)
