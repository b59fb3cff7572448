"""Every public file reads with the right counts, and says the same however it was published."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from prefloop.errors import DataError
from prefloop.exchange import RowError, read, sniff, write_demonstrations, write_prompts, write_rankings
from prefloop.types import Demonstration, Item, Prompt

# (file, format, what its rows become); an answer without a word is an error, and the real files hold seven of them
FILES = [
    ("e2e_nlg/demonstrations.jsonl.gz", "demonstrations", {Demonstration: 4672}),
    ("e2e_nlg/prompts_train.jsonl.gz", "prompts", {Prompt: 516}),
    ("e2e_nlg/rankings_train.jsonl.gz", "rankings", {Item: 2322}),
    ("ukpconvarg1/rankings_train.jsonl.gz", "rankings", {Item: 6000}),
    ("hh_rlhf/helpful_pairs.jsonl.gz", "pairs", {Item: 1884, RowError: 4}),
    ("hh_rlhf/harmless_pairs.jsonl.gz", "pairs", {Item: 1861, RowError: 1}),
    ("hh_rlhf/helpful_raw_transcripts.jsonl.gz", "hh-rlhf", {Item: 1884, RowError: 4}),
    ("hh_rlhf/harmless_raw_transcripts.jsonl.gz", "hh-rlhf", {Item: 1861, RowError: 1}),
    ("oasst/trees.jsonl.gz", "oasst", {Item: 172}),
    ("oasst/ranked_replies.jsonl.gz", "ranked-replies", {Item: 182}),
    ("ultrafeedback_binarized/pairs.jsonl.gz", "pairs", {Item: 994, RowError: 2}),
    ("llamafactory_demo/dpo_en_demo.json", "pairs", {Item: 300}),
    ("llamafactory_demo/kto_en_demo.json", "kto", {Item: 300}),
]


@pytest.mark.parametrize(("name", "format", "counts"), FILES)
def test_a_public_file_is_recognised_and_no_row_is_lost(
    shared_data: Path, name: str, format: str, counts: dict[type, int]
) -> None:
    path = shared_data / name
    assert sniff(path) == format
    found = list(read(path))
    assert Counter(type(row) for row in found) == counts
    assert {row.reason for row in found if isinstance(row, RowError)} <= {"chosen is empty", "rejected is empty"}


@pytest.mark.parametrize("name", ["sentiment/sentence_polarity.jsonl.gz", "stories/stories_lower_merged_val.txt.xz"])
def test_a_file_without_prompts_is_refused_with_the_list_of_formats(shared_data: Path, name: str) -> None:
    with pytest.raises(DataError, match="(?s)cannot tell what.*hh-rlhf.*demonstrations"):
        read(shared_data / name)


@pytest.mark.parametrize("kind", ["helpful", "harmless"])
def test_raw_transcripts_say_exactly_what_the_split_pairs_say(shared_data: Path, kind: str) -> None:
    split = list(read(shared_data / f"hh_rlhf/{kind}_pairs.jsonl.gz"))
    raw = list(read(shared_data / f"hh_rlhf/{kind}_raw_transcripts.jsonl.gz"))
    assert [row for row in raw if isinstance(row, Item)] == [row for row in split if isinstance(row, Item)]
    assert [r.line for r in raw if isinstance(r, RowError)] == [r.line for r in split if isinstance(r, RowError)]


def test_replies_in_both_exports_of_open_assistant_become_equal_lists(shared_data: Path) -> None:
    def said(item: Item) -> tuple[object, ...]:
        texts = {c.id: c.text for c in item.completions}
        return item.prompt.content, tuple(tuple(texts[i] for i in tier) for r in item.rankings for tier in r.tiers)

    trees = {said(i) for i in read(shared_data / "oasst/trees.jsonl.gz") if isinstance(i, Item)}
    flat = {said(i) for i in read(shared_data / "oasst/ranked_replies.jsonl.gz") if isinstance(i, Item)}
    assert len(trees & flat) == 151  # The two files are different samples of one dump.


def test_equal_judge_scores_are_ties(shared_data: Path) -> None:
    items = [i for i in read(shared_data / "ultrafeedback_binarized/pairs.jsonl.gz") if isinstance(i, Item)]
    assert sum(len(i.rankings[0].tiers) == 1 for i in items) == 110


def test_every_vote_of_every_worker_is_kept(shared_data: Path) -> None:
    for name, votes in [("e2e_nlg", 5934), ("ukpconvarg1", 29932)]:
        items = [i for i in read(shared_data / name / "rankings_train.jsonl.gz") if isinstance(i, Item)]
        ids = {r.id for i in items for r in i.rankings}
        assert sum(len(i.rankings) for i in items) == votes == len(ids)
        assert len({i.id for i in items}) == len(items)


def test_repeated_demonstrations_keep_their_number(shared_data: Path) -> None:
    found = [d for d in read(shared_data / "e2e_nlg/demonstrations.jsonl.gz") if isinstance(d, Demonstration)]
    assert len({d.id for d in found}) == len(found) == 4672


@pytest.mark.parametrize("name", [name for name, _, counts in FILES if Item in counts])
def test_real_items_survive_being_written_and_read(shared_data: Path, tmp_path: Path, name: str) -> None:
    items = [row for row in read(shared_data / name) if isinstance(row, Item)]
    path = tmp_path / "again.jsonl.gz"
    assert write_rankings(items, path).rows == len(items)
    again = list(read(path, "rankings"))
    assert again == items
    some = slice(0, None, 10)  # Equality leaves metadata out, and asdict is slow.
    kept, was = ([asdict(replace(item, row=None)) for item in found[some]] for found in (again, items))
    assert kept == was


def test_real_prompts_and_demonstrations_survive_being_written_and_read(shared_data: Path, tmp_path: Path) -> None:
    prompts = list(read(shared_data / "e2e_nlg/prompts_train.jsonl.gz"))
    demonstrations = list(read(shared_data / "e2e_nlg/demonstrations.jsonl.gz"))
    assert write_prompts(prompts, tmp_path / "p.jsonl").rows == 516
    assert write_demonstrations(demonstrations, tmp_path / "d.jsonl.xz").rows == 4672
    assert list(read(tmp_path / "p.jsonl")) == prompts
    assert list(read(tmp_path / "d.jsonl.xz")) == demonstrations
