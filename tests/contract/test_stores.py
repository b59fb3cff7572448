"""One suite runs over every database a store can live in: SQLite always, Postgres where its server is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from prefloop.errors import DataError, StoreError, UnavailableError
from prefloop.store import Counts, ModelRow, Store, split_of
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking, Snapshot

Opener = Callable[[], Store]


# -- records


def item(name: str = "i1", k: int = 3, prompt: Prompt | None = None, **changes: object) -> Item:
    completions = tuple(Completion(f"{name}:c{j}", f"answer {j}") for j in range(k))
    made = Item(name, prompt or Prompt(f"question {name}"), completions, external_id=f"row {name}")
    return replace(made, **changes)  # type: ignore[arg-type]


def ranking(of: Item, *tiers: str, annotator: str = "ann", criterion: str = "quality", **changes: object) -> Ranking:
    """Rank completion 1 first, then 0 and 2 tied: ranking(item, "1", "02")."""
    ids = tuple(tuple(f"{of.id}:c{j}" for j in tier) for tier in tiers)
    return Ranking(of.id, annotator, criterion, ids, **changes)  # type: ignore[arg-type]


# -- adding


def test_adding_twice_adds_nothing_the_second_time(store: Store) -> None:
    one = item()
    records = [Prompt("alone"), Demonstration(Prompt("shown"), "so"), replace(one, rankings=(ranking(one, "0", "12"),))]
    assert store.add(records) == Counts(prompts=3, demonstrations=1, items=1, completions=3, rankings=1)
    before = (store.prompts(), store.demonstrations(), list(store.items()), store.counts())
    assert store.add(records) == Counts()
    assert (store.prompts(), store.demonstrations(), list(store.items()), store.counts()) == before


def test_a_record_listed_twice_in_one_file_is_added_once(store: Store) -> None:
    one = item()
    assert store.add([one, one, one.prompt]) == Counts(prompts=1, items=1, completions=3)


def test_a_known_item_brings_only_its_new_rankings(store: Store) -> None:
    one = item()
    first, second = ranking(one, "0", "1"), ranking(one, "1", "0", annotator="bea")
    store.add([replace(one, rankings=(first,))])
    assert store.add([replace(one, rankings=(first, second))]) == Counts(rankings=1)
    assert store.item("i1").rankings == (first, second)


def test_more_records_than_one_batch_and_one_chunk_come_back_in_order(store: Store) -> None:
    many = [item(f"i{n:04d}", prompt=Prompt(f"q{n % 700}")) for n in range(1400)]
    assert store.add(iter(many)) == Counts(prompts=700, items=1400, completions=4200)
    assert list(store.items()) == many


def test_an_id_that_means_something_else_is_refused_and_changes_nothing(store: Store) -> None:
    one = item()
    store.add([one])
    other = replace(one, completions=(replace(one.completions[0], text="edited"), *one.completions[1:]))
    with pytest.raises(DataError, match="i1.*other completions"):
        store.add([Prompt("new"), other])
    with pytest.raises(DataError, match="already used by another item"):
        store.add([replace(item("i2"), completions=one.completions)])
    with pytest.raises(DataError, match="i3 and i4"):
        store.add([item("i3"), replace(item("i4"), completions=item("i3").completions)])
    assert list(store.items()) == [one] and store.counts()["prompts"] == 1


def test_a_round_given_to_add_is_for_items_that_state_none(store: Store) -> None:
    store.add([item("i1"), item("i2", round=5)], round=2)
    assert [found.round for found in store.items()] == [2, 5]
    assert [found.id for found in store.items(round=5)] == ["i2"]
    assert (store.latest_round(item("i1").source), store.latest_round("nowhere")) == (5, 0)


# -- rankings


def test_only_the_last_ranking_of_a_chain_of_edits_counts(store: Store) -> None:
    one = item()
    first = ranking(one, "0", "1", "2")
    second = ranking(one, "1", "0", "2", supersedes=first.id)
    third = ranking(one, "2", "1", "0", supersedes=second.id)
    other = ranking(one, "01", "2", annotator="bea")
    store.add([one])
    assert store.add_rankings([first, other]) == 2
    assert store.item("i1").rankings == (first, other)
    assert store.add_rankings([second]) == 1
    assert store.item("i1").rankings == (other, second)
    assert store.add_rankings([third]) == 1
    assert next(store.items()).rankings == (other, third)
    assert store.criteria() == {"quality": 2}
    assert (store.counts()["rankings"], store.counts()["effective"]) == (4, 2)


def test_two_edits_of_one_ranking_both_count(store: Store) -> None:
    one = item()
    first = ranking(one, "0", "1")
    edits = [ranking(one, "1", "0", supersedes=first.id), ranking(one, "01", supersedes=first.id)]
    store.add([one])
    store.add_rankings([first, *edits])
    assert store.item("i1").rankings == tuple(edits)


def test_an_edit_may_arrive_before_what_it_edits(store: Store) -> None:
    one = item()
    first = ranking(one, "0", "1")
    edit = ranking(one, "1", "0", supersedes=first.id)
    store.add([one])
    store.add_rankings([edit])
    store.add_rankings([first])
    assert store.item("i1").rankings == (edit,)


def test_a_ranking_of_one_item_cannot_unseat_one_of_another(store: Store) -> None:
    one, two = item("i1"), item("i2")
    first = ranking(one, "0", "1")
    store.add([one, two])
    store.add_rankings([first, ranking(two, "0", "1", supersedes=first.id)])
    assert store.item("i1").rankings == (first,)


def test_rankings_that_supersede_each_other_are_refused(store: Store) -> None:
    one = item()
    first, second = ranking(one, "0", "1"), ranking(one, "1", "0")
    store.add([one])
    with pytest.raises(DataError, match="circle"):
        store.add_rankings([replace(first, supersedes=second.id), replace(second, supersedes=first.id)])
    store.add_rankings([replace(first, supersedes=second.id)])
    with pytest.raises(DataError, match="circle"):
        store.add_rankings([replace(second, supersedes=first.id)])
    with pytest.raises(DataError, match="circle"):
        store.add_rankings([replace(second, supersedes=second.id)])


def test_the_same_ranking_submitted_twice_is_stored_once(store: Store) -> None:
    one = item()
    event = ranking(one, "2", "01", created_at="2024-05-01T10:00:00Z", duration_s=12.5)
    store.add([one])
    assert [store.add_rankings([event, event]), store.add_rankings([event])] == [1, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tiers": (("i1:c0",), ("i1:c0",))}, "tiers names i1:c0 twice"),
        ({"tiers": (("i1:c0", "i2:c1"),)}, "'i2:c1' is not a completion of this item"),
        ({"unacceptable": ("nowhere",)}, "'nowhere' is not"),
        ({"shown": ("i1:c0", "i1:c0")}, "shown names i1:c0 twice"),
        ({"ratings": {"c0": {"tone": 1.0}}}, "'c0' is not"),
        ({"item_id": "i9"}, "no such item"),
    ],
)
def test_a_ranking_that_does_not_fit_its_item_is_named_and_refused(store: Store, change: dict, said: str) -> None:
    store.add([item("i1"), item("i2")])
    with pytest.raises(DataError, match=said):
        store.add_rankings([ranking(item("i1"), "1", "0"), replace(ranking(item("i1"), "0", "1"), id="", **change)])
    assert store.counts()["rankings"] == 0


def test_rankings_inside_an_item_are_checked_as_well(store: Store) -> None:
    one, two = item("i1"), item("i2")
    with pytest.raises(DataError, match="carries a ranking of item i2"):
        store.add([replace(one, rankings=(ranking(two, "0", "1"),))])
    with pytest.raises(DataError, match="twice"):
        store.add([replace(one, rankings=(ranking(one, "0", "0"),))])
    assert list(store.items()) == []


# -- selecting


def test_a_criterion_picks_rankings_and_ranked_picks_items(store: Store) -> None:
    both, one, none = item("both"), item("one"), item("none", source="sample")
    helpful, harmless = ranking(both, "0", "1", criterion="helpful"), ranking(both, "1", "0", criterion="harmless")
    lone = ranking(one, "0", "1", criterion="helpful")
    gone = ranking(none, "0", "1", criterion="helpful")
    store.add([both, one, none])
    store.add_rankings([helpful, harmless, lone, gone, replace(gone, id="", criterion="other", supersedes=gone.id)])

    def selected(**options: object) -> dict[str, tuple[Ranking, ...]]:
        return {found.id: found.rankings for found in store.items(**options)}  # type: ignore[arg-type]

    assert selected(criterion="helpful") == {"both": (helpful,), "one": (lone,), "none": ()}
    assert selected(criterion="helpful", ranked=True) == {"both": (helpful,), "one": (lone,)}
    assert selected(criterion="harmless", ranked=False) == {"one": (), "none": ()}
    assert set(selected(ranked=True)) == {"both", "one", "none"}
    assert set(selected(source="sample")) == {"none"}
    assert store.criteria() == {"helpful": 2, "harmless": 1, "other": 1}


def test_sql_and_split_of_agree_on_every_prompt(store: Store) -> None:
    asked = [Prompt(f"question {n}") for n in range(300)]
    asked += [Prompt("kept out", split="heldout"), Prompt("kept in", split="train")]
    store.add([item(f"i{n}", prompt=prompt) for n, prompt in enumerate(asked)])
    store.add([Demonstration(prompt, "so") for prompt in asked])
    for heldout in (0.0, 0.1, 0.5, 0.99):
        for split in ("train", "heldout"):
            wanted = [prompt for prompt in asked if split_of(prompt, heldout) == split]
            assert store.prompts(split=split, heldout=heldout) == wanted
            assert [found.prompt for found in store.items(split=split, heldout=heldout)] == wanted
            assert [found.prompt for found in store.demonstrations(split=split, heldout=heldout)] == wanted
    assert store.prompts(limit=3) == asked[:3]


def test_a_stated_split_reaches_a_known_prompt_once_and_is_never_overruled(store: Store) -> None:
    store.add([Prompt("q")])
    assert store.prompts()[0].split is None
    assert store.add([Prompt("q", split="heldout")]) == Counts()
    assert store.add([Prompt("q", split="train"), Prompt("q")]) == Counts()
    assert store.prompts()[0].split == "heldout"


def test_items_are_found_by_id_in_the_order_asked_for(store: Store) -> None:
    store.add([item("i1"), item("i2"), item("i3")])
    assert [found.id for found in store.item_by_ids(["i3", "i1", "i3"])] == ["i3", "i1", "i3"]
    with pytest.raises(DataError, match="no item i9"):
        store.item("i9")


# -- rollouts, snapshots, models, imports


def test_a_step_that_is_sampled_again_overwrites_its_rollouts(store: Store) -> None:
    first, second = Prompt("a"), Prompt("b")
    store.add([first, second])
    asked = [first.id, second.id]
    made = [Completion(f"r0:{j}", f"text {j}", token_ids=(1, 2), logprobs=(-0.5, -0.25)) for j in range(2)]
    again = [replace(completion, text="again") for completion in made]
    store.add_rollouts(asked, made, "align-001")
    store.add_rollouts(asked, again, "align-001")
    store.add_rollouts(asked[:1], [Completion("r1:0", "other run")], "align-002")
    assert list(store.rollouts("align-001")) == list(zip([first, second], again, strict=True))
    assert [c.id for _, c in store.rollouts("align-001", limit=1)] == ["r0:0"]
    assert (store.counts()["rollouts"], store.counts()["completions"]) == (3, 0)


def test_rollouts_never_replace_a_ranked_completion_and_need_their_prompts(store: Store) -> None:
    one = item()
    store.add([one])
    with pytest.raises(DataError, match="contradicts"):
        store.add_rollouts([one.prompt.id], [replace(one.completions[0], text="hijacked")], "align-001")
    with pytest.raises(DataError, match="no such prompt"):
        store.add_rollouts(["nobody"], [Completion("r", "x")], "align-001")
    assert store.item("i1") == one


def test_a_snapshot_says_which_labels_made_a_model(store: Store) -> None:
    one = item()
    events = [ranking(one, "0", "1", annotator=name) for name in "abc"]
    store.add([one])
    store.add_rankings(events)
    snapshot = Snapshot("rankings", tuple(sorted(event.id for event in events)))
    assert store.add_snapshot(snapshot) == store.add_snapshot(snapshot) == snapshot.hash
    model = ModelRow("reward-1", "reward", "runs/reward-001/model", snapshot_hash=snapshot.hash, criterion="quality")
    store.add_model(model)
    hash = store.model("reward-1").snapshot_hash
    assert hash is not None and store.snapshot(hash) == snapshot
    assert store.check() == []
    with pytest.raises(DataError, match="no snapshot"):
        store.snapshot("0" * 16)
    with pytest.raises(DataError, match="contradicts"):
        store.add_model(replace(model, version="reward-2", snapshot_hash="unknown"))


def test_models_are_found_by_kind_criterion_and_age(store: Store) -> None:
    assert store.latest_model("policy") is None
    rows = [
        ModelRow("sft-1", "policy", "runs/sft-001/model", parent="base", metrics={"loss": 1.5, "nll": None}),
        ModelRow("rm-h", "reward", "a", criterion="helpful", weights_sha256="aa"),
        ModelRow("rm-q", "reward", "b", criterion="quality"),
        ModelRow("ppo-1", "policy", "runs/align-001/model", parent="sft-1"),
    ]
    for row in rows:
        store.add_model(row)
    assert store.models() == rows
    assert store.latest_model("policy") == rows[3]
    assert store.latest_model("reward", "helpful") == rows[1]
    assert store.latest_model("reward", "nothing") is None
    store.add_model(replace(rows[1], path="moved"))
    assert store.model("rm-h").path == "moved" and len(store.models()) == 4
    with pytest.raises(DataError, match="other weights"):
        store.add_model(replace(rows[1], weights_sha256="bb"))
    with pytest.raises(DataError, match=r"no model 'nope'\. Known: sft-1, rm-h, rm-q, ppo-1"):
        store.model("nope")


def test_the_import_log_keeps_counts_and_the_first_reasons(store: Store) -> None:
    store.record_import("a.jsonl", "ab" * 32, "rankings", Counts(items=2), [f"line {n}: broken" for n in range(250)])
    (row,) = store.imports()
    assert (row.name, row.rejected, len(row.reasons), row.reasons[0]) == ("a.jsonl", 250, 100, "line 0: broken")
    assert row.counts["items"] == 2


def test_counts_and_annotators_are_of_effective_rankings(store: Store) -> None:
    one = item()
    first = ranking(one, "0", "1", annotator="left")
    store.add([one])
    store.add_rankings([first, ranking(one, "1", "0", annotator="ann", supersedes=first.id)])
    store.add_rankings([ranking(one, "1", "0", annotator="sim", criterion="tone", simulated=True)])
    counts = store.counts()
    assert {key: counts[key] for key in ("rankings", "effective", "simulated", "annotators")} == {
        "rankings": 3,
        "effective": 2,
        "simulated": 1,
        "annotators": 2,
    }
    assert counts["criteria"] == {"quality": 1, "tone": 1}


# -- the database itself


def test_what_one_store_writes_another_reads(opener: Opener) -> None:
    first, second = opener(), opener()
    one = item()
    first.add([one])
    assert second.item("i1") == one
    second.add_rankings([ranking(one, "0", "1")])
    assert len(first.item("i1").rankings) == 1


def test_reading_goes_on_while_rankings_arrive(store: Store) -> None:
    store.add([item(f"i{n:03d}") for n in range(600)])
    seen = 0
    for found in store.items():
        if seen % 100 == 0:
            store.add_rankings([ranking(found, "0", "1")])
        seen += 1
    assert seen == 600 and store.counts()["rankings"] == 6


def test_half_a_surrogate_pair_is_refused_with_advice(store: Store) -> None:
    with pytest.raises(DataError, match="surrogate"):
        store.add([Prompt("fine"), Prompt("bad \ud800")])
    assert store.prompts() == []


def test_metadata_that_json_cannot_say_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match="JSON"):
        store.add([Prompt("q", metadata={"when": object()})])


def test_postgres_warns_when_it_may_lose_commits(fresh_postgres: str, tmp_path: Path) -> None:
    with Store.open(fresh_postgres, tmp_path) as store:
        assert any("fsync = off" in warning for warning in store.warnings())


def test_an_unreachable_postgres_is_explained_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")
    with pytest.raises(StoreError, match="Check that the server runs") as caught:
        Store.open("postgresql+pg8000://me:hunter2@127.0.0.1:9/nothing", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_postgres_text_with_nul_is_explained(fresh_postgres: str, tmp_path: Path) -> None:
    with Store.open(fresh_postgres, tmp_path) as store, pytest.raises(DataError, match="NUL"):
        store.add([Demonstration(Prompt("q"), "a\0b")])


def test_a_database_that_does_not_answer_is_waited_for_no_longer_than_told(fresh_postgres: str, tmp_path: Path) -> None:
    with Store.open(fresh_postgres, tmp_path, patience_s=0.3) as store:
        for _ in range(2):  # A connection whose answer is still to come is not used again.
            with pytest.raises(UnavailableError), store.database.read() as connection:
                connection.execute(text("SELECT pg_sleep(60)"))
        store.add([Prompt("afterwards")])
        assert [prompt.text for prompt in store.prompts()] == ["afterwards"]
