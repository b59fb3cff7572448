"""Texts that break other people's loops: an end token that pads, an end inside the prompt, tokens that encode anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.batch import collate, collate_lists
from prefloop.config import Model
from prefloop.config_align import Rollout
from prefloop.engine.base import Sampling
from prefloop.engine.local import LocalEngine
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.reward import load_reward_model, new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import Tokenization
from prefloop.rewards.base import Scores
from prefloop.rewards.sequence import encode
from prefloop.training.demonstrations import encode_demonstrations, rows_of
from prefloop.training.rollout import Rollouts, roll_out
from prefloop.types import Completion, Demonstration, Message, Prompt
from tiny_models import folder

TURNS = Prompt((Message("user", "the cat"), Message("assistant", "a dog ran."), Message("user", "and the mat")))
SHARED = ("the cat sat on the mat", "the cat sat on the dog")  # They begin alike.


class Zero:
    def score(self, prompts: Any, completions: Any) -> Scores:
        return Scores([0.0] * len(completions), {"zero": [0.0] * len(completions)})


@pytest.fixture(scope="module", params=["a pad token of its own", "the end token pads"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenization, Path]:
    path = folder(tmp_path_factory.mktemp("m") / "model", pad=not request.param.startswith("the end"))
    return (*load_causal(path), path)


def rolled(model: Any, tokenization: Tokenization, prompts: list[Prompt]) -> Rollouts:
    """Return two sampled answers to each prompt; some end by themselves."""
    models: Any = {"policy": Policy(model)}
    engine = LocalEngine(models, replace(tokenization, stop_ids=tuple({*range(1, 150), *tokenization.stop_ids})), 3)
    encoded = [(p, tokenization.encode_prompt(p)) for p in prompts]
    return roll_out(engine, tokenization, Zero(), encoded, 2, Sampling(6), Rollout(), "x", "v")


def test_the_end_of_an_answer_is_learnt_and_scored_wherever_answers_are_put_together(model: Any) -> None:
    """That is so in demonstrations, ranked lists and samples, also where padding is the same token."""
    made, tokenization, _ = model
    shown = [Demonstration(TURNS, text) for text in ("a", SHARED[0])]
    encoded, _ = encode_demonstrations(tokenization, shown, 64)
    lists = [[encode(tokenization, TURNS, Completion(str(n), text)) for n, text in enumerate(("a", SHARED[0]))]]
    ids, mask, action, _ = collate_lists(lists)
    rows = rows_of(encoded)
    for row, counted, real in [
        *zip(rows.ids, rows.action, rows.mask, strict=True),
        *zip(ids[0], action[0], mask[0], strict=True),
    ]:
        assert row[counted][-1] == tokenization.end_id and int(counted.sum()) > 1
        assert not (counted & ~real).any(), "padding is no part of an answer, though it may look like its end"
    batch = rolled(made, tokenization, [TURNS, Prompt("a dog")]).batch
    assert batch.ended.any()
    lengths = batch.mask.sum(1)
    for n in range(len(batch)):
        assert batch.action[n, lengths[n] - 1] and not batch.action[n, lengths[n] :].any()


def test_a_reward_is_read_at_the_last_token_and_not_at_an_end_inside_the_prompt(model: Any, tmp_path: Path) -> None:
    """A chat has the end of every earlier turn in its prompt: it is no padding, though it may be the same token."""
    _, _, path = model
    scorer, tokenization = new_reward_model(path, Model(), seed=0)
    scorer.set_normalisation(0.0, 1.0)
    save_pretrained(scorer.model, tokenization, tmp_path / "reward")
    again, tokenization = load_reward_model(tmp_path / "reward")
    ids, cut = encode(tokenization, TURNS, Completion("c", SHARED[0]))
    assert tokenization.end_id in ids[:cut] and ids[-1] == tokenization.end_id
    longer = [*ids[:-1], *ids[-4:]]
    rows = collate([ids, longer], [cut, cut])
    with torch.no_grad():
        states = again.model.model(input_ids=torch.tensor([ids])).last_hidden_state
        expected = again.model.score(states)[0, :, 0]
        found = again(rows).score[0]
    assert float(found) == pytest.approx(float(expected[-1]), abs=1e-5)
    ends = [n for n, id in enumerate(ids[:cut]) if id == tokenization.end_id]
    assert all(abs(float(found - expected[n])) > 1e-4 for n in ends), "scores all alike show nothing"


def test_a_reward_model_reads_the_very_tokens_that_were_sampled_after_several_turns(model: Any) -> None:
    """Decoding and encoding again gives other tokens, so that policy and reward model would read different answers."""
    made, tokenization, path = model
    _, theirs = new_reward_model(path, Model(), seed=0)
    rolls = rolled(made, tokenization, [TURNS, replace(TURNS, system="Be kind.")])
    drifted = 0
    for n, (prompt, completion) in enumerate(zip(rolls.prompts, rolls.completions, strict=True)):
        read, cut = encode(theirs, prompt, completion)
        assert read == rolls.batch.ids[n][rolls.batch.mask[n]].tolist()
        assert cut == int((rolls.batch.mask[n] & ~rolls.batch.action[n]).sum())
        written = replace(completion, token_ids=None, tokenizer=None)
        drifted += encode(theirs, prompt, written)[0] != read
    assert drifted, "tokens that all survive being written and read show nothing"


def test_answers_that_begin_alike_are_answers_from_their_first_token(model: Any) -> None:
    """The prompt is what the row says, and not what the answers have in common."""
    _, tokenization, _ = model
    prompt = tokenization.encode_prompt(TURNS)
    (a, cut), (b, other) = (encode(tokenization, TURNS, Completion(text, text)) for text in SHARED)
    assert cut == other == len(prompt) and a[:cut] == b[:cut] == prompt
    alike = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert alike > cut + 1, "they should have tokens in common"
    rows = collate([a, b], [cut, other])
    assert rows.action[:, cut:alike].all() and not rows.action[:, :cut].any()


def test_a_prompt_keeps_its_tokens_where_its_end_and_the_answer_would_be_one_word(tmp_path: Path) -> None:
    _, tokenization = load_causal(folder(tmp_path / "m", chat=False))
    prompt = Prompt("the c")
    before = tokenization.encode_prompt(prompt)
    whole = tokenization.tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] != before, "the tokenizer makes one word of it"
    answer = tokenization.encode_completion(prompt, before, "at", ended=False)
    assert tokenization.tokenizer.decode([*before, *answer]) == "the cat"
    assert encode(tokenization, prompt, Completion("c", "at"))[0][: len(before)] == before
