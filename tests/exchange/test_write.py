"""What is written reads back equal, and trainers get the rows that the rankings imply."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.exchange import read, write_demonstrations, write_kto, write_pairs, write_prompts, write_rankings
from prefloop.exchange.turns import ROLES, SPEAKERS
from prefloop.types import Completion, Demonstration, Item, Message, Prompt, Ranking, digest

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
WORDS = TEXT.filter(lambda text: bool(text.strip()))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), FINITE, TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
METADATA = st.dictionaries(TEXT, JSON, max_size=3)
MAYBE = st.none() | TEXT


# Other names of a role are read as the role's own.
ROLE = WORDS.filter(lambda role: role in SPEAKERS or role.casefold() not in SPEAKERS | ROLES.keys())


@st.composite
def prompts(draw: Any) -> Prompt:
    content = draw(WORDS | st.lists(st.builds(Message, ROLE, WORDS), min_size=1, max_size=3).map(tuple))
    split = draw(st.sampled_from([None, "train", "heldout"]))
    return Prompt(content, draw(MAYBE), draw(METADATA), split, draw(st.sampled_from(["", "own"])))


@st.composite
def items(draw: Any) -> Item:
    prompt, external_id = draw(prompts()), draw(st.none() | WORDS)
    texts = draw(st.lists(WORDS, min_size=2, max_size=4))
    item_id = digest("item", prompt.id, external_id, texts)
    ours = draw(st.booleans())  # In an item that we sampled, the id is not derived as an imported one's is.
    item_id = digest("sampled", item_id) if ours else item_id
    names = draw(st.lists(WORDS, min_size=len(texts), max_size=len(texts), unique=True))
    completions = tuple(draw(completion(f"{item_id}:{n}", t)) for n, t in zip(names, texts, strict=True))
    rankings = tuple(draw(ranking(item_id, [c.id for c in completions], i)) for i in range(draw(st.integers(0, 3))))
    return Item(
        item_id,
        prompt,
        completions,
        rankings,
        external_id,
        draw(st.integers(0, 3)),
        draw(st.sampled_from(["import", "sample"])),
        draw(METADATA),
    )


@st.composite
def completion(draw: Any, id: str, text: str) -> Completion:
    tokens = draw(st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple))
    count = len(tokens) if tokens is not None else 2
    return Completion(
        id,
        text,
        draw(MAYBE),
        draw(MAYBE),
        tokens,
        draw(st.none() | st.lists(FINITE, min_size=count, max_size=count).map(tuple)),
        draw(st.sampled_from([None, "stop", "length"])),
        draw(st.none() | METADATA),
        draw(MAYBE),
        draw(METADATA),
    )


@st.composite
def ranking(draw: Any, item_id: str, ids: list[str], place: int) -> Ranking:
    order = draw(st.permutations(ids))
    cuts = sorted(draw(st.sets(st.integers(1, len(ids)))))
    tiers = tuple(tuple(order[a:b]) for a, b in zip([0, *cuts], cuts, strict=False))
    some = st.lists(st.sampled_from(ids), unique=True).map(tuple)
    return Ranking(
        item_id,
        draw(WORDS),
        draw(WORDS),
        tiers,
        draw(some),
        draw(st.booleans()),
        draw(st.dictionaries(st.sampled_from(ids), st.dictionaries(TEXT, FINITE, max_size=2), max_size=2)),
        draw(MAYBE),
        tuple(draw(st.lists(WORDS, max_size=2))),
        draw(some),
        draw(st.none() | st.floats(0, 1e9)),
        draw(MAYBE),
        draw(MAYBE),
        draw(st.booleans()),
        draw(METADATA),
        draw(st.sampled_from([place, place + 5])),
        draw(st.sampled_from(["", "own"])),
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(items(), min_size=1, max_size=3), st.sampled_from(["i.jsonl", "i.jsonl.gz", "i.jsonl.xz", "i.parquet"]))
def test_items_survive_being_written_and_read(tmp_path_factory, wanted: list[Item], name: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / name
    assert write_rankings(wanted, path).rows == len(wanted)
    found = list(read(path, "rankings"))
    assert found == wanted
    assert [said(item) for item in found if isinstance(item, Item)] == [said(item) for item in wanted]
    before = path.read_bytes()
    write_rankings(found, path)  # type: ignore[arg-type]
    assert path.read_bytes() == before


@settings(deadline=None)
@given(st.lists(st.tuples(prompts(), WORDS, METADATA), min_size=1, max_size=3))
def test_prompts_and_demonstrations_survive_being_written_and_read(tmp_path_factory, wanted) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "p.jsonl"
    plain = [Prompt(p.content, p.system, p.metadata) for p, _, _ in wanted]
    assert write_prompts(plain, path).rows == len(wanted)
    # Metadata may be called "rating", which an import only takes for metadata when it is told so.
    told = [f"metadata.{name}" for p, _, metadata in wanted for name in (*p.metadata, *metadata)]
    found = list(read(path, "prompts", ignore=told))
    assert found == plain
    assert [p.metadata for p in found if isinstance(p, Prompt)] == [p.metadata for p in plain]
    shown = [Demonstration(Prompt(p.content, p.system), text, metadata) for p, text, metadata in wanted]
    shown = list({d.id: d for d in shown}.values())
    write_demonstrations(shown, path)
    again = read(path, "demonstrations", ignore=told)
    assert [said(d) for d in again if isinstance(d, Demonstration)] == [said(d) for d in shown]


def said(record: Item | Demonstration) -> dict[str, Any]:
    """Return all of a record but the row it was read from."""
    return {name: value for name, value in asdict(record).items() if name != "row"}


def item(*tiers: tuple[str, ...], prompt: Prompt | None = None, **more: Any) -> Item:
    names = sorted(name for tier in tiers for name in tier)
    completions = tuple(Completion(f"i:{name}", name.upper()) for name in names)
    ranked = Ranking("i", "w", "quality", tuple(tuple(f"i:{n}" for n in tier) for tier in tiers), **more)
    return Item("i", prompt or Prompt("p"), completions, (ranked,))


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pairs(rows: Iterable[dict[str, Any]]) -> set[tuple[str, str, float]]:
    return {(row["chosen"], row["rejected"], row["margin"]) for row in rows}


def test_pairs_cross_tiers_with_their_distance_as_margin_and_ties_make_none(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    listed = item(("b",), ("a", "c"), ("d",))
    assert write_pairs([listed], path).rows == 5
    rows = written(path)
    assert pairs(rows) == {("B", "A", 1), ("B", "C", 1), ("B", "D", 2), ("A", "D", 1), ("C", "D", 1)}
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert {(row["prompt"], row["annotator"], row["criterion"], row["item_id"]) for row in rows} == {
        ("p", "w", "quality", "i")
    }
    write_pairs([listed], path, pairing="adjacent")
    assert pairs(written(path)) == {("B", "A", 1), ("B", "C", 1), ("A", "D", 1), ("C", "D", 1)}
    write_pairs([listed], path, pairing="extremes")
    assert pairs(written(path)) == {("B", "D", 2)}
    assert write_pairs([item(("a", "b"))], path).rows == 0
    with pytest.raises(DataError, match="no pairing 'best'"):
        write_pairs([listed], path, pairing="best")


def test_a_superseded_ranking_makes_no_rows(tmp_path: Path) -> None:
    old = item(("a",), ("b",))
    new = replace(old.rankings[0], tiers=(("i:b",), ("i:a",)), supersedes=old.rankings[0].id, id="")
    path = tmp_path / "p.jsonl"
    write_pairs([replace(old, rankings=(*old.rankings, new))], path)
    assert pairs(written(path)) == {("B", "A", 1)}


def test_chats_and_system_prompts_are_written_as_messages(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    user, system = {"role": "user", "content": "p"}, {"role": "system", "content": "s"}
    for prompt, expected in [
        (Prompt((Message("user", "p"),)), [user]),
        (Prompt("p", "s"), [system, user]),
        (Prompt((Message("user", "p"),), "s"), [system, user]),
    ]:
        write_pairs([item(("a",), ("b",), prompt=prompt)], path)
        (row,) = written(path)
        assert row["prompt"] == expected
        assert row["chosen"] == [{"role": "assistant", "content": "A"}]
        (found,) = read(path)
        assert isinstance(found, Item) and [c.text for c in found.completions] == ["A", "B"]


def test_written_pairs_read_back_with_their_annotator(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_pairs([item(("a",), ("b",), simulated=True)], path)
    (found,) = read(path)
    assert isinstance(found, Item)
    assert (found.rankings[0].annotator, found.rankings[0].criterion) == ("w", "quality")
    assert found.rankings[0].simulated


def labelled(path: Path) -> dict[str, bool]:
    return {row["completion"]: row["label"] for row in written(path)}


def test_single_judgements_follow_the_marks_and_else_the_first_and_last_tier(tmp_path: Path) -> None:
    path = tmp_path / "k.jsonl"
    write_kto([item(("a",), ("b",), ("c",))], path)
    assert labelled(path) == {"A": True, "C": False}
    write_kto([item(("a",), ("b",), ("c",), unacceptable=("i:c",))], path)
    assert labelled(path) == {"A": True, "B": True, "C": False}
    write_kto([item(("a",), ("b",), none_acceptable=True)], path)
    assert labelled(path) == {"A": False, "B": False}
    assert write_kto([item(("a", "b"))], path).rows == 0


def test_single_judgements_survive_being_written_and_read(tmp_path: Path) -> None:
    path, again = tmp_path / "k.jsonl", tmp_path / "k2.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", "completion": c, "label": c == "a"}) + "\n" for c in "ab"))
    found = [row for row in read(path) if isinstance(row, Item)]
    write_kto(found, again)
    assert labelled(again) == {"a": True, "b": False}
    write_rankings(found, again)
    assert list(read(again)) == found


def test_a_failed_export_leaves_the_old_file_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text("old")
    good = item(("a",), ("b",))
    for bad in (
        replace(good, metadata={"x": float("nan")}),
        replace(good, metadata={"x": object()}),
        replace(good, completions=good.completions[:1]),
    ):
        with pytest.raises(DataError):
            write_rankings([good, bad], path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "must be a file"),
        (tmp_path / "missing" / "i.jsonl", "Make the folder first"),
        (tmp_path / "i.parquet.gz", "Name it .parquet"),
    ]:
        with pytest.raises(DataError, match=message):
            write_rankings([], path)


def test_an_empty_sample_of_our_own_is_no_error_but_somebody_elses_is(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    silent = Item("0" * 16, Prompt("p"), (Completion("0" * 16 + ":c0", ""),), source="sample")
    write_rankings([silent], path)
    assert list(read(path, "rankings")) == [silent]


def test_a_compressed_export_holds_no_time_and_no_name(tmp_path: Path) -> None:
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        write_rankings([item(("a",), ("b",))], tmp_path / name)
    content = (tmp_path / "one.jsonl.gz").read_bytes()
    assert content == (tmp_path / "two.jsonl.gz").read_bytes()
    assert content[4:8] == bytes(4)  # This is the time in a gzip header.
