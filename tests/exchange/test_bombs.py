"""Small files that stand for gigabytes end soon, in little memory; what is counted is work, never seconds."""

from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefloop.errors import DataError
from prefloop.exchange import RowError, read
from prefloop.exchange.files import cut, source
from prefloop.types import Demonstration, Prompt

REPEATED = {
    "brackets": b"[",
    "braces": b"{",
    "closing": b"]",
    "commas": b",",
    "newlines": b"\n",
    "blanks": b" \r\n",
    "pairs of brackets": b"[],",
    "objects": b"{},",
    "lines of objects": b"{}\n",
    "quotes": b'"',
    "quoted lines": b'"\n',
}


@pytest.mark.parametrize(
    "start", [b"", b"[", b'[{"prompt": "p"},', b'{"prompt": "p"}\n'], ids=["", "array", "row", "line"]
)
@pytest.mark.parametrize("name", REPEATED)
def test_an_archive_of_one_thing_ends_after_bounded_work(
    tmp_path: Path, name: str, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, limit = 8_000_000, 10_000
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(start + REPEATED[name] * (size // len(REPEATED[name])), 1))
    monkeypatch.setattr(cut, "longest", lambda limit: 1_000_000)
    monkeypatch.setattr(cut, "MANY_BLANK", 50_000)
    monkeypatch.setattr(source, "MANY_BAD", 5_000)
    taken = 0

    def counted(stream: gzip.GzipFile, *args: int) -> bytes:
        nonlocal taken
        found = plain(stream, *args)
        taken += len(found)
        return found

    plain = gzip.GzipFile.read1
    monkeypatch.setattr(gzip.GzipFile, "read1", counted)
    found = list(read(path, "prompts", max_line_bytes=limit))
    *_, last = found
    assert isinstance(last, RowError) and ("nothing after" in last.reason or "end of the array" in last.reason)
    assert len(found) <= source.MANY_BAD + 2
    assert [row for row in found if not isinstance(row, RowError)] == ([Prompt("p")] if b"p" in start else [])
    assert taken < 1_500_000 < size // 4


def test_without_a_format_such_an_archive_is_refused_at_once(tmp_path: Path) -> None:
    for start in (b"[", b",", b"\n"):
        path = tmp_path / "bomb.gz"
        path.write_bytes(gzip.compress(start * 3_000_000))
        with pytest.raises(DataError, match="nothing after|cannot tell"):
            list(read(path, max_line_bytes=10_000))


def test_a_long_element_still_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    deep = "[" * 5000 + "]" * 5000
    path.write_text(f'[{{"prompt": "a"}}, {{"x": {deep}}}, {{"prompt": "b"}}]')
    first, error, last = read(path)
    assert (first, last) == (Prompt("a"), Prompt("b")) and isinstance(error, RowError)


MEMORY = 400_000_000  # This is the address space beyond what the program itself takes.
LIMITED = """
import resource, sys
import pyarrow.compute, pyarrow.parquet
from pathlib import Path
from prefloop.exchange import RowError, read
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {memory}, taken + {memory}))
for path in sys.argv[1:]:
    print([row.reason if isinstance(row, RowError) else row.content for row in read(Path(path), "prompts")])
"""


def repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), [text])


def bombs() -> dict[str, tuple[pa.Table, list[str]]]:
    """Return tables, and what is read of each; every one would take far more than `MEMORY` if it were unpacked as it
    is.
    """
    many = pa.ListArray.from_arrays([0, 1_000_000, 1_000_001], repeated("y" * 100_000, 1_000_001))
    nulls = pa.ListArray.from_arrays([0, 32_100_000], pa.nulls(32_100_000, pa.int8()))
    return {
        "one text two hundred times": (
            pa.table({"prompt": [f"p{i}" for i in range(200)], "n": repeated("x" * 3_000_000, 200)}),
            [f"p{i}" for i in range(200)],
        ),
        "one long page": (pa.table({"prompt": ["x" * 90_000_000]}), ["column 'prompt' has 90"]),
        "a list of references": (pa.table({"prompt": ["a", "b"], "n": many}), ["longer than 8,000,000 bytes", "b"]),
        "a million equal rows": (pa.table({"prompt": repeated("a", 1_000_000)}), ["1,000,000 rows stand in"]),
        "a list of nulls": (pa.table({"prompt": ["a"], "n": nulls}), ["column 'n.list.element' has 32,100,000 values"]),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_parquet_that_stands_for_gigabytes_is_read_in_little_memory(tmp_path: Path) -> None:
    made = bombs()
    for place, (table, _) in enumerate(made.values()):
        path = tmp_path / f"{place}.parquet"
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=10**7, store_schema=False)
        assert path.stat().st_size < 20_000
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", LIMITED.format(memory=MEMORY), *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    for (name, (_, expected)), line in zip(made.items(), done.stdout.splitlines(), strict=True):
        said = ast.literal_eval(line)
        assert len(said) == len(expected) and all(map(str.startswith, said, expected)), name


def test_parquet_obeys_the_length_of_a_line_like_json(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a" * size, "completion": "b", "turns": [{"k": "c" * 10}] * 3} for size in (100, 1900, 2500, 100)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.parquet", "a.jsonl"):
        found = list(read(tmp_path / name, max_line_bytes=2200))
        assert [type(row) for row in found] == [Demonstration, Demonstration, RowError, Demonstration], name
        assert isinstance(found[2], RowError) and found[2].reason == "longer than 2,200 bytes" and found[2].line == 3


def test_a_damaged_end_of_a_parquet_file_does_not_end_the_process(tmp_path: Path) -> None:
    """Statistics that do not fit make pyarrow call std::terminate when it is asked about a column."""
    turns = [[{"role": "user", "content": "p"}, {"role": "assistant", "content": text}] for text in ("yes", "no")]
    pq.write_table(pa.Table.from_pylist([{"chosen": turns[0], "rejected": turns[1]}]), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    optional = [at for at in range(start, len(content)) if content[at : at + 3] == b"\x35\x02\x18"]
    assert optional  # These columns may be null; where they may not, fewer levels are counted than there are.
    for at in optional:
        (tmp_path / f"{at}.parquet").write_bytes(content[: at + 1] + b"\0" + content[at + 2 :])
    script = """
import sys
from prefloop.exchange import check
from prefloop.errors import DataError
from pathlib import Path
for path in Path(sys.argv[1]).glob("*.parquet"):
    try:
        check(path)
    except DataError:
        pass
"""
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == 0
