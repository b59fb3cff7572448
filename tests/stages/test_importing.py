"""Importing says what a file adds and which rows are bad, and a second time changes nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.errors import BusyError, ConfigError, DataError
from prefloop.project.project import Project
from prefloop.stages.importing import import_file, import_files
from prefloop.stages.run import run
from prefloop.store import ProjectLock


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "prefloop.toml").write_text("")
    with Project.open(tmp_path) as opened:
        yield opened


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


PAIR = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}


def test_a_file_of_pairs_becomes_items_with_one_ranking_each(project: Project, tmp_path: Path) -> None:
    result = import_file(project, lines(tmp_path / "a.jsonl", PAIR, PAIR | {"prompt": "Bye"}))
    assert result.files[0].format == "pairs"
    assert {k: getattr(result, k) for k in ("prompts", "items", "completions", "rankings")} == {
        "prompts": 2,
        "items": 2,
        "completions": 4,
        "rankings": 2,
    }
    assert (result.files[0].records, result.rejected, result.reasons) == (2, 0, ())


def test_a_second_import_adds_nothing_and_says_so(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "a.jsonl", PAIR)
    assert not import_file(project, path).skipped
    again = import_file(project, path)
    assert again.skipped and again.rankings == 0
    assert "already imported" in capsys.readouterr().err
    assert project.store.counts()["rankings"] == 1
    assert len(project.store.imports()) == 1


def test_the_same_rows_in_another_file_add_nothing_either(project: Project, tmp_path: Path) -> None:
    import_file(project, lines(tmp_path / "a.jsonl", PAIR))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(PAIR) + "\n")
    again = import_file(project, tmp_path / "b.jsonl.gz")
    assert again.skipped and again.files[0].records == 1


def test_bad_rows_are_named_with_line_and_reason_and_the_others_kept(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [f'{{"prompt": {n}' for n in range(15)]
    result = import_file(project, lines(tmp_path / "a.jsonl", PAIR, *bad))
    assert (result.files[0].records, result.rejected) == (1, 15)
    assert result.reasons[0].startswith("row 2: not JSON")
    said = capsys.readouterr().err
    assert "row 11:" in said and "row 12:" not in said and "and 5 more" in said
    assert project.store.imports()[0].rejected == 15
    assert project.store.imports()[0].reasons[0].startswith("row 2: not JSON")


def test_of_many_bad_rows_all_are_counted_but_few_kept(project: Project, tmp_path: Path) -> None:
    result = import_file(project, lines(tmp_path / "a.jsonl", PAIR, *["{"] * 500))
    assert result.rejected == 500 and len(result.reasons) == 100 and all(result.reasons)


def test_a_file_without_one_usable_row_is_an_error(project: Project, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "Hi", "chosen": 3, "rejected": 4})
    with pytest.raises(DataError, match="none of its 1 rows can be used as pairs.*--as"):
        import_file(project, path)


def test_rejected_rows_are_read_again_once_the_limit_is_raised(project: Project, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", PAIR, PAIR | {"prompt": "long " * 1000})
    with Project.open(project.root, ["data.max_line_bytes=1000"]) as narrow:
        assert import_file(narrow, path).rejected == 1
    assert import_file(project, path).rankings == 1


def test_a_format_said_wins_over_the_one_found(project: Project, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "Hi", "completion": "Hello!", "extra": 1})
    assert import_file(project, path).files[0].format == "demonstrations"
    result = import_file(project, path, "prompts")
    assert result.files[0].format == "prompts" and result.prompts == 0  # It is the same prompt.


def test_several_files_are_reported_one_by_one(project: Project, tmp_path: Path) -> None:
    paths = [lines(tmp_path / "a.jsonl", PAIR), lines(tmp_path / "b.jsonl", {"prompt": "Hm?"})]
    files = import_files(project, paths).files
    assert [f.format for f in files] == ["pairs", "prompts"]
    assert import_files(project, paths).skipped


def test_nothing_is_imported_while_another_process_works(project: Project, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", PAIR)
    with ProjectLock(project.root), pytest.raises(BusyError):
        import_file(project, path)
    assert project.store.counts()["items"] == 0


def test_a_label_that_nobody_reads_stops_a_file_before_its_first_row_is_written(
    project: Project, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(1500)]
    path = lines(tmp_path / "a.jsonl", *rows, {"prompt": "p", "completion": "c", "label": 0})
    with pytest.raises(DataError, match=r"demonstrations does not read 'label' \(row 1,501\)"):
        import_file(project, path)
    assert not any(project.store.counts().values()) and not project.store.imports()
    result = import_file(project, path, ignore=["label"])
    assert (result.demonstrations, result.files[0].ignored) == (1501, ("label",))
    assert [row.format for row in project.store.imports()] == ["demonstrations, ignoring label"]
    assert import_file(project, path, ignore=["label"]).skipped


def test_what_a_file_of_run_holds_that_means_nothing_is_said_in_the_settings(tmp_path: Path) -> None:
    """It is said for that file alone, because another one's labels are labels."""
    plain = {"prompt": "p", "completion": "c"}
    lines(tmp_path / "a.jsonl", plain, plain | {"prompt": "q"}, plain | {"label": 0})
    lines(tmp_path / "b.jsonl", {"prompt": "q", "completion": "c", "label": True})
    toml = tmp_path / "prefloop.toml"
    toml.write_text('[run]\nimports = ["a.jsonl", "b.jsonl"]\nstages = ["report"]\n')
    with Project.open(tmp_path, quiet=True) as project, pytest.raises(DataError, match=r"\[run\] ignore"):
        run(project)
    toml.write_text(toml.read_text() + 'ignore = {"a.jsonl" = ["label"]}\n')
    with Project.open(tmp_path, quiet=True) as project:
        first, second, _ = run(project).stages
        assert (first.files[0].ignored, first.demonstrations) == (("label",), 3)
        assert (second.files[0].ignored, second.files[0].format) == ((), "kto")
        assert [stage.skipped for stage in run(project).stages] == [True, True, True]
    toml.write_text(toml.read_text().replace('{"a.jsonl"', '{"a.json"'))
    with Project.open(tmp_path, quiet=True) as project, pytest.raises(ConfigError, match='Did you mean "a.jsonl"'):
        run(project)
