"""An answer ends as its chat template ends it: sixteen families, and what people write themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from chat_templates import FAMILIES, HOME_MADE, Family
from prefloop.engine.base import Sampling
from prefloop.engine.local import LocalEngine
from prefloop.errors import ModelError
from prefloop.models.end_of_turn import TurnTemplate
from prefloop.models.load import load_causal
from prefloop.models.policy import Policy
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.types import Message, Prompt
from tiny_models import causal, folder, tokenizer

EVERYTHING = {**FAMILIES, **HOME_MADE}
ANSWERS = ("Hello, cat!", "Straße 東京 🙂", "one line\nand another", "x")


def model_of(family: Family, made: Any) -> Any:
    model = causal("Llama", len(made), eos=made.eos_token_id)
    if family.stops:
        model.generation_config.eos_token_id = [made.convert_tokens_to_ids(token) for token in family.stops]
    return model


@pytest.fixture(scope="module", params=list(EVERYTHING))
def case(request: pytest.FixtureRequest) -> tuple[Family, Tokenization]:
    family = EVERYTHING[request.param]
    made = family.tokenizer()
    return family, make_tokenization(made, model_of(family, made))


def test_the_template_says_what_ends_an_answer_and_what_stands_around_it(case: tuple[Family, Tokenization]) -> None:
    family, tokenization = case
    end = family.end or family.eos
    assert tokenization.tokenizer.convert_ids_to_tokens(tokenization.end_id) == end
    assert (tokenization.turn.lead, tokenization.turn.tail) == (family.lead, family.tail)
    if family.end:
        assert tokenization.source == f"the chat template writes {end} after an answer"
    else:
        assert tokenization.source.startswith("the tokenizer's eos_token, since the chat template writes ")


def test_sampling_stops_there_and_everywhere_it_stopped_before(case: tuple[Family, Tokenization]) -> None:
    family, tokenization = case
    ids = tokenization.tokenizer.convert_tokens_to_ids([family.end or family.eos, family.eos, *family.stops])
    assert set(tokenization.stop_ids) == set(ids)


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_prompt_and_answer_are_what_the_template_makes_of_the_whole_conversation(
    case: tuple[Family, Tokenization], system: str | None
) -> None:
    family, tokenization = case
    if family in (FAMILIES["Gemma"], FAMILIES["Mistral"]) and system:
        pytest.skip("this template knows no system role")
    if family is HOME_MADE["one question and one answer, no more"] and system:
        pytest.skip("this template takes two messages")
    prompt = Prompt((Message("user", "Say hello."),), system=system)
    for text in ANSWERS:
        before = tokenization.encode_prompt(prompt)
        mine = [*before, *tokenization.encode_completion(prompt, before, text)]
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": text}]
        if not tokenization.tokenizer.get_vocab().keys() & {family.end}:
            continue  # It writes no end.
        if family is HOME_MADE["an end between turns only"]:
            messages.append({"role": "user", "content": "Go on."})
        whole = tokenization.tokenizer.apply_chat_template(messages, tokenize=False)
        if family is FAMILIES["GLM-4"]:
            whole += "<|user|>"
        ids = tokenization.tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert mine == ids[: len(mine)], tokenization.tokenizer.decode(mine)


def test_an_answer_comes_back_without_what_the_template_writes_around_it(case: tuple[Family, Tokenization]) -> None:
    _, tokenization = case
    prompt = Prompt("Say hello.")
    before = tokenization.encode_prompt(prompt)
    for text in ANSWERS:
        ids = tokenization.encode_completion(prompt, before, text)
        assert tokenization.decode(ids, prompt) == text and ids[-1] == tokenization.end_id
        cut = tokenization.encode_completion(prompt, before, text, ended=False)
        assert tokenization.end_id not in cut and tokenization.decode(cut, prompt) == text


def test_text_after_an_end_that_is_text_is_no_part_of_the_answer() -> None:
    family = HOME_MADE["an end that is text"]
    made = family.tokenizer()
    tokenization, prompt = make_tokenization(made, model_of(family, made)), Prompt("Say hello.")
    rambling = made("Hello, cat!\n### End\n### user\nGo on.", add_special_tokens=False)["input_ids"]
    assert tokenization.decode(rambling, prompt) == "Hello, cat!"


def test_a_template_that_refuses_every_conversation_leaves_the_end_to_the_tokenizer() -> None:
    made = tokenizer()
    made.chat_template = "{{ raise_exception('not today') }}"
    tokenization = make_tokenization(made, causal("Llama", len(made)))
    assert tokenization.end_id == made.eos_token_id and tokenization.turn == TurnTemplate(words=tokenization.turn.words)
    assert tokenization.source.endswith("refuses a question and an answer (not today)")


def test_a_template_that_wants_a_system_prompt_is_asked_with_one() -> None:
    made = FAMILIES["Phi-3"].tokenizer()
    refuse = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system prompt is needed') }}{% endif %}"
    made.chat_template = refuse + made.chat_template
    tokenization = make_tokenization(made, causal("Llama", len(made), eos=made.eos_token_id))
    assert (
        made.convert_ids_to_tokens(tokenization.end_id) == "<|end|>"
        and tokenization.turn.lead == tokenization.turn.tail == ""
    )


def test_a_template_that_leaves_out_what_is_asked_is_refused() -> None:
    """One for models that see images reads lists of parts; of a text it would write nothing."""
    made = tokenizer()
    parts = "{% for part in m.content %}{{ part['text'] }}{% endfor %}"
    made.chat_template = "{% for m in messages %}{{ '<|' + m.role + '|>' }}" + parts + "{% endfor %}"
    with pytest.raises(ModelError, match="leaves out what the user says"):
        make_tokenization(made, causal("Llama", len(made)))
    assert not make_tokenization(made, causal("Llama", len(made)), "none").chat


def test_without_template_or_eos_the_configs_say_what_ends_an_answer() -> None:
    made = tokenizer(chat=False)
    made.eos_token = None
    tokenization = make_tokenization(made, causal("Llama", len(made), eos=3))
    assert tokenization.end_id == 3 and tokenization.source.startswith("eos_token_id of the model's configs")


def test_a_saved_model_names_the_end_so_that_plain_generate_stops(tmp_path: Path) -> None:
    source = folder(tmp_path / "old")
    family = FAMILIES["Phi-3"]
    made = family.tokenizer()
    model = causal("Llama", len(made), eos=made.eos_token_id)
    for place in (source, tmp_path / "same"):
        model.save_pretrained(place)
        made.save_pretrained(place)
    loaded, tokenization = load_causal(source)
    save_pretrained(loaded, tokenization, tmp_path / "new")
    stops = GenerationConfig.from_pretrained(tmp_path / "new").eos_token_id
    assert stops == [made.eos_token_id, made.convert_tokens_to_ids("<|end|>")]
    again, tokenization = load_causal(tmp_path / "new")
    save_pretrained(again, tokenization, tmp_path / "newer")
    assert GenerationConfig.from_pretrained(tmp_path / "newer").eos_token_id == stops


# -- the space between prompt and answer -------------------------------------------------------------------------------


def sentencepiece(template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 2's: spaces are part of the word behind them, and decoding drops the first one."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    texts = ["a little dog named Ben [INST] [/INST] <|user|>\n<|assistant|>\n INST AST user assistant BEN Dog"] * 4
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


def words() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a word, and a decoder that puts a space between any two."""
    named = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "a", "little", "dog", "named", "Ben"]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(named)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )


@pytest.mark.parametrize("made", [sentencepiece(), words()], ids=["sentencepiece", "words"])
def test_text_that_goes_on_keeps_the_space_that_was_sampled(made: PreTrainedTokenizerFast) -> None:
    tokenization = make_tokenization(made, causal("Llama", len(made)))
    prompt = Prompt("a little dog")
    before = tokenization.encode_prompt(prompt)
    ids = made("named Ben", add_special_tokens=False)["input_ids"]
    assert tokenization.decode(ids, prompt) == " named Ben" and tokenization.decode(ids) == "named Ben"
    assert tokenization.encode_completion(prompt, before, " named Ben", ended=False) == ids
    joined = tokenization.encode_prompt(Prompt(prompt.text + tokenization.decode(ids, prompt)))
    assert joined == [*before, *ids]


def test_text_that_goes_on_gets_no_space_that_was_not_sampled() -> None:
    tokenization = make_tokenization(made := sentencepiece(), causal("Llama", 120))
    prompt = Prompt("a little dog")
    before = tokenization.encode_prompt(prompt)
    ids = tokenization.encode_completion(prompt, before, "IN", ended=False)
    assert not made.convert_ids_to_tokens(ids[0]).startswith("▁")
    assert tokenization.decode(ids, prompt) == "IN"


@pytest.mark.parametrize("name", ["Llama 2", "Zephyr", "Mistral", "words"])
def test_the_answer_of_a_chat_gains_no_space(name: str) -> None:
    if name == "words":
        made = words()
        made.chat_template = HOME_MADE["no end, and always the head of the next answer"].template
    else:
        made = sentencepiece(FAMILIES[name].template)
    tokenization, prompt = make_tokenization(made, causal("Llama", len(made))), Prompt("a little dog")
    before = tokenization.encode_prompt(prompt)
    for text in ("named Ben", "Ben"):
        ids = tokenization.encode_completion(prompt, before, text)
        assert tokenization.decode(ids, prompt) == text
    if name == "Zephyr":  # Its prompt ends with a line break, so this space was sampled.
        ids = tokenization.encode_completion(prompt, before, " Ben")
        assert tokenization.decode(ids, prompt) == " Ben"


def test_every_sample_of_a_pretrained_model_is_the_text_that_follows_its_prompt(stories260k: Path) -> None:
    model, tokenization = load_causal(stories260k)
    prompts = [Prompt(text) for text in ("there was a little dog", "One day,", "Tim said:", "", "The cat was ", "Hi\n")]
    engine = LocalEngine({"policy": Policy(model)}, tokenization, seed=1)
    asked = [prompt for prompt in prompts for _ in range(6)]
    drawn = engine.generate([tokenization.encode_prompt(p) for p in asked], list(range(len(asked))), Sampling(12))
    same = spaces = 0
    for prompt, sample in zip(asked, drawn, strict=True):
        text, before = tokenization.decode(sample.ids, prompt), tokenization.encode_prompt(prompt)
        ids = [token for token in sample.ids if token not in tokenization.stop_ids]
        again = tokenization.encode_completion(prompt, before, text, ended=False)
        assert tokenization.tokenizer.decode([*before, *again]) == tokenization.tokenizer.decode([*before, *ids])
        assert tokenization.tokenizer.decode([*before, *ids], skip_special_tokens=True) == prompt.text + text
        same += again == ids
        spaces += text.startswith(" ")
    assert spaces > 12 and same >= 33  # The others were not sampled as the tokenizer would cut them.
