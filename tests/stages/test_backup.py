"""Backup and restore of a project are whole or not at all, overwrite nothing, and believe nothing that was altered."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine

from prefloop.errors import ConfigError, DataError, PrefloopError, StoreError
from prefloop.project.project import Project
from prefloop.project.toml import with_overrides
from prefloop.stages.backup.backup import backup, restore
from prefloop.store.migrate import alembic_config
from prefloop.types import Completion, Item, Prompt, Ranking


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "p"
    root.mkdir()
    (root / "prefloop.toml").write_text('[annotate]\nguidelines = "how.md"\n')
    (root / "how.md").write_text("Be kind.")
    (root / "runs" / "reward-001" / "model").mkdir(parents=True)
    (root / "runs" / "reward-001" / "model" / "w.bin").write_bytes(b"weights")
    (root / "runs" / ".new-1").mkdir()
    (root / "runs" / ".new-1" / "half.json").write_text("{")
    (root / "runs" / "link").symlink_to("/etc/passwd")
    with Project.open(root, quiet=True) as opened:
        made = tuple(Completion(f"i:c{j}", f"answer {j}") for j in range(3))
        said = Ranking("i", "ann", "helpful", (("i:c2",), ("i:c0", "i:c1")))
        opened.store.add([Item("i", Prompt("question"), made, (said,))])
        yield opened


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_was_backed_up_comes_back(project: Project, tmp_path: Path) -> None:
    made = backup(project, tmp_path / "b")
    assert (made.rankings, made.files) == (1, 3)
    assert names(tmp_path / "b") == ["backup.json", "files/how.md", "files/prefloop.toml", "store.db"]
    result = restore(tmp_path / "b", tmp_path / "r")
    assert result.rows == made.rows
    assert names(tmp_path / "r") == ["how.md", "prefloop.db", "prefloop.toml"]
    with Project.open(tmp_path / "r", quiet=True) as again:
        assert list(again.store.items()) == list(project.store.items())
        assert again.config == project.config


def test_run_folders_come_along_when_asked_for_without_links_and_scraps(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b", runs=True)
    restore(tmp_path / "b", tmp_path / "r")
    assert names(tmp_path / "r") == ["how.md", "prefloop.db", "prefloop.toml", "runs/reward-001/model/w.bin"]
    assert (tmp_path / "r/runs/reward-001/model/w.bin").read_bytes() == b"weights"


def test_nobody_else_can_read_a_backup(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_nothing_is_overwritten(project: Project, tmp_path: Path, what: str) -> None:
    backup(project, tmp_path / "b")
    place = tmp_path / "taken"
    if what == "folder":
        place.mkdir()
        (place / "mine").write_text("mine")
    elif what == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "b")
    for act in (lambda: backup(project, place), lambda: restore(tmp_path / "b", place)):
        with pytest.raises(DataError, match="nothing is overwritten"):
            act()
    assert what != "folder" or (place / "mine").read_text() == "mine"
    assert what != "file" or place.read_text() == "mine"
    assert not list(tmp_path.glob(".*")), "scraps"


def test_an_empty_folder_is_a_fine_place(project: Project, tmp_path: Path) -> None:
    for name in ("b", "r"):
        (tmp_path / name).mkdir()
    backup(project, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "r")
    assert (tmp_path / "r" / "prefloop.toml").is_file()


def test_a_store_elsewhere_is_not_overwritten(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    other = tmp_path / "other.db"
    other.write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        restore(tmp_path / "b", tmp_path / "r", (f"project.store=sqlite:///{other}",))
    assert other.read_text() == "mine" and not (tmp_path / "r").exists()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["store.db", "files/prefloop.toml", "files/how.md"])
@pytest.mark.parametrize("harm", [_flip, _lose])
def test_a_backup_that_changed_is_refused_by_name(project: Project, tmp_path: Path, name: str, harm: object) -> None:
    backup(project, tmp_path / "b")
    harm(tmp_path / "b" / name)  # type: ignore[operator]
    with pytest.raises(DataError, match=name):
        restore(tmp_path / "b", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_counts_that_do_not_agree_are_refused(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "backup.json").read_text())
    manifest["rows"]["rankings"] = 2
    (tmp_path / "b" / "backup.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="'rankings': 2"):
        restore(tmp_path / "b", tmp_path / "r")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "files/../../x", "files\\..\\x"])
def test_a_list_that_names_files_elsewhere_is_refused(project: Project, tmp_path: Path, name: str) -> None:
    backup(project, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "backup.json").read_text())
    manifest["files"][name] = "0" * 64
    (tmp_path / "b" / "backup.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="outside"):
        restore(tmp_path / "b", tmp_path / "r")


def test_what_is_no_backup_or_newer_says_so(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no backup"):
        restore(tmp_path / "p", tmp_path / "r")
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    for text, message in (("[1]", "not the list"), ("{", "not the list"), ('{"layout": 2}', "newer prefloop")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            restore(tmp_path / "b", tmp_path / "r")


# -- a backup that somebody else made


def tampered(folder: Path, **changes: bytes) -> None:
    """Change files of a backup, or add some, and correct its list, as whoever made it can."""
    path = folder / "backup.json"
    manifest = json.loads(path.read_text())
    for name, content in changes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ('[project]\nstore = "sqlite:///../stolen.db"', "project.store"),
        ('[project]\nstore = "sqlite:///{outside}/stolen.db"', "project.store"),
        ('[project]\nstore = "sqlite:///runs/../../stolen.db"', "project.store"),
        ('[project]\nstore = "postgresql+pg8000://u:p@127.0.0.1:1/x"', "project.store"),
        ('[annotate]\nguidelines = "/etc/passwd"', "annotate.guidelines"),
        ('[annotate]\nguidelines = "../secret"', "annotate.guidelines"),
        ('[annotate]\nwebhooks = ["https://example.org/x"]', "annotate.webhooks"),
        ('[model]\ninit = "scratch"\ntext = ["../../corpus.txt"]', "model.text"),
        ('[annotate]\npublic_url = "https://example.org"', "annotate.public_url"),
        ('[annotate]\nhosts = ["example.org"]', "annotate.hosts"),
        ('[annotate]\nproxies = ["0.0.0.0/0"]', "annotate.proxies"),
        ('[model]\npath = "org/name"\ntrust_remote_code = true', "model.trust_remote_code"),
    ],
)
def test_settings_that_reach_outside_stop_a_restore_unless_the_user_says_so(
    project: Project, tmp_path: Path, settings: str, named: str
) -> None:
    backup(project, tmp_path / "b")
    outside = tmp_path / "outside"
    outside.mkdir()
    tampered(tmp_path / "b", **{"files/prefloop.toml": settings.format(outside=outside).encode()})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=rf"{named} = .*--trust"):
        restore(tmp_path / "b", tmp_path / "r")
    assert sorted(tmp_path.rglob("*")) == before
    if "postgresql" not in settings:
        restore(tmp_path / "b", tmp_path / "r", trust=True)
        assert (tmp_path / "r" / "prefloop.toml").is_file()


def test_a_store_that_the_user_names_outside_is_the_user_s_own(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    tampered(tmp_path / "b", **{"files/prefloop.toml": b'[project]\nstore = "sqlite:////etc/x.db"'})
    restore(tmp_path / "b", tmp_path / "r", (f"project.store=sqlite:///{tmp_path}/mine.db",))
    assert (tmp_path / "mine.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("part", ["files", "files/runs", "files/runs/x", "files/prefloop.toml", "store.db"])
def test_a_link_anywhere_in_a_backup_is_refused(project: Project, tmp_path: Path, part: str) -> None:
    backup(project, tmp_path / "b")
    tampered(tmp_path / "b", **{"files/runs/x/secret.txt": b"secret"})
    moved = tmp_path / "moved"
    (tmp_path / "b" / part).rename(moved)
    (tmp_path / "b" / part).symlink_to(moved)
    with pytest.raises(DataError, match="is a link"):
        restore(tmp_path / "b", tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": {"store.db": 3}},
        {"files": {"store.db": "ff"}},
        {"files": None},
        {"files": {}},
        {"rows": "many"},
        {"rows": {"prompts": "1"}},
        {"layout": True},
        {"layout": "1"},
        {"made_at": ["x"]},
    ],
)
def test_a_malformed_list_is_refused_with_a_sentence(
    project: Project, tmp_path: Path, change: dict[str, object]
) -> None:
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="Use another"):
        restore(tmp_path / "b", tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b'{"layout": 1e999}', b"{" * 3 + b"}" * 3])
def test_a_list_that_is_no_json_of_ours_is_refused_with_a_sentence(
    project: Project, tmp_path: Path, content: bytes
) -> None:
    backup(project, tmp_path / "b")
    (tmp_path / "b" / "backup.json").write_bytes(content)
    with pytest.raises(DataError, match="Use another"):
        restore(tmp_path / "b", tmp_path / "r")


@pytest.mark.parametrize(
    "name", ["files/.git/hooks/pre-commit", "files/.envrc", "other.txt", "files/a\x00b", "files//a"]
)
def test_names_that_no_backup_has_are_refused(project: Project, tmp_path: Path, name: str) -> None:
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="names a file"):
        restore(tmp_path / "b", tmp_path / "r")


def test_a_name_that_is_a_file_and_a_folder_is_refused(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["files/how.md/inner"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="as a file and as a folder"):
        restore(tmp_path / "b", tmp_path / "r")


def test_triggers_and_views_of_a_backup_stay_behind(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "store.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TRIGGER evil AFTER INSERT ON prompts BEGIN DELETE FROM rankings; END")
        file.execute("CREATE VIEW spy AS SELECT * FROM people")
    tampered(tmp_path / "b", **{"store.db": path.read_bytes()})
    restore(tmp_path / "b", tmp_path / "r")
    with closing(sqlite3.connect(tmp_path / "r" / "prefloop.db")) as file:
        names = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')")}
    assert not names & {"evil", "spy"}
    assert "audit_refuses_update" in names


def test_a_journal_beside_the_store_of_a_backup_is_not_played_back(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    before = (tmp_path / "b" / "store.db").read_bytes()
    for ending in ("-journal", "-wal"):
        (tmp_path / "b" / f"store.db{ending}").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    restore(tmp_path / "b", tmp_path / "r")
    assert (tmp_path / "b" / "store.db").read_bytes() == before
    assert names(tmp_path / "r") == ["how.md", "prefloop.db", "prefloop.toml"]


def test_nobody_else_can_read_a_file_of_a_backup_or_of_what_was_restored(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b", runs=True)
    restore(tmp_path / "b", tmp_path / "r")
    open_to_others = [
        path for folder in ("b", "r") for path in (tmp_path / folder).rglob("*") if path.stat().st_mode & 0o077
    ]
    assert [path for path in open_to_others if path.is_file()] == []
    assert (tmp_path / "r").stat().st_mode & 0o077 == 0


def test_a_failed_copy_leaves_no_folder(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.stages.backup import backup as module

    def lossy(store: object, to: Path) -> dict[str, int]:
        to.write_bytes(b"half")
        raise StoreError("the disk is full")

    monkeypatch.setattr(module, "dump", lossy)
    with pytest.raises(PrefloopError, match="full"):
        backup(project, tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["p"]


def test_a_backup_by_an_older_prefloop_is_brought_up_to_date_and_stays_as_it_is(
    project: Project, tmp_path: Path
) -> None:
    """The store of a backup made before there were people has fewer tables."""
    backup(project, tmp_path / "b")
    path, listed = tmp_path / "b" / "store.db", tmp_path / "b" / "backup.json"
    manifest = json.loads(listed.read_text())
    old = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        settings = alembic_config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    engine.dispose()
    with closing(sqlite3.connect(old)) as file, file:
        file.execute("ATTACH ? AS new", (str(path),))
        tables = [
            n for (n,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '[a-z]*'")
        ]
        manifest["rows"] = {}
        for name in sorted(set(tables) - {"alembic_version", "sqlite_sequence"}):
            columns = ", ".join(f'"{row[1]}"' for row in file.execute(f'PRAGMA table_info("{name}")'))
            file.execute(f'INSERT INTO "{name}" ({columns}) SELECT {columns} FROM new."{name}"')
            manifest["rows"][name] = file.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
        file.execute("CREATE TABLE dropped_since (x)")
        manifest["rows"]["dropped_since"] = 0
    shutil.copyfile(old, path)
    manifest["files"]["store.db"] = hashlib.sha256(path.read_bytes()).hexdigest()
    listed.write_text(json.dumps(manifest))
    before = path.read_bytes()
    assert restore(tmp_path / "b", tmp_path / "r").rows["people"] == 0
    assert path.read_bytes() == before
    with Project.open(tmp_path / "r", quiet=True) as again:
        assert list(again.store.items()) == list(project.store.items())
    assert names(tmp_path / "r") == ["how.md", "prefloop.db", "prefloop.toml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '[project]\nstore = "s"\n'),
        ("# c\n[project] # p\nseed = 1\n[data]\n", '# c\n[project] # p\nseed = 1\nstore = "s"\n[data]\n'),
        ('[project]\nstore = "old" # why\nseed = 1\n', '[project]\nstore = "s" # why\nseed = 1\n'),
        ('[data]\nx = 1\n\n[project]\n# store = "old"\n', '[data]\nx = 1\n\n[project]\n# store = "old"\nstore = "s"\n'),
        ('project.name = "[data]"  # dotted\n', 'project.name = "[data]"  # dotted\nproject.store = "s"\n'),
        ('[project]\nname = """\nstore = 1\n"""\n', '[project]\nname = """\nstore = 1\n"""\nstore = "s"\n'),
    ],
)
def test_one_setting_changes_and_the_rest_of_the_file_stays(text: str, expected: str) -> None:
    assert with_overrides(text, ["project.store=s"]) == expected


@pytest.mark.parametrize("key", ['project]\nstore = "sqlite:///', 'annotate]\nguidelines = "'])
def test_a_setting_with_a_nul_is_refused_with_a_sentence(project: Project, tmp_path: Path, key: str) -> None:
    backup(project, tmp_path / "b")
    tampered(tmp_path / "b", **{"files/prefloop.toml": f'[{key}a\\u0000b"'.encode()})
    with pytest.raises(ConfigError, match="NUL"):
        restore(tmp_path / "b", tmp_path / "r")


@pytest.mark.parametrize("name", ["files/" + "a" * 300, "files/" + "a/" * 3000 + "b"])
def test_a_name_that_no_disk_can_hold_is_refused_with_a_sentence(project: Project, tmp_path: Path, name: str) -> None:
    backup(project, tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="cannot be copied"):
        restore(tmp_path / "b", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_file_larger_than_the_disk_is_not_copied(project: Project, tmp_path: Path) -> None:
    backup(project, tmp_path / "b")
    tampered(tmp_path / "b", **{"files/guidelines.md": b""})
    with (tmp_path / "b" / "files" / "guidelines.md").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).total + 1)  # The file is sparse: it takes no room where it lies.
    with pytest.raises(DataError, match="larger than what is free"):
        restore(tmp_path / "b", tmp_path / "r")
