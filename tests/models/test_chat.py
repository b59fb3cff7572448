"""Messages pass through chat templates that write tool calls in their own ways, and through none."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chat_templates import FAMILIES, HOME_MADE, Family
from prefloop.errors import DataError
from prefloop.exchange import read
from prefloop.models.chat import Calls, Chat, plain_answer, plain_prompt
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.types import Completion, Demonstration, Item, Message, Prompt
from tiny_models import causal, tokenizer

END = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# The style is that of Qwen 2.5: arguments are an object, content may be null, reasoning is written.
QWEN = (
    "{% if tools %}<|user|>{% for t in tools %}{{ t | tojson + '\\n' }}{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{{ '\\n<tool_call>\\n' }}"
    """{{ '{"name": "' + c.function.name + '", "arguments": ' }}{{ c.function.arguments | tojson }}"""
    "{{ '}\\n</tool_call>' }}{% endfor %}<|end|>{{ '\\n' }}"
    "{% elif m.role == 'tool' %}<|user|><tool_response>{{ m.content }}</tool_response>"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}" + END
)
_ASSISTANT = "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>{% else %}<|user|>{{ m.content }}"
PLAIN = _ASSISTANT + "{% endif %}{% endfor %}" + END
SIMPLE = "{% for m in messages %}{% if false %}" + PLAIN  # It has never heard of tools.
# The style is that of DeepSeek V3: arguments are text that is put behind other text.
TEXTUAL = (
    "{% for m in messages %}{% if m.tool_calls %}<|assistant|>{% for c in m.tool_calls %}"
    "{{ 'CALL ' + c.function.name + ' ' + c.function.arguments }}{% endfor %}<|end|>" + PLAIN
)
# The style is Mistral's: an id has nine letters; this one has no use for a null content.
MISTRAL = (
    "{% for m in messages %}{% if m.tool_calls %}<|assistant|>{{ '' + m['content'] }}{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}"
    "[CALL]{{ c.function | tojson }}{% endfor %}<|end|>" + PLAIN
)
# The style is that of Llama 3.1: there is one call at a time, and its message loses its text.
LLAMA = (
    "{% if tools %}<|user|>{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    """<|assistant|>{{ '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}"""
    "{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}<|end|>" + PLAIN
)

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}


def tokenization_of(template: str | None) -> Tokenization:
    made = tokenizer(True)
    made.chat_template = template
    return make_tokenization(made, causal("Llama", len(made), eos=1))


def call(given: Any, id: str = "call00001", name: str = "weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": given}}


def calling(*calls: dict[str, Any], content: str | None = None, **more: Any) -> Message:
    return Message("assistant", content, {"tool_calls": list(calls), **more})


def said(tokenization: Tokenization, prompt: Prompt, *turns: Message, ended: bool = True) -> str:
    """Return the answer as the model is given it."""
    ids = tokenization.answer_ids(
        prompt, tokenization.encode_prompt(prompt), Completion("c", "", messages=turns), ended
    )
    return str(tokenization.tokenizer.decode(ids))


OSLO = {"city": "Oslo", "at": 3}
ASK = Prompt("Rain?")


@pytest.mark.parametrize(
    ("template", "wants"),
    [
        (QWEN, Calls(None, False)),
        (TEXTUAL, Calls(None, True)),
        (MISTRAL, Calls("", False)),
        (LLAMA, Calls(None, False)),
    ],
    ids=["qwen", "textual", "mistral", "llama"],
)
def test_a_template_is_asked_how_it_wants_its_calls(template: str, wants: Calls) -> None:
    assert Chat(tokenization_of(template).tokenizer).calls == wants


@pytest.mark.parametrize("given", [OSLO, '{"city": "Oslo", "at": 3}'], ids=["object", "text"])
@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (QWEN, '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "at": 3}}\n</tool_call><|end|>'),
        (TEXTUAL, 'CALL weather {"city": "Oslo", "at": 3}<|end|>'),
        (MISTRAL, '[CALL]{"name": "weather", "arguments": {"city": "Oslo", "at": 3}}<|end|>'),
        (LLAMA, '{"name": "weather", "parameters": {"city": "Oslo", "at": 3}}<|end|>'),
    ],
    ids=["qwen", "textual", "mistral", "llama"],
)
def test_a_call_is_written_as_the_template_writes_it_however_the_file_spells_it(
    template: str, wanted: str, empty: str | None, given: Any
) -> None:
    tokenization = tokenization_of(template)
    assert said(tokenization, ASK, calling(call(given), content=empty)) == wanted
    bare = Message("assistant", empty, {"function_call": {"name": "weather", "arguments": given}})
    if template is not MISTRAL:  # Mistral's template wants an id.
        assert said(tokenization, ASK, bare) == wanted
    shown = Demonstration(ASK, "", messages=(calling(call(given), content=empty),))
    assert tokenization.tokenizer.decode(tokenization.answer_ids(ASK, tokenization.encode_prompt(ASK), shown)) == wanted


def test_calls_results_and_tools_of_a_prompt_reach_the_template() -> None:
    turns = (Message("user", "Rain?"), calling(call(OSLO)), Message("tool", "3 C", {"tool_call_id": "call00001"}))
    tokenization = tokenization_of(QWEN)
    for tool in (WEATHER, WEATHER["function"]):
        text = tokenization.tokenizer.decode(tokenization.encode_prompt(Prompt(turns, tools=(tool,))))
        whole = tokenization.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content, **m.extra} for m in turns],
            tools=[WEATHER],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert text == whole and '"city": "Oslo"' in text and "3 C" in text and '"weather", "parameters"' in text
    assert tokenization.encode_prompt(Prompt(turns)) != tokenization.encode_prompt(Prompt(turns, tools=(WEATHER,)))


def test_an_answer_of_several_turns_is_what_stands_behind_the_prompt_up_to_its_last_end() -> None:
    tokenization = tokenization_of(QWEN)
    turns = (
        calling(call(OSLO), call(OSLO, name="map"), content="Hm."),
        Message("tool", "3 C"),
        Message("assistant", "No."),
    )
    text = said(tokenization, ASK, *turns)
    assert (
        text.startswith("Hm.\n<tool_call>") and text.endswith("<|assistant|>No.<|end|>") and text.count("<|end|>") == 2
    )
    assert said(tokenization, ASK, *turns, ended=False) == text.removesuffix("<|end|>")
    assert (
        said(tokenization, ASK, Message("assistant", "No.", {"reasoning_content": "Dry."}))
        == "<think>Dry.</think>No.<|end|>"
    )


@pytest.mark.parametrize(
    ("template", "prompt", "turns", "why"),
    [
        (LLAMA, ASK, (calling(call(OSLO), content="Hm."),), "leaves out the text of a message that calls a tool"),
        (LLAMA, ASK, (calling(call(OSLO), call(OSLO)),), "one call at a time"),
        (LLAMA, ASK, (Message("assistant", "No.", {"reasoning_content": "Dry."}),), "leaves out reasoning_content"),
        (SIMPLE, ASK, (calling(call(OSLO)),), "does not write tool calls"),
        (SIMPLE, Prompt("Rain?", tools=(WEATHER,)), (), "does not write the tools"),
    ],
)
def test_what_a_template_would_drop_is_an_error_that_says_so(
    template: str, prompt: Prompt, turns: tuple[Message, ...], why: str
) -> None:
    tokenization = tokenization_of(template)
    with pytest.raises(DataError, match=f"chat template refuses.*{why}"):
        said(tokenization, prompt, *turns)


def test_without_a_template_calls_and_tools_are_text() -> None:
    turns = (Message("user", "Rain?"), calling(call(OSLO)), Message("tool", "3 C"))
    prompt = Prompt(turns, "Be brief.", tools=(WEATHER,))
    assert plain_prompt(prompt) == (
        "Tools:\nweather(city)\n\nSystem: Be brief.\n\nHuman: Rain?\n\nAssistant: "
        "calls weather(city=Oslo, at=3) [call00001]\n\nTool: 3 C\n\nAssistant:"
    )
    answer = (calling(call(OSLO), content="Hm."), Message("tool", "3 C"), Message("assistant", "No."))
    wanted = "Hm.\ncalls weather(city=Oslo, at=3) [call00001]\n\nTool: 3 C\n\nAssistant: No."
    assert plain_answer("as people read it", answer) == wanted and plain_answer("one text", ()) == "one text"
    tokenization = tokenization_of(None)
    assert said(tokenization, prompt, *answer) == f" {wanted}<|end|>"


@pytest.mark.parametrize("family", (ALL := {**FAMILIES, **HOME_MADE}).values(), ids=ALL)
def test_an_answer_given_as_messages_ends_like_one_given_as_text(family: Family) -> None:
    made = family.tokenizer()
    model = causal("Llama", len(made), eos=made.eos_token_id)
    if family.stops:
        model.generation_config.eos_token_id = [made.convert_tokens_to_ids(token) for token in family.stops]
    tokenization = make_tokenization(made, model)
    ids, turn = tokenization.encode_prompt(ASK), Message("assistant", "Hello you.")
    assert tokenization.answer_ids(ASK, ids, Completion("c", "-", messages=(turn,))) == tokenization.answer_ids(
        ASK, ids, Completion("c", "Hello you.")
    )


def test_the_scratch_models_own_template_writes_calls_tools_and_reasoning() -> None:
    tokenization = make_tokenization(tokenizer(True), causal("Llama", 300, eos=1))
    text = tokenization.tokenizer.decode(tokenization.encode_prompt(Prompt("Rain?", tools=(WEATHER,))))
    assert text == f"<|user|>{json.dumps(WEATHER)}<|user|>Rain?<|assistant|>"
    for name in ("reasoning_content", "thinking", "reasoning"):
        answer = said(tokenization, ASK, calling(call(OSLO), content="Hm.", **{name: "Dry."}))
        wanted = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo", "at": 3}}</tool_call><|end|>'
        assert answer == f"<think>Dry.</think>Hm.{wanted}"


# -- transcripts -------------------------------------------------------------------------------------------------------

HH = "\n\nHuman: hello\n\nAssistant: hi\n\nHuman: bye\n\nAssistant:"
SPELLINGS = {
    "hh-rlhf": HH,
    "one line break": "Human: hello\nAssistant: hi\nHuman: bye\nAssistant:",
    "no space at the ends": HH.strip(),
    "spaces at the ends of lines": "\n\nHuman: hello \n\nAssistant: hi  \n\nHuman: bye\n\nAssistant: ",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_a_transcript_reaches_the_template_as_turns_and_a_model_without_one_as_it_is(text: str) -> None:
    turns = (Message("user", "hello"), Message("assistant", "hi"), Message("user", "bye"))
    chat = tokenization_of(QWEN)
    assert chat.encode_prompt(Prompt(text)) == chat.encode_prompt(Prompt(turns))
    assert plain_prompt(Prompt(text)) == text


def test_a_single_question_on_one_line_is_a_transcript() -> None:
    chat = tokenization_of(QWEN)
    assert chat.encode_prompt(Prompt("Human: Who was first? Assistant:")) == chat.encode_prompt(
        Prompt("Who was first?")
    )


@pytest.mark.parametrize(
    "text",
    [
        "What does Human: mean in\n\nHuman: a\n\nAssistant:",
        "Human: is a word. What does it mean?",
        "Human: a Assistant: b Human: c Assistant:",
        "Translate: \n\nHuman: a\n\nAssistant: b",
        "Human:\n\nAssistant:",
        "SuperHuman: a\n\nAssistant:",
    ],
)
def test_a_text_that_only_holds_the_names_is_one_turn(text: str) -> None:
    chat = tokenization_of(QWEN)
    assert chat.encode_prompt(Prompt(text)) == chat.encode_prompt(Prompt((Message("user", text),)))


def test_names_inside_a_turn_stay_in_the_turn_and_turns_in_a_row_are_one() -> None:
    chat = tokenization_of(QWEN)
    inside = "\n\nHuman: Write a play.\nHuman: x\n\nAssistant: What about, Human: y?\n\nHuman: Good.\n\nAssistant:"
    turns = (
        Message("user", "Write a play.\nHuman: x"),
        Message("assistant", "What about, Human: y?"),
        Message("user", "Good."),
    )
    assert chat.encode_prompt(Prompt(inside)) == chat.encode_prompt(Prompt(turns))
    row = "\n\nHuman: a\n\nAssistant: b\n\nAssistant:  c\n\nHuman: d\n\nAssistant:"
    turns = (Message("user", "a"), Message("assistant", "b\n\nc"), Message("user", "d"))
    assert chat.encode_prompt(Prompt(row)) == chat.encode_prompt(Prompt(turns))


def test_an_answer_that_goes_on_with_the_persons_turn_is_turns_for_the_template_and_text_without_one() -> None:
    answer = Completion("c", "yes\n\nHuman: sure?\n\nAssistant: no")
    chat, prompt = tokenization_of(QWEN), Prompt(HH)
    ids = chat.completion_ids(prompt, chat.encode_prompt(prompt), answer)
    assert chat.tokenizer.decode(ids) == "yes<|end|>\n<|user|>sure?<|assistant|>no<|end|>"
    mentions = Completion("c", "The word Human: stands here.")
    assert (
        chat.tokenizer.decode(chat.completion_ids(prompt, chat.encode_prompt(prompt), mentions))
        == mentions.text + "<|end|>"
    )
    plain = tokenization_of(None)
    ids = plain.completion_ids(prompt, plain.encode_prompt(prompt), answer)
    assert plain.tokenizer.decode(ids) == f" {answer.text}<|end|>"


def test_a_model_without_a_template_reads_what_was_published(shared_data: Path) -> None:
    path = shared_data / "hh_rlhf" / "helpful_raw_transcripts.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        published = [json.loads(line) for line in islice(file, 60)]
    tokenization, same = tokenization_of(None), 0
    for record, item in zip(published, read(path), strict=False):
        assert isinstance(item, Item)
        ids = tokenization.encode_prompt(item.prompt)
        for name, answer in zip(("chosen", "rejected"), item.completions, strict=True):
            text = tokenization.tokenizer.decode([*ids, *tokenization.completion_ids(item.prompt, ids, answer)])
            # White space around an answer is not part of it.
            assert text.split() == f"{record[name].strip()}<|end|>".split()
            same += text == f"{record[name]}<|end|>"
    assert same > 100
    prompt = Prompt(HH)
    plain = [
        tokenization.completion_ids(prompt, tokenization.encode_prompt(prompt), Completion("c", text))
        for text in ("so", " so")
    ]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(
    "text", ["Human: a" + "\n " * 60_000 + "Assistant:", "Human:" * 20_000 + " Assistant:", "\n" * 90_000]
)
def test_a_hostile_text_is_parted_in_no_time(text: str) -> None:
    Chat(None)  # No template is needed to see how a text is parted.
    assert plain_prompt(Prompt(text)) == text
