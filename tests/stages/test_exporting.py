"""Exporting: what is written can be read back, nothing is replaced unasked, and a model arrives whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.config import Model
from prefloop.errors import DataError, ModelError, NothingToDoError, TrainingError
from prefloop.models.load import load_causal, weights_hash
from prefloop.models.scratch import make_scratch
from prefloop.project.project import Project
from prefloop.stages.exporting import export
from prefloop.stages.importing import import_file
from prefloop.store import ModelRow, People, Queue, stream
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "p"
    root.mkdir()
    (root / "prefloop.toml").write_text("")
    with Project.open(root, quiet=True) as opened:
        yield opened


def item(n: int, criterion: str = "helpful") -> Item:
    made = tuple(Completion(f"i{n}:c{j}", f"answer {j}") for j in range(3))
    ranking = Ranking(f"i{n}", "ann", criterion, ((f"i{n}:c2",), (f"i{n}:c0", f"i{n}:c1")))
    return Item(f"i{n}", Prompt(f"question {n}"), made, (ranking,))


def add_model(project: Project, model: Path, version: str, kind: str, criterion: str | None = None) -> None:
    shutil.copytree(model, project.root / "runs" / version / "model")
    row = ModelRow(
        version,
        "policy" if kind == "policy" else "reward",
        f"runs/{version}/model",
        criterion=criterion,
        metrics={"round": 0},
    )
    project.store.add_model(row)


def test_rankings_read_back_are_equal(project: Project, tmp_path: Path) -> None:
    project.store.add([item(0), item(1, "harmless")])
    assert export(project, "rankings", tmp_path / "r.jsonl").rows == 2
    root = tmp_path / "q"
    root.mkdir()
    (root / "prefloop.toml").write_text("")
    with Project.open(root, quiet=True) as other:
        import_file(other, tmp_path / "r.jsonl")
        assert other.store.criteria() == project.store.criteria()
        assert [i.prompt for i in other.store.items()] == [i.prompt for i in project.store.items()]


def opened(folder: Path) -> Project:
    folder.mkdir()
    (folder / "prefloop.toml").write_text("")
    return Project.open(folder, quiet=True)


@pytest.mark.parametrize("name", ["r.jsonl.gz", "r.parquet"])
def test_an_export_read_into_another_project_gives_the_same_store(project: Project, tmp_path: Path, name: str) -> None:
    """All comes over in the same order: edits and what they edit, several people, ties, times, splits, rounds."""
    first = item(0)
    said = first.rankings[0]
    edit = Ranking(said.item_id, "ann", "helpful", (("i0:c0", "i0:c1"), ("i0:c2",)), supersedes=said.id, ordinal=1)
    other = Ranking(said.item_id, "bob", "helpful", (("i0:c1",),), none_acceptable=True, duration_s=2.5, ordinal=2)
    project.store.add([Item(first.id, Prompt("q", split="heldout"), first.completions, (said, edit, other), round=2)])
    project.store.add([item(1, "harmless")])
    result = export(project, "rankings", tmp_path / name)
    assert result.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    with opened(tmp_path / "other") as other_project:
        import_file(other_project, tmp_path / name)
        assert list(stream.every_item(other_project.store)) == list(stream.every_item(project.store))
        assert len(next(stream.every_item(project.store)).rankings) == 3
        assert other_project.store.counts() == project.store.counts()
        assert other_project.store.prompts(split="heldout", heldout=0) == [Prompt("q", split="heldout")]
        again = export(other_project, "rankings", tmp_path / f"again-{name}")
        assert again.sha256 == result.sha256


@pytest.mark.parametrize("name", ["e2e_nlg/rankings_train.jsonl.gz", "ukpconvarg1/rankings_train.jsonl.gz"])
@pytest.mark.slow
def test_real_rankings_come_through_two_projects_unchanged(
    project: Project, tmp_path: Path, shared_data: Path, name: str
) -> None:
    import_file(project, shared_data / name)
    export(project, "rankings", tmp_path / "r.parquet")
    with opened(tmp_path / "other") as other:
        import_file(other, tmp_path / "r.parquet")
        assert other.store.counts() == project.store.counts()
        assert list(stream.every_item(other.store)) == list(stream.every_item(project.store))


def test_edits_are_not_trained_on_twice(project: Project, tmp_path: Path) -> None:
    first = item(0)
    said = first.rankings[0]
    edit = Ranking(said.item_id, "ann", "helpful", (("i0:c0",), ("i0:c1",)), supersedes=said.id, ordinal=1)
    project.store.add([Item(first.id, first.prompt, first.completions, (said, edit))])
    export(project, "pairs", tmp_path / "p.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("answer 0", "answer 1")]


def test_excluded_people_and_discarded_items_are_kept_but_not_trained_on(project: Project, tmp_path: Path) -> None:
    people = People(project.store)
    owner = people.accept(people.owner_link() or "", "owner", "hash").id
    spammer = people.accept(people.invite(None, "annotator"), "spammer", "hash").id
    queue = Queue(project.store, project.config.annotate)
    for n in range(3):
        made = item(n, "quality")
        project.store.add([Item(made.id, made.prompt, made.completions)])
    queue.fill()
    by = {"i0": owner, "i1": spammer, "i2": owner}
    for key, who in by.items():
        tiers = ((f"{key}:c0",), (f"{key}:c1",))
        project.store.add_rankings([Ranking(key, who, "quality", tiers)])
    people.exclude(None, spammer, "always the first")
    queue.discard(owner, "i2", "unreadable")
    for what in ("pairs", "kto"):
        export(project, what, tmp_path / f"{what}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{what}.jsonl").read_text().splitlines()]
        assert {row["item_id"] for row in rows} == {"i0"}, what
    export(project, "rankings", tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_text().count('"annotator"') == 3
    people.exclude(None, owner, "too")
    with pytest.raises(NothingToDoError, match="excluded"):
        export(project, "pairs", tmp_path / "none.jsonl")


def test_the_annotator_model_gives_other_probabilities_than_the_votes(project: Project, tmp_path: Path) -> None:
    """Five agree on everything; one says the opposite. Where it is one against one, the votes cannot tell."""

    def said(n: int, who: str, turned: bool) -> Ranking:
        ids = [f"i{n}:c{j}" for j in range(3)]
        return Ranking(f"i{n}", who, "helpful", tuple((i,) for i in (ids[::-1] if turned else ids)))

    for n in range(40):
        made = item(n)
        crowd = ["w0", "w1", "w2", "w3", "w4", "troll"] if n < 39 else ["w0", "troll"]
        rankings = tuple(said(n, who, who == "troll") for who in crowd)
        project.store.add([Item(made.id, made.prompt, made.completions, rankings)])

    def probability(how: str) -> float:
        path = tmp_path / f"{how}.jsonl"
        export(project, "pairs", path, probability=how)  # type: ignore[arg-type]
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return next(
            float(r["probability"])
            for r in rows
            if (r["item_id"], r["annotator"], r["chosen"], r["rejected"]) == ("i39", "w0", "answer 0", "answer 2")
        )

    assert probability("votes") == 0.5
    assert probability("model") > 0.8


def test_options_of_pairs_are_refused_elsewhere(project: Project, tmp_path: Path) -> None:
    project.store.add([item(0)])
    with pytest.raises(DataError, match="--pairing"):
        export(project, "kto", tmp_path / "k.jsonl", pairing="extremes")
    assert export(project, "pairs", tmp_path / "p.jsonl", pairing="extremes").rows == 2


def test_prompts_and_demonstrations_stream_in_order(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK", 2)
    shown = [Demonstration(Prompt(f"q{n % 3}"), f"a{n}") for n in range(5)]
    project.store.add(shown)
    assert list(stream.every_demonstration(project.store)) == shown
    assert [p.content for p in stream.every_prompt(project.store)] == ["q0", "q1", "q2"]


def test_one_criterion_leaves_the_others_out(project: Project, tmp_path: Path) -> None:
    project.store.add([item(0), item(1, "harmless")])
    assert export(project, "pairs", tmp_path / "p.jsonl", criterion="harmless").rows == 2
    with pytest.raises(DataError, match='Did you mean "harmless"'):
        export(project, "pairs", tmp_path / "q.jsonl", criterion="harmles")


def test_items_nobody_ranked_are_exported_for_people_to_rank(project: Project, tmp_path: Path) -> None:
    made = item(0)
    project.store.add([Item(made.id, made.prompt, made.completions, source="sample")])
    assert export(project, "rankings", tmp_path / "r.jsonl").rows == 1
    with pytest.raises(NothingToDoError, match="prefloop crowd"):
        export(project, "pairs", tmp_path / "p.jsonl")


@pytest.mark.parametrize("what", ["policy", "reward", "rankings", "pairs", "kto", "demonstrations", "prompts"])
def test_an_empty_project_names_what_makes_it(project: Project, tmp_path: Path, what: str) -> None:
    with pytest.raises(NothingToDoError):
        export(project, what, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_demonstrations_and_prompts_read_back_add_nothing(project: Project, tmp_path: Path) -> None:
    project.store.add([Demonstration(Prompt("Hi", system="Be kind."), "Hello!")])
    for what in ("demonstrations", "prompts"):
        export(project, what, tmp_path / f"{what}.jsonl.gz")
        assert import_file(project, tmp_path / f"{what}.jsonl.gz").skipped


def test_what_is_there_is_not_replaced_unasked(project: Project, tmp_path: Path) -> None:
    project.store.add([Prompt("Hi")])
    out = tmp_path / "p.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        export(project, "prompts", out)
    assert out.read_text() == "mine"
    export(project, "prompts", out, overwrite=True)
    assert "Hi" in out.read_text()


def test_a_policy_arrives_whole(project: Project, tiny_model: Path, tmp_path: Path) -> None:
    add_model(project, tiny_model, "align-001", "policy")
    result = export(project, "policy", tmp_path / "out")
    assert result.models[0].version == "align-001"
    assert weights_hash(load_causal(tmp_path / "out")[0]) == weights_hash(load_causal(tiny_model)[0])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_newest_policy_is_exported_and_a_round_can_be_chosen(
    project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    add_model(project, tiny_model, "sft-001", "policy")
    with pytest.raises(NothingToDoError, match="prefloop align"):
        export(project, "policy", tmp_path / "a", round=0)
    assert export(project, "policy", tmp_path / "a").models[0].version == "sft-001"
    add_model(project, tiny_model, "align-001", "policy")
    assert export(project, "policy", tmp_path / "b").models[0].version == "align-001"


def test_several_criteria_get_a_folder_each_or_one_is_chosen(
    project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    add_model(project, tiny_model, "reward-001", "reward", "helpful")
    add_model(project, tiny_model, "reward-002", "reward", "not/a folder")
    export(project, "reward", tmp_path / "all")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["helpful", "not_a_folder"]
    export(project, "reward", tmp_path / "one", criterion="helpful")
    assert (tmp_path / "one" / "config.json").is_file()
    with pytest.raises(DataError, match="helpful"):
        export(project, "reward", tmp_path / "none", criterion="helpfull")


def test_a_model_whose_folder_is_gone_is_named(project: Project, tmp_path: Path) -> None:
    project.store.add_model(ModelRow("align-001", "policy", "runs/align-001/model"))
    with pytest.raises(ModelError, match="align-001 with it"):
        export(project, "policy", tmp_path / "out")


def test_an_export_that_fails_leaves_the_old_folder(project: Project, tmp_path: Path, tiny_model: Path) -> None:
    add_model(project, tiny_model, "align-001", "policy")
    old = tmp_path / "out"
    other = Model(init="scratch", vocab_size=300, hidden_size=16, layers=2, heads=2)
    old.mkdir()
    make_scratch(old, other, ["some text"], seed=1)
    before = sorted(p.name for p in old.iterdir())
    (project.root / "runs" / "align-001" / "model" / "dangling").symlink_to("nowhere")
    with pytest.raises(TrainingError, match="still there"):
        export(project, "policy", old, overwrite=True)
    assert sorted(p.name for p in old.iterdir()) == before


def test_the_card_says_what_is_known_and_keeps_people_and_paths_to_itself(tiny_project: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    from prefloop.stages.crowd import crowd
    from prefloop.stages.sample import sample
    from prefloop.stages.sft import sft
    from prefloop.stages.train_reward import reward

    with Project.open(tiny_project, quiet=True) as project:
        sft(project)
        sample(project)
        crowd(project)
        measured = reward(project).models["quality"]
        export(project, "reward", tmp_path / "reward")
        export(project, "policy", tmp_path / "policy")
        people = {r.annotator for i in project.store.items(ranked=True) for r in i.rankings}
    text = (tmp_path / "reward" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-classification"
    assert {"prefloop", "reward-model", "plackett_luce"} <= set(card.data.tags or ())
    simulated = measured.simulated
    assert f"| reward-001 | {simulated} rankings, {simulated} of them simulated |" in text and "| sft-001 | " in text
    heldout = measured.heldout
    assert f"| accuracy | {heldout.accuracy:.1%} | {heldout.low:.1%} to {heldout.high:.1%} |" in text
    assert "| `reward.epochs` | `2" in text and not [name for name in (*people, str(tiny_project)) if name in text]
    policy = (tmp_path / "policy" / "README.md").read_text()
    assert ModelCard(policy).data.pipeline_tag == "text-generation" and "held-out demonstrations" in policy


def test_an_export_keeps_generation_config_chat_template_and_dtype(tiny_model: Path, tmp_path: Path) -> None:
    """They go from the model that somebody brought, through training, to the exported folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefloop.stages.sft import sft

    brought = tmp_path / "brought"
    shutil.copytree(tiny_model, brought)
    config = json.loads((brought / "generation_config.json").read_text())
    (brought / "generation_config.json").write_text(json.dumps(config | {"do_sample": True, "temperature": 0.6}))
    tokenizer = AutoTokenizer.from_pretrained(brought)
    template = "{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}"
    tokenizer.chat_template = template
    tokenizer.save_pretrained(brought)
    root = tmp_path / "p"
    root.mkdir()
    settings = f'[model]\npath = "{brought}"\ndtype = "bfloat16"\n[sft]\nepochs = 1\nbatch = 2\n'
    (root / "prefloop.toml").write_text(settings)
    with Project.open(root, quiet=True) as project:
        project.store.add([Demonstration(Prompt(f"Say red cat {n}."), "The cat is red.") for n in range(8)])
        sft(project)
        export(project, "policy", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.6
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype) == "torch.bfloat16"
