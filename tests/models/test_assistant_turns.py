"""A policy learns from what the assistant wrote, and not from what tools and people say inside an answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from test_chat import ASK, HH, LLAMA, MISTRAL, OSLO, PLAIN, QWEN, TEXTUAL, call, calling, tokenization_of
from transformers import ByT5Tokenizer

from chat_templates import FAMILIES, HOME_MADE, Family
from prefloop.algorithms.registry import make
from prefloop.algorithms.sft import Sft
from prefloop.config_align import Rollout
from prefloop.engine.base import Sampling
from prefloop.engine.local import LocalEngine
from prefloop.errors import TemplateError
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.project.left_out import LeftOut
from prefloop.rewards.base import Scores
from prefloop.rewards.sequence import encode, join_learnt
from prefloop.store import Store
from prefloop.training.demonstrations import encode_demonstrations, heldout_loss, rows_of
from prefloop.training.offline_lists import OfflineLists
from prefloop.training.rollout import roll_out
from prefloop.types import Completion, Demonstration, Item, Message, Prompt, Ranking
from tiny_models import causal, folder, tokenizer

TALK = (
    Message("assistant", "yes"),
    Message("user", "yes, sure?"),  # It holds the assistant's words.
    Message("assistant", "no yes"),
    Message("user", "ok"),
    Message("assistant", "bye"),
)
TOOL = (calling(call(OSLO)), Message("tool", "3 C weather"), Message("assistant", "No."))


def of_family(family: Family) -> Tokenization:
    made = family.tokenizer()
    model = causal("Llama", len(made), eos=made.eos_token_id)
    if family.stops:
        model.generation_config.eos_token_id = [made.convert_tokens_to_ids(token) for token in family.stops]
    return make_tokenization(made, model)


def learnt(tokenization: Tokenization, prompt: Prompt, answer: Completion) -> list[str]:
    """Return the pieces of an answer from which a policy learns, as text."""
    tokenization = replace(tokenization, context=1000)
    joined = join_learnt(tokenization, prompt, answer)
    assert joined.ids == encode(tokenization, prompt, answer)[0], "the ids are those of the whole rendering"
    assert len(joined.assistant) == len(joined.answer)
    runs = groupby(zip(joined.answer, joined.assistant, strict=True), key=lambda pair: pair[1])
    return [tokenization.tokenizer.decode([id for id, _ in run]) for mine, run in runs if mine]


ENDLESS = ("gpt-oss", "Falcon", "no end, and always the head of the next answer")  # Earlier turns have no end token.


@pytest.mark.parametrize(
    "name", [name for name in {**FAMILIES, **HOME_MADE} if name != "one question and one answer, no more"]
)
def test_each_turn_is_learnt_as_if_it_were_the_only_answer(name: str) -> None:
    tokenization = of_family({**FAMILIES, **HOME_MADE}[name])
    alone = []
    for n in (0, 2, 4):
        asked = Prompt((Message("user", "Rain?"), *TALK[:n]))
        before = tokenization.encode_prompt(asked)
        ids = tokenization.encode_completion(asked, before, str(TALK[n].content), n == 4 or name not in ENDLESS)
        alone.append(tokenization.tokenizer.decode(ids))
    if name == "Qwen3":  # It writes empty thoughts before the last answer only.
        alone[:2] = [text.removeprefix("<think>\n\n</think>\n\n") for text in alone[:2]]
    if name == "an end that is text":  # The eos token behind it is training's own, and not the template's.
        alone[:2] = [text.removesuffix("</s>") for text in alone[:2]]
    assert learnt(tokenization, Prompt("Rain?"), Completion("c", "-", messages=TALK)) == alone


@pytest.mark.parametrize(
    ("template", "called"),
    [
        (QWEN, '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "at": 3}}\n</tool_call><|end|>'),
        (TEXTUAL, 'CALL weather {"city": "Oslo", "at": 3}<|end|>'),
        (MISTRAL, '[CALL]{"name": "weather", "arguments": {"city": "Oslo", "at": 3}}<|end|>'),
        (LLAMA, '{"name": "weather", "parameters": {"city": "Oslo", "at": 3}}<|end|>'),
    ],
    ids=["qwen", "textual", "mistral", "llama"],
)
def test_a_call_is_learnt_and_the_tools_result_is_not(template: str, called: str) -> None:
    answer = Completion("c", "-", messages=TOOL)
    assert learnt(tokenization_of(template), ASK, answer) == [called, "No.<|end|>"]
    cut = replace(answer, finish_reason="length")
    assert learnt(tokenization_of(template), ASK, cut) == [called, "No."]


def test_without_a_template_the_names_of_the_speakers_are_not_learnt_either() -> None:
    answer = Completion("c", "-", messages=TOOL)
    assert learnt(tokenization_of(None), ASK, answer) == [
        "calls weather(city=Oslo, at=3) [call00001]",
        " No.<|end|>",
    ]


@pytest.mark.parametrize(
    ("template", "said"), [(None, [" yes", " no<|end|>"]), (QWEN, ["yes<|end|>", "no<|end|>"])], ids=["text", "chat"]
)
def test_the_persons_turn_in_a_transcript_is_not_learnt_unless_the_model_sampled_it(
    template: str | None, said: list[str]
) -> None:
    tokenization, prompt = tokenization_of(template), Prompt(HH)
    answer = Completion("c", "yes\n\nHuman: sure?\n\nAssistant: no")
    assert learnt(tokenization, prompt, answer) == said
    ids = tuple(tokenization.completion_ids(prompt, tokenization.encode_prompt(prompt), answer))
    sampled = replace(answer, token_ids=ids, tokenizer=tokenization.fingerprint)
    assert join_learnt(tokenization, prompt, sampled).assistant == (), "a model wrote all that it sampled"


def test_an_answer_of_one_turn_is_learnt_whole_as_ever() -> None:
    tokenization = tokenization_of(QWEN)
    for messages in ((), (Message("assistant", "No."),), (calling(call(OSLO), content="Hm."),)):
        answer = Completion("c", "No.", messages=messages)
        joined = join_learnt(tokenization, ASK, answer)
        assert joined.assistant == () and (joined.ids, joined.prompt) == encode(tokenization, ASK, answer)
        assert rows_of([joined]).action[0].tolist() == [n >= joined.prompt for n in range(len(joined.ids))]


# It marks every turn of the assistant but the last.
REWRITES = (
    "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<|assistant|>[{{ m.content }}]<|end|>"
    "{% elif false %}" + PLAIN
)


def test_answers_that_a_template_rewrites_are_left_out_for_a_policy_and_read_by_a_reward_model() -> None:
    tokenization = tokenization_of(REWRITES)
    with pytest.raises(TemplateError, match="refuses an answer to prompt .*writes turn 1 of an answer as another text"):
        join_learnt(tokenization, ASK, Completion("c", "-", messages=TALK))
    rows = [Demonstration(ASK, "-", messages=TALK), Demonstration(ASK, "No.")]
    left_out = LeftOut()
    assert left_out.accepted([tokenization], rows, "demonstrations", learns=True) == rows[1:]
    assert "writes turn 1 of an answer as another text when more turns follow" in next(iter(left_out.reasons.values()))
    assert LeftOut().accepted([tokenization], rows, "demonstrations") == rows


def test_a_tokenizer_without_offsets_gives_the_same_pieces() -> None:
    made: Any = ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<|user|>", "<|assistant|>", "<|end|>"])
    made.chat_template = QWEN
    tokenization = make_tokenization(made, causal("Llama", len(made), eos=1))
    assert not made.is_fast
    assert learnt(tokenization, ASK, Completion("c", "-", messages=TALK)) == [
        "yes<|end|>",
        "no yes<|end|>",
        "bye<|end|>",
    ]


# -- what is learnt from them ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenization]:
    made = causal("Llama", 300, eos=1, max_position_embeddings=256)
    chat = tokenizer(True)
    chat.chat_template = QWEN
    return made, make_tokenization(chat, made)


def logp_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_sft_is_the_mean_over_the_assistants_tokens(model: Any) -> None:
    made, tokenization = model
    shown = [Demonstration(ASK, "-", messages=TOOL), Demonstration(ASK, "No.")]
    encoded, _ = encode_demonstrations(tokenization, shown, 256)
    mine = [[False] * e.prompt + list(e.assistant or [True] * len(e.answer)) for e in encoded]
    total = sum(float(logp_of(made, e.ids)[torch.tensor(m[1:])].sum()) for e, m in zip(encoded, mine, strict=True))
    tokens = sum(map(sum, mine))
    assert float(Sft().weight(rows_of(encoded))) == tokens < sum(len(e.answer) for e in encoded)
    engine = LocalEngine({"policy": Policy(made)}, tokenization, 3)
    assert heldout_loss(engine, encoded)["heldout_loss"] == pytest.approx(-total / tokens, abs=1e-4)


def listed(*answers: Completion) -> Item:
    return Item("i", ASK, answers, (Ranking("i", "w", "quality", tuple((answer.id,) for answer in answers)),))


def test_lists_count_the_assistants_tokens_and_what_the_store_knew_of_all_tokens_is_not_used(
    model: Any, tmp_path: Path
) -> None:
    made, tokenization = model
    item = listed(Completion("tool", "-", messages=TOOL), Completion("one", "No."))
    store = Store.open("sqlite:///store.db", tmp_path)
    store.add([item])
    store.add_logprobs("r", {"tool": -1000.0, "one": -7.0})  # as a version kept it that learnt from every token
    engine = LocalEngine({"policy": Policy(made), "reference": Policy(made)}, tokenization, 3)
    batch: Any = OfflineLists(store, "r", engine, tokenization, [item], make("dpo")).batch([0])
    joined = join_learnt(tokenization, ASK, item.completions[0])
    flags = torch.tensor([False] * joined.prompt + list(joined.assistant))
    expected = float(logp_of(made, joined.ids)[flags[1:]].sum())
    assert batch.ref_total[0].tolist() == pytest.approx([expected, -7.0], abs=1e-3)
    assert batch.logp(engine.forward("policy", batch))[0, 0] == pytest.approx(expected, abs=1e-3)
    assert batch.tokens[0].tolist() == [sum(joined.assistant), len(encode(tokenization, ASK, item.completions[1])[0])
                                        - joined.prompt]  # fmt: skip
    again = OfflineLists(store, "r", engine, tokenization, [item], make("dpo"))
    assert again.known == {"tool": pytest.approx(expected, abs=1e-3), "one": -7.0}
    store.close()


def test_a_cut_takes_the_same_tokens_from_the_mask(model: Any) -> None:
    _, tokenization = model
    answer = Completion("c", "-", messages=TOOL)
    whole = join_learnt(tokenization, ASK, answer)
    for context in (len(whole.ids) - 4, len(whole.answer) - 3):
        short = replace(tokenization, context=context)
        cut = join_learnt(short, Prompt("Rain? " * 9), answer)
        assert cut.shortened and len(cut.ids) == context and len(cut.assistant) == len(cut.answer)
        assert list(zip(cut.answer, cut.assistant, strict=True)) == list(
            zip(whole.answer[: len(cut.answer)], whole.assistant[: len(cut.answer)], strict=True)
        )


class Zero:
    def score(self, prompts: Any, completions: Any) -> Scores:
        return Scores([0.0] * len(completions), {"zero": [0.0] * len(completions)})


def test_system_prompt_and_earlier_turns_are_prompt_in_sft_in_lists_and_in_samples(tmp_path: Path) -> None:
    """They are what the template makes of them, and nothing of them is learnt."""
    made, tokenization = load_causal(folder(tmp_path / "m"))
    prompt = Prompt((Message("user", "the cat"), Message("assistant", "a dog"), Message("user", "the mat")), "a park")
    wanted = tokenization.tokenizer.apply_chat_template(
        [{"role": "system", "content": "a park"}, *({"role": m.role, "content": m.content} for m in prompt.content)],  # type: ignore[union-attr]
        tokenize=True, add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    engine = LocalEngine({"policy": Policy(made)}, tokenization, 3)
    sft = rows_of(encode_demonstrations(tokenization, [Demonstration(prompt, "a dog ran")], 64)[0])
    item = replace(listed(Completion("a", "a dog ran"), Completion("b", "the cat")), prompt=prompt)
    lists = OfflineLists(None, None, engine, tokenization, [item], make("simpo")).batch([0]).rows()  # type: ignore[arg-type]
    encoded = [(prompt, tokenization.encode_prompt(prompt))]
    samples = roll_out(engine, tokenization, Zero(), encoded, 2, Sampling(6), Rollout(), "x", "v").batch
    for rows in (sft, lists, samples):
        for ids, real, action in zip(rows.ids, rows.mask, rows.action, strict=True):
            assert ids[real & ~action].tolist() == wanted and not action[: len(wanted)].any()
    assert sft.ids[0][sft.action[0]].tolist() == lists.ids[0][lists.action[0]].tolist()
