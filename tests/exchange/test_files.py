"""Compression, arrays and Parquet give the same records in every wrapping; errors of a file say what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.exchange import FORMATS, RowError, read, sniff
from prefloop.exchange.files.cut import elements_of
from prefloop.types import Item, Prompt

ROWS = [{"prompt": f'p{i} "quoted" [x] {{y}}, \\ é \U0001f600\n', "n": [i, {"a": None}]} for i in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
EXPECTED = [Prompt(str(row["prompt"])) for row in ROWS]

WRAPPINGS = {
    "plain": LINES,
    "gzip": gzip.compress(LINES),
    "two gzip members": gzip.compress(LINES[:100]) + gzip.compress(LINES[100:]),
    "xz": lzma.compress(LINES),
    "bzip2": bz2.compress(LINES),
    "byte order mark": b"\xef\xbb\xbf" + LINES,
    "CRLF": LINES.replace(b"\n", b"\r\n"),
    "blank lines": b"\n \n" + LINES.replace(b"\n", b"\n\n"),
    "no last newline": LINES.rstrip(),
    "array": json.dumps(ROWS).encode(),
    "indented array": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "array with a mark": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "gzipped array": gzip.compress(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_wrapping_changes_nothing_and_neither_does_the_name(tmp_path: Path, wrapping: str) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(WRAPPINGS[wrapping])
    found = list(read(path))
    assert found == EXPECTED
    assert [p.metadata for p in found if isinstance(p, Prompt)] == [{"n": row["n"]} for row in ROWS]


def test_parquet_says_what_json_says_and_its_nulls_are_missing_fields(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    chat = [{"role": "user", "content": "hi"}]
    rows = [
        {
            "chosen": [*chat, {"role": "assistant", "content": c}],
            "rejected": [*chat, {"role": "assistant", "content": "r"}],
        }
        for c in ("a", "b")
    ]
    pq.write_table(
        pa.Table.from_pylist([{"prompt": "hi", "extra": None, **rows[0]}, {"prompt": None, **rows[1]}]), path
    )
    found = list(read(path))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found == list(read(tmp_path / "data.jsonl"))
    assert all(not isinstance(row, RowError) for row in found)


def test_truncated_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cut short"):
        read(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("array", [False, True])
def test_a_truncated_archive_keeps_what_came_before(tmp_path: Path, pack: object, array: bool) -> None:
    import random

    noise = random.Random(0)
    rows = [{"prompt": "".join(noise.choices("abcdefghijklmnop", k=400))} for _ in range(3000)]
    content = json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows)
    packed = pack(content.encode())  # type: ignore[operator]
    path = tmp_path / "data"
    path.write_bytes(packed[: len(packed) * 9 // 10])
    *before, last = read(path)
    assert isinstance(last, RowError)
    assert "cut off or damaged" in last.reason
    assert len(before) > 100
    assert before == [Prompt(row["prompt"]) for row in rows[: len(before)]]


def test_a_damaged_checksum_is_reported_after_the_rows(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[-6] ^= 255
    path = tmp_path / "data.gz"
    path.write_bytes(packed)
    *before, last = read(path)
    assert before == EXPECTED
    assert isinstance(last, RowError) and last.line == 51


def test_an_array_loses_only_its_bad_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n{"prompt": "a"},\nnonsense,\n{"prompt": "b", },\n\n 3,\n{"prompt": "c"}\n]\n')
    found = list(read(path))
    assert [row for row in found if isinstance(row, Prompt)] == [Prompt("a"), Prompt("b"), Prompt("c")][::2]
    assert [row.line for row in found if isinstance(row, RowError)] == [3, 4, 6]


@pytest.mark.parametrize("end", ["", ', {"prom', ",", '] {"prompt": "late"}'])
def test_an_array_that_does_not_end_well_says_so_after_its_rows(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"prompt": "a"}, {"prompt": "b"}' + end)
    first, second, *errors = read(path)
    assert [first, second] == [Prompt("a"), Prompt("b")]
    assert errors and all(isinstance(error, RowError) for error in errors)


def test_lines_of_which_the_first_is_an_array_are_still_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[1, 2]\n{"prompt": "a"}\n')
    error, prompt = read(path)
    assert isinstance(error, RowError) and error.reason == "not a JSON object"
    assert prompt == Prompt("a")


@given(
    st.lists(
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=8)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=8,
    ),
    st.integers(1, 12),
    st.sampled_from([None, 1]),
)
def test_an_array_is_cut_alike_whatever_the_chunks(values: list[object], chunk: int, indent: int | None) -> None:
    import io

    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(chunk)

    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    found = list(elements_of(Slow(content), 10**6))
    assert [json.loads(raw) for _, raw in found if isinstance(raw, bytes)] == values


@pytest.mark.parametrize("array", [False, True])
def test_a_very_long_line_is_never_in_memory(tmp_path: Path, array: bool) -> None:
    path = tmp_path / "long"
    long = b'{"prompt": "' + b"x" * 30_000_000 + b'"}'
    rows = [b'{"prompt": "a"}', long, b'{"prompt": "b"}']
    path.write_bytes(b"[" + b",\n".join(rows) + b"]" if array else b"\n".join(rows))
    tracemalloc.start()
    first, error, last = read(path, max_line_bytes=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first, last) == (Prompt("a"), Prompt("b"))
    assert isinstance(error, RowError) and error.line == 2 and "longer than 100,000 bytes" in error.reason
    assert peak < 3_000_000


def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    blank = tmp_path / "blank"
    blank.write_bytes(b"\xef\xbb\xbf\n\n")
    nothing = tmp_path / "nothing.json"
    nothing.write_text("[]")
    for path, message in [
        (tmp_path / "missing.jsonl", "does not exist"),
        (tmp_path, "is a folder"),
        (empty, "is empty"),
        (blank, "holds no records"),
        (nothing, "holds no records"),
        (Path("/dev/null"), "not a regular file"),
        (Path("nul\0"), "cannot read|does not exist"),
    ]:
        for format in (None, "pairs"):
            with pytest.raises(DataError, match=message):
                read(path, format)


def test_an_unknown_format_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(LINES)
    with pytest.raises(DataError, match="Did you mean 'rankings'"):
        read(path, "ranking")


START = st.sampled_from(
    [b"", b"[", b"{", b"PAR1", b"\x1f\x8b\x08\x00", b"\xfd7zXZ\x00", b"BZh9", b"\xef\xbb\xbf", b"\xff\xfe"]
)
PIECES = st.sampled_from(
    [
        b'{"prompt":',
        b'"a"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b'"',
        b"\\",
        b"\n",
        b'"completions":',
        b":",
        b"\\ud800",
        b"\x00",
    ]
)
BYTES = st.tuples(START, st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=40).map(b"".join))).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(BYTES, st.sampled_from([None, *FORMATS]))
def test_arbitrary_bytes_raise_nothing_but_data_errors(tmp_path_factory, content: bytes, format: str | None) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(content)
    try:
        for row in read(path, format, max_line_bytes=200):
            if isinstance(row, RowError):
                assert (row.text + row.reason).isprintable()
    except DataError as error:
        assert str(path) in str(error)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["gzip", "xz", "parquet"]))
def test_damaged_archives_raise_nothing_but_data_errors(tmp_path_factory, data: st.DataObject, kind: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "damaged"
    if kind == "parquet":
        pq.write_table(pa.table({"prompt": [f"p{i}" for i in range(20)], "n": list(range(20))}), path)
        content = bytearray(path.read_bytes())
    else:
        content = bytearray(gzip.compress(LINES) if kind == "gzip" else lzma.compress(LINES))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(8, len(content)))])
    with suppress(DataError):
        list(read(path))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = re.findall(
    r"\w+",
    "id prompt system completions rankings prefloop chosen rejected score_chosen score_rejected margin completion label"
    " kto_tag messages conversations instruction input output history message_tree_id responses ranks response"
    " helpfulness context response1 response2 overall_preference answers annotator criterion tiers text role content"
    " from value rank replies deleted model annotations overall_score metadata ratings shown token_ids logprobs",
)
SHAPED = st.recursive(
    JSON,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6) | st.just("c0")
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), SHAPED, min_size=1, max_size=8), st.sampled_from([None, *FORMATS]))
def test_odd_objects_raise_nothing_but_data_errors(tmp_path_factory, record: object, format: str | None) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "odd"
    path.write_text(json.dumps(record) + "\n" + json.dumps(record))
    try:
        list(read(path, format))
    except DataError as error:
        assert format is None or "does not read" in str(error)


def test_sniffing_reads_only_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' * 60 + b'{"chosen": 1, "rejected": 2}\n' * 600)
    assert sniff(path) == "prompts"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(30), "zip"), (b"(\xb5/\xfd" + bytes(9), "zstd"), (b"ARROW1" + bytes(9), "Arrow"),
        ('{"prompt": "p"}'.encode("utf-16"), "UTF-16"), (bytes(257) + b"ustar" + bytes(250), "tar"),
        (gzip.compress(b"a.jsonl" + bytes(250) + b"ustar" + bytes(250)), "tar"),
        (b"\x80\x04\x95" + bytes(9), "pickle"), (b"version https://git-lfs", "git lfs pull"),
    ],
    ids=["zip", "zstd", "Arrow", "UTF-16", "tar", "tar.gz", "pickle", "git lfs"],
)  # fmt: skip
def test_what_people_take_for_data_is_called_by_its_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "a")


def test_a_record_of_thousands_of_fields_costs_its_row(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(pair | {f"k{i}": i for i in range(5_000)}) + "\n" + json.dumps(pair) + "\n")
    error, item = read(path)
    assert isinstance(error, RowError) and "5,000 fields" in error.reason and isinstance(item, Item)
