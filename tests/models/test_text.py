"""Text becomes ids and text again on every sort of tokenizer: templates, prefix spaces, several ends, no pad."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefloop.config import Model
from prefloop.errors import DataError, ModelError
from prefloop.models import bounded
from prefloop.models.load import load_causal
from prefloop.models.tokenization import EXTRA_PAD, Tokenization, make_tokenization
from prefloop.types import Completion, Message, Prompt
from tiny_models import causal, folder, tokenizer

TALK = (Message("user", "the cat"), Message("assistant", "sat"), Message("user", "the dog"))


def tokenization_of(chat: bool = True, made: Any = None, eos: Any = 1, **settings: Any) -> Tokenization:
    made = made or tokenizer(chat)
    return make_tokenization(made, causal("Llama", len(made), eos=eos), **settings)


# -- with a chat template --------------------------------------------------------------------------------------------


def test_a_plain_prompt_becomes_one_user_message_of_the_template() -> None:
    tokenization = tokenization_of()
    ids = tokenization.encode_prompt(Prompt("the cat"))
    assert tokenization.chat and tokenization.tokenizer.decode(ids) == "<|user|>the cat<|assistant|>"


def test_a_prompt_asked_again_is_not_encoded_again_and_nobody_can_spoil_it_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenization, seen = tokenization_of(), []
    template = tokenization.tokenizer.apply_chat_template

    def counted(messages: Any, **how: Any) -> Any:
        seen.append(messages)
        return template(messages, **how)

    monkeypatch.setattr(tokenization.tokenizer, "apply_chat_template", counted)
    first = tokenization.encode_prompt(Prompt("the cat"))
    right = list(first)
    first.append(7)
    assert tokenization.encode_prompt(Prompt("the cat", metadata={"from": "elsewhere"})) == right and len(seen) == 1
    assert tokenization.encode_prompt(Prompt("the cat", system="a dog")) != right and len(seen) == 2


def test_a_system_prompt_and_earlier_turns_go_through_the_template() -> None:
    tokenization = tokenization_of()
    text = tokenization.tokenizer.decode(tokenization.encode_prompt(Prompt(TALK, system="a dog")))
    assert text == "<|user|>a dog<|user|>the cat<|assistant|>sat<|end|><|user|>the dog<|assistant|>"


def test_the_template_is_left_alone_where_the_settings_say_so() -> None:
    tokenization = tokenization_of(chat=True, made=None)
    plain = dataclasses.replace(
        make_tokenization(tokenization.tokenizer, causal("Llama", len(tokenization.tokenizer)), "none")
    )
    assert not plain.chat and plain.tokenizer.decode(plain.encode_prompt(Prompt("the cat"))) == "the cat"
    assert plain.fingerprint != tokenization.fingerprint


def test_a_template_that_refuses_the_messages_is_an_error_that_names_the_prompt() -> None:
    made = tokenizer()
    made.chat_template = "{{ raise_exception('roles must alternate') }}"
    prompt = Prompt("the cat")
    with pytest.raises(DataError, match=f"refuses prompt {prompt.id}: roles must alternate"):
        tokenization_of(made=made).encode_prompt(prompt)


def test_a_template_cannot_reach_python() -> None:
    made = tokenizer()
    made.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(DataError):
        tokenization_of(made=made).encode_prompt(Prompt("the cat"))


# -- without one -----------------------------------------------------------------------------------------------------


def test_without_a_template_text_stays_as_it_is_and_a_chat_becomes_named_turns() -> None:
    tokenization = tokenization_of(chat=False)

    def text(prompt: Prompt) -> str:
        return str(tokenization.tokenizer.decode(tokenization.encode_prompt(prompt)))

    assert not tokenization.chat
    assert text(Prompt("the cat")) == "the cat"
    assert text(Prompt("the cat", system="a dog")) == "a dog\n\nthe cat"
    assert text(Prompt(TALK)) == "\n\nHuman: the cat\n\nAssistant: sat\n\nHuman: the dog\n\nAssistant:"
    assert text(Prompt(TALK, system="so")).startswith("\n\nSystem: so\n\nHuman: the cat")


def test_an_empty_prompt_still_has_a_first_token() -> None:
    tokenization = tokenization_of(chat=False)
    # There is no BOS, so the end token begins a document.
    assert tokenization.encode_prompt(Prompt("")) == [tokenization.end_id]
    made = tokenizer(chat=False)
    made.bos_token = "<|user|>"
    assert tokenization_of(made=made).encode_prompt(Prompt("")) == [made.bos_token_id]
    prompt = Prompt("")
    ids = tokenization.encode_prompt(prompt)
    assert tokenization.decode(tokenization.encode_completion(prompt, ids, "a dog ran")) == "a dog ran"


def test_a_tokenizer_that_appends_its_end_token_does_not_end_the_prompt() -> None:
    made = tokenizer(chat=False)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", 1)]
    )
    tokenization, prompt = tokenization_of(made=made), Prompt("the cat")
    assert made("the cat")["input_ids"][-1] == 1
    ids = tokenization.encode_prompt(prompt)
    assert 1 not in ids
    assert tokenization.encode_completion(prompt, ids, " sat").count(1) == 1


def test_a_begin_token_comes_once_and_never_inside_the_answer() -> None:
    made = tokenizer(chat=False)
    made.bos_token = "<|user|>"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", made.bos_token_id)]
    )
    tokenization, prompt = tokenization_of(made=made), Prompt("the cat")
    ids = tokenization.encode_prompt(prompt)
    answer = tokenization.encode_completion(prompt, ids, " sat on the mat")
    assert ids[0] == made.bos_token_id and [*ids, *answer].count(made.bos_token_id) == 1
    # This holds also where prompt and answer cannot be encoded as one text.
    assert made.bos_token_id not in tokenization.encode_completion(prompt, [9, 9], "sat")


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_an_answer_comes_back_as_it_went_in(chat: bool) -> None:
    tokenization, prompt = tokenization_of(chat), Prompt("the cat")
    ids = tokenization.encode_prompt(prompt)
    for text in (" sat on the mat", "Straße, 東京 🙂", "line\nline", "  two spaces", "x"):
        answer = tokenization.encode_completion(prompt, ids, text)
        assert answer[-1] == tokenization.end_id and tokenization.decode(answer) == text
        assert tokenization.encode_completion(prompt, ids, text, ended=False) == answer[:-1]


def test_a_sentencepiece_tokenizer_adds_no_space_of_its_own_between_prompt_and_answer(stories260k: Path) -> None:
    _, tokenization = load_causal(stories260k)
    for before, text in [
        ("Once upon a", " time"),
        ("Tim said:", "yes"),
        ("One day, a", "corn"),
        ("", "Once"),
        ("I", "t was"),
    ]:
        prompt = Prompt(before)
        ids = tokenization.encode_prompt(prompt)
        answer = tokenization.encode_completion(prompt, ids, text, ended=False)
        assert tokenization.tokenizer.decode([*ids, *answer], skip_special_tokens=True).strip() == before + text


def pieced() -> Any:
    """A tokenizer in the manner of SentencePiece: "▁" stands for a space, which a decoder drops at the beginning."""
    words = ["<s>", "</s>", "<unk>", "▁the", "▁cat", "▁s", "at", ".", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({w: n for n, w in enumerate(words)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_the_pieces_of_an_answer_keep_their_spaces_and_are_its_text() -> None:
    tokenization = tokenization_of(made=pieced())
    smile = [8 + byte for byte in "🙂".encode()]
    ids = [5, 6, *smile, 3, 4, 7, 8 + 0xF0, 1]
    pieces = tokenization.pieces(ids, before=[0, 3, 4])
    assert pieces == [" s", "at", "", "", "", "🙂", " the", " cat", ".", "", "\ufffd</s>"]
    assert tokenization.pieces([3, 4]) == ["the", " cat"]
    assert tokenization.pieces([8 + 0xF0]) == ["\ufffd"] and tokenization.pieces([]) == []


def test_the_pretrained_model_knows_both_its_end_tokens(stories260k: Path) -> None:
    """Its generation config names two, its tokenizer one: answers are trained to end with the tokenizer's."""
    _, tokenization = load_causal(stories260k)
    assert set(tokenization.stop_ids) == {1, 2} and tokenization.end_id == 2
    assert tokenization.encode_prompt(Prompt(""))[0] == 1 and not tokenization.chat and tokenization.context == 512


def test_text_ends_at_the_first_of_several_end_tokens() -> None:
    tokenization = tokenization_of(eos=[1, 3])
    cat, dog = (tokenization.tokenizer(x, add_special_tokens=False)["input_ids"] for x in ("the cat", " dog"))
    assert tokenization.stop_ids == (1, 3)
    assert tokenization.decode([*cat, 3, *dog, 1]) == "the cat"
    assert tokenization.decode([*cat, *dog]) == "the cat dog"
    assert tokenization.decode([1, *dog]) == ""


def test_end_tokens_are_gathered_from_generation_config_model_config_and_tokenizer() -> None:
    made = tokenizer()
    model = causal("Llama", len(made), eos=2)
    model.generation_config.eos_token_id = [5, 2]
    tokenization = make_tokenization(made, model)
    assert set(tokenization.stop_ids) == {1, 2, 5} and tokenization.end_id == 1


def test_the_end_token_is_learnt_also_where_it_is_the_pad_token_too(tmp_path: Path) -> None:
    _, tokenization = load_causal(folder(tmp_path / "m", "GPT2", chat=False, pad=False))
    assert tokenization.tokenizer.pad_token_id == tokenization.end_id == 1
    prompt = Prompt("the cat")
    assert tokenization.encode_completion(prompt, tokenization.encode_prompt(prompt), " sat")[-1] == 1


def test_sampled_ids_are_kept_where_the_tokenizer_is_the_same_and_encoded_anew_where_not() -> None:
    tokenization, prompt = tokenization_of(), Prompt("the cat")
    ids = tokenization.encode_prompt(prompt)
    odd = (
        *tokenization.tokenizer("s", add_special_tokens=False)["input_ids"],
        *tokenization.tokenizer("at")["input_ids"],
        1,
    )
    sampled = Completion("c", "sat", token_ids=odd, tokenizer=tokenization.fingerprint, finish_reason="stop")
    assert tokenization.completion_ids(prompt, ids, sampled) == list(odd)
    foreign = dataclasses.replace(sampled, tokenizer="another")
    assert tokenization.completion_ids(prompt, ids, foreign) == tokenization.encode_completion(prompt, ids, "sat")
    cut = dataclasses.replace(foreign, finish_reason="length")
    assert tokenization.completion_ids(prompt, ids, cut)[-1] != tokenization.end_id
    written = Completion("c", "sat")  # An imported answer is one that somebody finished.
    assert tokenization.completion_ids(prompt, ids, written)[-1] == tokenization.end_id


# -- identity --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_survives_saving_and_changes_with_what_changes_ids(tmp_path: Path) -> None:
    tokenization = tokenization_of()
    tokenization.save(str(tmp_path))
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenization_of(made=again).fingerprint == tokenization.fingerprint
    again.padding_side = "left"
    again("the cat", truncation=True, max_length=2, padding="max_length")  # This leaves settings behind in the backend.
    assert tokenization_of(made=again).fingerprint == tokenization.fingerprint
    again.add_special_tokens({"pad_token": EXTRA_PAD})
    assert make_tokenization(again, causal("Llama", len(again))).fingerprint == tokenization.fingerprint

    template = tokenizer()
    template.chat_template += " "
    more = tokenizer()
    more.add_tokens(["catdog"])
    for changed in (template, more):
        assert make_tokenization(changed, causal("Llama", len(changed))).fingerprint != tokenization.fingerprint


def test_a_tokenizer_larger_than_the_embedding_is_refused() -> None:
    with pytest.raises(ModelError, match="do not belong together"):
        make_tokenization(tokenizer(), causal("Llama", 50))


def test_the_context_is_the_models(tmp_path: Path) -> None:
    assert load_causal(folder(tmp_path / "m"), Model())[1].context == 64


def test_end_tokens_that_are_no_ids_are_refused_with_a_sentence() -> None:
    made = tokenizer(True)
    model = causal("Llama", len(made), eos=1)
    model.generation_config.eos_token_id = "two"
    with pytest.raises(ModelError, match="'two'"):
        make_tokenization(made, model)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("where", ["from the start", "later"])
def test_a_template_that_does_not_end_stops_the_command(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be read with it, so it is no row's fault."""
    monkeypatch.setattr(bounded, "LONGEST_S", 0.2)
    made = tokenizer(True)
    tokenization = tokenization_of(made=made)
    made.chat_template = ENDLESS
    with pytest.raises(ModelError, match="does not end"):
        tokenization_of(made=made) if where == "from the start" else tokenization.encode_prompt(Prompt("the cat"))
