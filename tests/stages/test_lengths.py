"""Where a text is longer than a model reads, the right part is cut, the right part stays, and people are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_templates import FAMILIES
from prefloop.config import CONFIG_NAME
from prefloop.errors import NothingToDoError
from prefloop.models.load import load_causal
from prefloop.models.reward import load_reward_model
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import Project
from prefloop.results import Cut
from prefloop.rewards.model import ModelScorer, WeightedRewardModel, raw_scores
from prefloop.rewards.sequence import join, join_completion
from prefloop.stages.align import align
from prefloop.stages.train_reward import reward
from prefloop.training.lengths import Lengths
from prefloop.types import Completion, Item, Prompt, Ranking
from tiny_models import causal

CONTEXT = 96
SETTINGS = """
[project]
threads = 1
device = "cpu"
[model]
path = "model"
[data]
heldout = 0.25
[reward]
epochs = 1
normalise_prompts = 4
[align]
algorithm = "dpo"
max_tokens = 6
"""
LONG = "Hello, cat! " * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths") / "model"
    made = FAMILIES["Llama 3"].tokenizer()
    causal("Llama", len(made), eos=made.eos_token_id, max_position_embeddings=CONTEXT).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenization(model: Path) -> Tokenization:
    return load_causal(model)[1]


def listed(n: int, *texts: str, tiers: tuple[tuple[int, ...], ...] | None = None) -> Item:
    """Return answers to question n, of which the first is the best."""
    completions = tuple(Completion(f"q{n}:c{k}", text) for k, text in enumerate(texts))
    order = tiers or tuple((k,) for k in range(len(texts)))
    ranking = Ranking(f"q{n}", "ann", "quality", tuple(tuple(f"q{n}:c{k}" for k in tier) for tier in order))
    return Item(f"q{n}", Prompt(f"Say hello {n}."), completions, (ranking,))


def project_of(root: Path, model: Path, items: list[Item], *overrides: str) -> Project:
    (root / CONFIG_NAME).write_text(SETTINGS.replace('path = "model"', f"path = {json.dumps(str(model))}"))
    project = Project.open(root, overrides, quiet=True)
    project.store.add(items)
    return project


# -- what is cut -------------------------------------------------------------------------------------------------------


def test_a_long_prompt_loses_the_beginning_of_its_text_and_keeps_what_stands_before_it(
    tokenization: Tokenization,
) -> None:
    prompt = Prompt("Go on. " * 20 + "Say hello.")
    ids = tokenization.encode_prompt(prompt)
    whole = join_completion(tokenization, prompt, Completion("c", "Hello!"))
    cut = join_completion(tokenization, prompt, Completion("c", "Hello!"), 40)
    assert len(cut.ids) == 40 and cut.lost == 0 and cut.shortened == len(whole.ids) - 40 > 0
    text = tokenization.tokenizer.decode(cut.ids)
    assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
    assert text.endswith(tokenization.tokenizer.decode(whole.ids)[-60:])
    assert cut.ids[cut.prompt :] == whole.ids[len(ids) :]


def test_where_the_head_of_the_turn_does_not_fit_the_begin_token_stays(tokenization: Tokenization) -> None:
    prompt = tokenization.encode_prompt(Prompt("Go on. " * 20))
    answer = list(range(30))
    assert join(tokenization, prompt, answer, 33).ids == [tokenization.tokenizer.bos_token_id, *prompt[-2:], *answer]
    assert join(tokenization, prompt, answer, 31).ids == [tokenization.tokenizer.bos_token_id, *answer]


def test_an_answer_too_long_by_itself_loses_its_end(tokenization: Tokenization) -> None:
    prompt = tokenization.encode_prompt(Prompt("Say hello."))
    joined = join(tokenization, prompt, list(range(50)), 20)
    assert joined.ids == [tokenization.tokenizer.bos_token_id, *range(19)] and joined.lost == 31


def test_what_fits_is_not_touched(tokenization: Tokenization) -> None:
    prompt = tokenization.encode_prompt(Prompt("Say hello."))
    joined = join(tokenization, prompt, [5, 6])
    assert (joined.ids, joined.lost, joined.shortened) == ([*prompt, 5, 6], 0, 0)


# -- what no longer differs --------------------------------------------------------------------------------------------


def test_answers_that_differ_only_in_what_is_cut_are_not_learnt_from(
    tmp_path: Path, model: Path, tokenization: Tokenization
) -> None:
    fine, same = listed(0, "Hello!", "Go on."), listed(1, LONG + "yes", LONG + "no")
    mixed = listed(2, LONG + "yes", "Hello!", LONG + "no", "Go on.")
    tied = listed(3, LONG, LONG, "Hello!", tiers=((0, 1), (2,)))
    with project_of(tmp_path, model, []) as project:
        lengths = Lengths(project, tokenization)
        kept = lengths.telling([fine, same, mixed, tied])
    assert kept[0] is fine and kept[2] is tied and len(kept) == 3, "equal texts were equal before"
    assert kept[1].rankings[0].tiers == (("q2:c1",), ("q2:c3",))
    told = Cut(reads_tokens=CONTEXT, answers=11, answers_cut=6, prompts_shortened=3, same_after_cut=2)
    assert lengths.counted() == told


def test_where_no_answer_differs_any_more_reward_and_dpo_stop_and_say_why(tmp_path: Path, model: Path) -> None:
    items = [listed(n, LONG + "yes", LONG + "no") for n in range(8)]
    with project_of(tmp_path, model, items) as project:
        for stage in (reward, align):
            with pytest.raises(NothingToDoError, match=f"reads {CONTEXT} tokens .* longer than that"):
                stage(project)


def test_reward_counts_what_it_cut_and_the_model_keeps_the_length_it_learnt_at(tmp_path: Path, model: Path) -> None:
    items = [listed(n, "Hello! " * (12 if n % 2 else 1), "Go on.") for n in range(16)]
    with project_of(tmp_path, model, items, "reward.max_tokens=24") as project:
        found = reward(project).models["quality"]
        assert found.cut.reads_tokens == 24 and 0 < found.cut.answers_cut < found.cut.answers
        assert found.cut.same_after_cut == 0
        source = tmp_path / found.model
    assert json.loads((source / "config.json").read_text())["prefloop_reward"]["max_tokens"] == 24
    judge, tokenization = load_reward_model(source)
    prompt = Prompt("Say hello.")
    alike = [Completion("a", "Hello! " * 20 + "yes"), Completion("b", "Hello! " * 20 + "no")]
    first, second = raw_scores(judge, tokenization, [prompt] * 2, alike).tolist()
    assert first == second, "what lies beyond the length it learnt at is not scored"
    scores = ModelScorer([WeightedRewardModel("quality", judge, tokenization)]).score(
        [prompt] * 3, [*alike, Completion("c", "Hello!")]
    )
    assert scores.cut == 2


def test_by_default_answers_stay_whole_as_far_as_the_model_reads(tmp_path: Path, model: Path) -> None:
    items = [listed(n, "Hello! " * 15, "Go on.") for n in range(12)]
    with project_of(tmp_path, model, items) as project:
        found = reward(project).models["quality"]
    assert found.cut is None
    assert json.loads((tmp_path / found.model / "config.json").read_text())["prefloop_reward"]["max_tokens"] == CONTEXT
