"""Finds out what a chat template writes before an assistant's answer, and how it ends the answer.

A model's folder does not say so. Therefore the template renders a made-up conversation, and the text before and after
the answer is taken from the result.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from prefloop.errors import ModelError
from prefloop.models.bounded import bounded

ASKED, ANSWER, NEXT = "prefloopasks", "prefloopanswers", "prefloopgoeson"


@dataclass(frozen=True)
class TurnTemplate:
    """Says how a template writes an answer: first `lead`, then the answer, then `tail`, then the token `end`.

    head:  the text before the first question
    lead:  the text between the end of the prompt and the answer
    tail:  the text between the answer and its end token, or the text that takes the place of that token
    end:   the id of the token that ends the answer; None if the template writes none
    words: what the template does, as a sentence for people
    """

    head: str = ""
    lead: str = ""
    tail: str = ""
    end: int | None = None
    words: str = "there is no chat template"


def turn_template_of(tokenizer: Any, stops: Collection[int]) -> TurnTemplate:
    """Try the tokenizer's chat template.

    stops: ids that end answers according to the model's configs
    Raises ModelError for a template that leaves out what the user says.
    """
    tried = _Rendered(tokenizer)
    if tried.error:
        return TurnTemplate(words=f"the chat template refuses a question and an answer ({tried.error})")
    if ASKED not in tried.asked.lower():
        raise ModelError(
            "the model's chat template leaves out what the user says: it may want lists of content parts, as of models "
            'that see images. Give it a template for texts, or leave it alone: [model] chat = "none".'
        )
    if ANSWER not in tried.whole:
        return TurnTemplate(words="the chat template changes an answer beyond recognition")
    tokens = _tokens(tokenizer)
    after = tried.whole.rpartition(ANSWER)[2]
    confirmed = {*stops, _first(tried.between, tokens)[1]}
    if tried.ignores_generation_prompt and _first(after, tokens)[1] not in confirmed:
        after = ""  # The template always writes the head of the next answer.
    if not after.strip():
        after = tried.closing(tokens, stops)
    tail, end = _first(after, tokens)
    if end is None and (text := after.strip()):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            tail, end = after[: after.index(text)], int(ids[0])
    head, lead = tried.asked.partition(ASKED)[0], tried.lead()
    if end is not None:
        words = f"the chat template writes {tokenizer.convert_ids_to_tokens(end)} after an answer"
        return TurnTemplate(head, lead, tail, end, words)
    if after.strip():
        words = f"the chat template writes the text {after.strip()!r} after an answer, which is no single token"
        return TurnTemplate(head, lead, after.rstrip(), None, words)
    return TurnTemplate(head, lead, words="the chat template writes nothing after an answer")


class _Rendered:
    """Renders a made-up conversation by the template: a question, an answer, and if allowed a second question."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.error = self.asked = self.prompt = self.whole = self.between = ""
        ask = [{"role": "user", "content": ASKED}]
        try:
            self._ask(ask)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 -- a template is a program of somebody else
            self.error = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            with suppress(Exception):  # Some templates want a system prompt.
                self._ask([{"role": "system", "content": "-"}, *ask])
                self.error = ""

    def _ask(self, asked: list[dict[str, str]]) -> None:
        answered = [*asked, {"role": "assistant", "content": ANSWER}]
        self.asked, self.prompt = self._render(asked), self._render(asked, generate=True)
        self.whole = self._render(answered)
        with suppress(Exception):  # Some templates take only one question and one answer.
            going_on = self._render([*answered, {"role": "user", "content": NEXT}])
            self.between = going_on.partition(ANSWER)[2].partition(NEXT)[0]

    def _render(self, messages: list[dict[str, str]], generate: bool = False) -> str:
        with bounded():
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))

    @property
    def ignores_generation_prompt(self) -> bool:
        return self.asked == self.prompt

    def lead(self) -> str:
        if not self.whole.startswith(self.prompt):
            return ""
        return self.whole[len(self.prompt) :].partition(ANSWER)[0]

    def closing(self, tokens: dict[str, int], stops: Collection[int]) -> str:
        """Return the text that ends an answer only if the conversation goes on; "" if there is none.

        What stands before the second question is the end of the answer and the head of the question. The head is known
        from the first question.
        """
        if (found := _first(self.between, tokens))[1] in stops:
            return found[0] + next(name for name, id in tokens.items() if id == found[1])
        opening = self.asked.partition(ASKED)[0]
        head = commonprefix([self.between[::-1], opening[::-1]])
        closing = self.between[: len(self.between) - len(head)]
        return closing if _first(closing, tokens)[1] is not None else ""


def _tokens(tokenizer: Any) -> dict[str, int]:
    """Return {text: id} of the tokens that the tokenizer never splits, which are special or added tokens."""
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    found = {**tokenizer.get_added_vocab(), **special}
    return {text: int(id) for text, id in found.items() if text.strip()}


def _first(text: str, tokens: dict[str, int]) -> tuple[str, int | None]:
    """Return the text before the first of these tokens, and the token's id; the whole text and None without any."""
    places = [(place, -len(token), token) for token in tokens if (place := text.find(token)) >= 0]
    if not places:
        return text, None
    place, _, token = min(places)
    return text[:place], tokens[token]
