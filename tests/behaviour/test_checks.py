"""Each built-in check counts what it says it counts."""

from __future__ import annotations

import pytest

from prefloop.behaviour.registry import Pair, Unfit, built_in


def said(name: str, prompt: str, *answers: str) -> list[float | None]:
    values = built_in()[name].measure([Pair(prompt, answer) for answer in answers])
    return [value if value is None else round(float(value), 3) for value in values]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "value"),
    [
        ("length", "", "One two three.", 3),
        ("empty", "", " ...\n", 1),
        ("empty", "", "Да", 0),
        ("repetition", "", "no no no no", 0.667),
        ("repetition", "", "a b c d", 0),
        ("copies_prompt", "My parcel has not arrived yet.", "my parcel has not arrived, sorry", 0.333),
        ("copies_prompt", "My parcel has not arrived yet.", "It will.", None),
        ("refusals", "How?", "I'm sorry, but I can't help with that.", 1),
        ("refusals", "How?", "As an AI language model, I do not know.", 1),
        ("refusals", "How?", "I cannot assist with this request.", 1),
        ("refusals", "How?", "I’m unable to do that.", 1),
        ("refusals", "How?", "Sorry about the delay! Your parcel comes on Monday.", 0),
        ("refusals", "How?", "You can't miss it: turn left.", 0),
        ("valid_json", "Answer in JSON.", '{"a": [1, 2]}', 1),
        ("valid_json", "Answer in JSON.", '```json\n{"a": 1}\n```', 1),
        ("valid_json", "Answer in JSON.", '{"a": 1', 0),
        ("valid_json", "Answer in JSON.", '{"a": NaN}', 0),
        ("valid_json", "Answer in JSON.", "[" * 100_000, 0),
        ("valid_json", "Say hello.", "hello", None),
        ("number_conflicts", "I ordered 3 boxes for $20.", "Your 4 boxes cost $20.", 0.5),
        ("number_conflicts", "I ordered 3 boxes.", "Your box will come in 2 days.", None),
        ("number_conflicts", "I have 1,200 pens and 2 pens.", "Take the 1200 pens.", 0),
        ("script", "Where is my parcel?", "Где моя посылка?", 0),
        ("script", "荷物はどこですか", "明日届きます", 1),
        ("script", "12 + 3 =", "fifteen", None),
        ("language", "Hello, my parcel has not arrived, where is it?", "Hola, ¿dónde está mi paquete perdido?", 0),
        ("language", "Hello, my parcel has not arrived, where is it?", "It will arrive at your door tomorrow.", 1),
        ("language", "Say hi.", "Hola.", None),
        # Words, sentences and syllables counted by hand: 6, 1, 6; and 2 words with 5 and 4 syllables need a third.
        ("reading_ease", "", "The cat sat on the mat.", 116.145),
        ("reading_ease", "", "Yes.", None),
        ("reading_ease", "", "Institutional considerations necessitate representation.", 0),
    ],
)
def test_a_check_says_this_of_an_answer(name: str, prompt: str, answer: str, value: float | None) -> None:
    if name == "language":
        pytest.importorskip("py3langid", reason="py3langid is not installed: prefloop[language]")
    assert said(name, prompt, answer) == [value]


FOREIGN = """Es tut mir leid, aber dabei kann ich nicht helfen.
Je suis désolé, mais je ne peux pas vous aider.
Lo siento, pero no puedo ayudar con eso.
Mi dispiace, non posso aiutarti con questo.
Desculpe, mas não posso ajudar com isso.
Het spijt me, maar daar kan ik niet bij helpen.
Jag är ledsen, men jag kan inte hjälpa dig med det.
Undskyld, men det kan jeg ikke hjælpe dig med.
Przepraszam, ale nie mogę w tym pomóc.
Je mi líto, ale s tím vám nemohu pomoci, protože to nejde.
Üzgünüm, ama bu konuda size yardımcı olamam.
Maaf, saya tidak bisa membantu anda dengan itu.
Tôi xin lỗi, nhưng tôi không thể giúp bạn.
Valitettavasti en voi auttaa siinä, koska se ei ole sallittua.
Sajnálom, de ebben nem tudok segíteni, mert nem szabad.
Îmi pare rău, dar nu pot să te ajut cu asta.
Извините, но я не могу с этим помочь.
申し訳ありませんが、お手伝いできません。
죄송합니다. 도와드릴 수 없습니다.
عذراً، لا أستطيع المساعدة في ذلك.
抱歉，我无法提供帮助。""".splitlines()


@pytest.mark.parametrize("answer", FOREIGN)
def test_a_check_that_knows_english_gives_no_figure_of_another_language(answer: str) -> None:
    for name in ("refusals", "reading_ease"):
        (found,) = built_in()[name].measure([Pair("Can you help?", answer)])
        assert isinstance(found, Unfit) or (name == "reading_ease" and found is None), name


def test_short_odd_and_quoting_answers_in_english_still_have_figures() -> None:
    for answer in (
        "Yes.",
        "Lamp lamp lamp lamp.",
        "Red leather shoes, size 9.",
        "The café “El Paso” is on de Boer Street.",
        "I can't help with that, naïve as it may sound.",
        "x = sum(values) / len(values)",
    ):
        assert said("refusals", "", answer) != [None]


def test_answers_that_are_alike_are_less_distinct_and_less_spread() -> None:
    alike, apart = ["the red cat"] * 4, ["the red cat", "one", "a blue hat sits here", "go to two old men now"]
    assert said("distinct_1", "", *alike) == [0.25] * 4 == said("distinct_2", "", *alike)
    assert said("distinct_1", "", *apart) == [1.0] * 4
    assert said("length_spread", "", *alike) == [0] * 4
    assert said("length_spread", "", *apart) == [1, 3, 1, 2]


def test_what_nobody_told_is_not_measured() -> None:
    assert said("ended", "", "a") == [None] == said("likelihood", "", "a")
    told = Pair("", "a", ended=False, likelihood=-1.5)
    assert [built_in()[name].measure([told]) for name in ("ended", "likelihood")] == [[0.0], [-1.5]]


def test_every_check_says_what_it_is_and_takes_odd_answers() -> None:
    odd = [Pair("x", text) for text in ("", " ", "\ud800", "\0", "🙂🙂", "ß" * 3000, "1" * 400)]
    for check in built_in().values():
        assert len(check.meaning) > 15
        values = check.measure(odd)
        assert len(values) == len(odd) and all(value is None or float(value) == value for value in values)  # type: ignore[arg-type]
