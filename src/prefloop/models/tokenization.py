"""Turns prompts and answers into token ids and back, for any Hugging Face tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from prefloop.errors import ModelError, PrefloopError, TemplateError
from prefloop.messages import Message, Turns, shown_turns, transcript_spans
from prefloop.models.assistant_turns import of_several_turns, plain_spans, template_spans
from prefloop.models.chat import Chat, plain_answer, plain_lead, plain_prompt, prompt_turns
from prefloop.models.end_of_turn import TurnTemplate, turn_template_of
from prefloop.types import Completion, Demonstration, Prompt

EXTRA_PAD = "<|prefloop_pad|>"  # It is added to reward models whose own pad token ends answers.
CONTEXT = 8  # So many of the prompt's last tokens are decoded together with an answer.
LONGEST_CHARACTER = 4  # tokens, where each is a byte of UTF-8


@dataclass(frozen=True)
class Tokenization:
    """Holds a tokenizer together with the rules by which one model reads prompts and ends answers.

    stop_ids: every id that ends an answer, from generation config, model config, tokenizer and chat template
    end_id:   the id that training appends to a completed answer; None if none is known
    chat:     whether prompts go through the chat template; a plain string then becomes one user message
    context:  the longest sequence that the model reads, in tokens
    turn:     what the chat template writes around an answer
    source:   where `end_id` comes from, as a sentence for people
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    end_id: int | None
    chat: bool
    context: int
    turn: TurnTemplate = TurnTemplate()
    source: str = ""

    @property
    def runs_on(self) -> str:
        """Return a warning, with advice, if the chat template ends answers by a text of several tokens; else ""."""
        text = self.turn.tail.strip()
        if not text or self.turn.end is not None or self.end_id is None:
            return ""
        end = self.tokenizer.convert_ids_to_tokens(self.end_id)
        return (
            f"the chat template ends an answer with {text!r}, which is several tokens. Sampling does not stop there: "
            f"a model that does not write {end} after it runs on to max_tokens: what follows the text is shown to "
            "nobody, but it is sampled, scored and learnt from, and the answer counts as cut off. prefloop sft on some "
            f"demonstrations teaches {end}; or give the tokenizer the text as one token"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash that is equal for two tokenizers that give the same ids. It covers the chat template too.

        Padding and truncation settings, and a pad token added for a reward model, are left out: they change no id.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            parts = json.loads(backend.to_str())
            parts["added_tokens"] = [t for t in parts.get("added_tokens", []) if t["content"] != EXTRA_PAD]
            text = json.dumps({k: v for k, v in parts.items() if k not in ("padding", "truncation")}, sort_keys=True)
        else:
            text = repr(sorted(self.tokenizer.get_vocab().items()))
        template = str(self.tokenizer.chat_template) if self.chat else ""
        return hashlib.sha256((text + template).encode()).hexdigest()[:16]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt, up to where the answer begins.

        Raises TemplateError if the template refuses the messages.
        """
        return list(self._read(prompt)[1])

    @cached_property
    def _read(self) -> Callable[[Prompt], tuple[str, tuple[int, ...]]]:
        """Return a cached function from a prompt to (text, ids), because each of its answers asks for them again."""

        def read(prompt: Prompt) -> tuple[str, tuple[int, ...]]:
            text = self.render(prompt) if self.chat else plain_prompt(prompt)
            return text, tuple(self._encode(text))

        return lru_cache(maxsize=512)(read)

    def render(self, prompt: Prompt) -> str:
        """Return the text of a prompt by the chat template, up to where the answer begins. Raises TemplateError."""
        try:
            return self._chat.render(prompt_turns(prompt), prompt.tools)
        except Exception as error:
            raise _refused(f"prompt {prompt.id}", error) from error

    @cached_property
    def _chat(self) -> Chat:
        return Chat(self.tokenizer)

    def encode_completion(self, prompt: Prompt, prompt_ids: Sequence[int], text: str, ended: bool = True) -> list[int]:
        """Return the ids of an answer given as text, with the end token if the answer `ended` by itself."""
        lead = self.turn.lead if self.chat else plain_lead(self._read(prompt)[0], text)
        text = f"{lead}{text}{self.turn.tail if ended else ''}"
        ids = self._behind(prompt, prompt_ids, text)
        if ids is None:
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.end_id] if ended and self.end_id is not None else ids

    def _behind(self, prompt: Prompt, prompt_ids: Sequence[int], text: str) -> list[int] | None:
        """Return the ids of a text that follows its prompt; None if encoding both together changes the prompt's ids.

        Both are encoded together because some tokenizers put a space before a text that stands alone.
        """
        whole = self._encode(self._read(prompt)[0] + text)
        return whole[len(prompt_ids) :] if whole[: len(prompt_ids)] == list(prompt_ids) else None

    def completion_ids(self, prompt: Prompt, prompt_ids: Sequence[int], completion: Completion) -> list[int]:
        """Return the ids that were sampled if this tokenizer made them; otherwise the text is encoded again.

        Messages of several turns are always encoded again, since their ids do not say who wrote them.
        """
        if (sampled := self._sampled(completion)) is not None:
            return list(sampled)
        return self.answer_ids(prompt, prompt_ids, completion, completion.finish_reason != "length")

    def _sampled(self, answer: Completion | Demonstration) -> tuple[int, ...] | None:
        if not isinstance(answer, Completion) or of_several_turns(answer.messages):
            return None
        return answer.token_ids if answer.tokenizer == self.fingerprint else None

    def answer_ids(
        self, prompt: Prompt, prompt_ids: Sequence[int], answer: Completion | Demonstration, ended: bool = True
    ) -> list[int]:
        """Return the ids of an answer with its turns, tool calls and reasoning.

        The end token follows if the answer `ended` by itself. Raises TemplateError if the chat template cannot write
        the turns after the prompt.
        """
        if not self.chat:
            return self.encode_completion(prompt, prompt_ids, plain_answer(answer.text, answer.messages), ended)
        text = self.render_answer(prompt, answer)
        if text is None:
            return self.encode_completion(prompt, prompt_ids, answer.text, ended)
        text, end = self._until_end(text, shown_turns(prompt.content, answer.text, answer.messages)[-1])
        ids = self._behind(prompt, prompt_ids, text) or list(
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        return [*ids, end] if ended and end is not None else ids

    def assistant_mask(
        self, prompt: Prompt, prompt_ids: Sequence[int], answer: Completion | Demonstration, answer_ids: Sequence[int]
    ) -> list[bool]:
        """Return which ids of an answer the assistant itself wrote, with those that end its turns; [] if it is all.

        A token belongs to who wrote its first character. Ids that were sampled are all the model's own.
        answer_ids: the answer's ids, as `completion_ids` or `answer_ids` gives them
        Raises TemplateError if the template does not show where the turns begin and end.
        """
        turns = shown_turns(prompt.content, answer.text, answer.messages)
        if not of_several_turns(turns) or self._sampled(answer) is not None:
            return []
        try:
            text, spans = self._answer_spans(prompt, answer, turns)
            starts = self._starts(prompt, prompt_ids, text, answer_ids)
        except Exception as error:
            raise _refused(f"an answer to prompt {prompt.id}", error) from error
        mask = [any(start <= place < end for start, end in spans) for place in starts]
        return [*mask, *[turns[-1].role == "assistant"] * (len(answer_ids) - len(mask))]

    def _answer_spans(
        self, prompt: Prompt, answer: Completion | Demonstration, turns: Turns
    ) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of an answer of several turns, without its last end, and where the assistant speaks in it."""
        if not self.chat:
            text = plain_answer(answer.text, answer.messages)
            lead = plain_lead(self._read(prompt)[0], text)
            found = plain_spans(turns) if answer.messages else transcript_spans(str(prompt.content), text)
            spans = [(start + len(lead) if start else 0, end + len(lead)) for start, end in found]
            return lead + text, spans
        said = self._chat.answer(prompt, turns)
        ends = [str(self.tokenizer.convert_ids_to_tokens(id)) for id in self.stop_ids]
        spans = template_spans(
            self._chat, prompt, turns, said, self.turn.lead, ends, lambda text, turn: self._until_end(text, turn)[0]
        )
        return self._until_end(said, turns[-1])[0], spans

    def _starts(self, prompt: Prompt, prompt_ids: Sequence[int], text: str, answer_ids: Sequence[int]) -> list[int]:
        """Return where in the text of an answer each of its ids begins, except an end token behind the text."""
        if not self.tokenizer.is_fast:
            pieces = self.pieces(answer_ids, prompt_ids)
            if not "".join(pieces).startswith(text):
                raise ValueError("its tokenizer, which is a slow one, does not say which token stands for which text")
            starts = [0, *accumulate(map(len, pieces))]
            return [start for start in starts[: len(answer_ids)] if start < len(text)]
        asked, first, special = self._read(prompt)[0], len(prompt_ids), not self.chat
        if self._behind(prompt, prompt_ids, text) is None:
            asked, first, special = "", 0, False
        found = self.tokenizer(asked + text, add_special_tokens=special, return_offsets_mapping=True)["offset_mapping"]
        return [start - len(asked) for start, _ in found[first:]][: len(answer_ids)]

    def render_answer(self, prompt: Prompt, answer: Completion | Demonstration) -> str | None:
        """Return the text that the chat template writes after the prompt for an answer of turns; None for a plain text.

        Raises TemplateError.
        """
        turns = shown_turns(prompt.content, answer.text, answer.messages)
        try:
            return self._chat.answer(prompt, turns) if turns else None
        except Exception as error:
            raise _refused(f"an answer to prompt {prompt.id}", error) from error

    def _until_end(self, text: str, last: Message) -> tuple[str, int | None]:
        """Return the template's text up to where its last turn ends, and the token that ends that turn.

        Templates often write more after it, such as a line break or the head of the next turn.
        """
        said = (
            (last.calls[-1].get("function") or last.calls[-1])["name"] if last.calls else (last.content or "").strip()
        )
        done = text.rfind(said) + len(said)
        names = {id: str(self.tokenizer.convert_ids_to_tokens(id)) for id in self.stop_ids}
        ends = [(place, id) for id, name in names.items() if (place := text.find(name, done)) >= 0]
        if ends:
            return text[: min(ends)[0]], min(ends)[1]
        return (text.rstrip() if last.calls else text[:done] + self.turn.tail), self.end_id

    def decode(self, ids: Sequence[int], prompt: Prompt | None = None) -> str:
        """Return the answer as text, up to the first stop token and without special tokens.

        prompt: what it answers. Many tokenizers drop a space at the start of what they decode, and some put one between
        any two tokens. Only decoding together with the prompt shows which space belongs to the answer.
        """
        for place, token in enumerate(ids):
            if token in self.stop_ids:
                ids = ids[:place]
                break
        if tuple(ids[: len(self._lead)]) == self._lead:
            ids = ids[len(self._lead) :]
        text = self._text(ids)
        if prompt is not None:
            text = self._seen_behind(prompt, ids, text)
        if not self._lead:
            text = text.removeprefix(self.turn.lead)
        if self.turn.tail.strip():
            text = text.partition(self.turn.tail)[0]
        text = text.removesuffix(self.turn.tail)
        return text.replace("\x00", "\ufffd")  # An untrained byte-level model may sample NUL, which Postgres refuses.

    @cached_property
    def _lead(self) -> tuple[int, ...]:
        """Return the ids of what the template writes before an answer.

        It is () if that is white space, which joins the answer's tokens.
        """
        lead = self.turn.lead
        return tuple(self.tokenizer(lead, add_special_tokens=False)["input_ids"]) if lead.strip() else ()

    def head_of(self, prompt_ids: Sequence[int]) -> int:
        """Return how many ids stand before the prompt's own text: the BOS token, or the head of a chat's first turn."""
        if self._head and tuple(prompt_ids[: len(self._head)]) == self._head:
            return len(self._head)
        return int(bool(prompt_ids) and prompt_ids[0] == self.tokenizer.bos_token_id)

    @cached_property
    def _head(self) -> tuple[int, ...]:
        return tuple(self.tokenizer(self.turn.head, add_special_tokens=False)["input_ids"]) if self.turn.head else ()

    def _seen_behind(self, prompt: Prompt, ids: Sequence[int], alone: str) -> str:
        """Return the text of an answer as it follows its prompt.

        alone: the text that its ids give by themselves
        """
        before = self.encode_prompt(prompt)
        head, whole = self._text(before[-CONTEXT:]), self._text([*before[-CONTEXT:], *ids])
        if not whole.startswith(head) or (seen := whole[len(head) :]) == alone:
            return alone
        if self._behind(prompt, before, alone) == list(ids):
            return alone
        return seen if not self.chat or self._behind(prompt, before, seen) == list(ids) else alone

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
        """Return what each token adds to the text, special tokens included; together they are the text.

        Of a character that several tokens make, the last one has it and the others have "".

        before: the ids in front of them. Many tokenizers drop the space of the first token that they decode.
        """
        found: list[str] = []
        context, pending = list(before[-CONTEXT:]), list[int]()
        for id in ids:
            pending.append(id)
            known, whole = self._seen(context), self._seen(context + pending)
            new = whole[len(known) :] if whole.startswith(known) else self._seen(pending)
            unfinished = new.endswith("\ufffd") and len(pending) < LONGEST_CHARACTER
            found.append("" if unfinished else new)
            if not unfinished:
                context, pending = pending, []
        if pending:
            found[-1] = self._seen(pending)
        return found

    def _seen(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def save(self, folder: str) -> None:
        self.tokenizer.save_pretrained(folder)

    def _encode(self, text: str) -> list[int]:
        """Return the ids of a text from its beginning. A chat template has already written the special tokens."""
        ids = list(self.tokenizer(text, add_special_tokens=not self.chat)["input_ids"])
        if self.chat:
            return ids
        # Some tokenizers append their end token to every text, but a prompt must not end.
        while ids and ids[-1] in self.stop_ids and len(ids) > 1:
            ids.pop()
        if not ids:  # An empty prompt starts a document.
            start = self.tokenizer.bos_token_id
            ids = [start if start is not None else (self.end_id or 0)]
        return ids


def _refused(what: str, error: Exception) -> PrefloopError:
    if isinstance(error, ModelError):  # The template itself is unusable, so no prompt can be read.
        return error
    why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return TemplateError(f"the model's chat template refuses {what}: {why}", why)


def stop_tokens(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Return all ids that end an answer according to generation config, model config and tokenizer."""
    sources = (getattr(model, "generation_config", None), model.config, tokenizer)
    return tuple(dict.fromkeys(token for source in sources for token in eos_of(source)))


def eos_of(source: Any) -> list[int]:
    """Return the values of `eos_token_id` of a config or tokenizer, as a list.

    Raises ModelError if they are not ids.
    """
    value = getattr(source, "eos_token_id", None)
    found = [token for token in (value if isinstance(value, list | tuple) else [value]) if token is not None]
    if not all(isinstance(token, int) for token in found):
        raise ModelError(f"eos_token_id of the model or tokenizer must be token ids, not {str(value)[:60]!r}")
    return found


def make_tokenization(tokenizer: Any, model: Any, chat: str = "auto") -> Tokenization:
    """Return the tokenization of a loaded model. Raises ModelError if tokenizer and embedding do not fit together.

    The end token is the one that the chat template writes after an answer. If it writes none, it is the tokenizer's
    eos_token, or else that of the generation config or the model's config.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding only {size}: they do not belong together"
        )
    stops = stop_tokens(tokenizer, model)
    use_chat = chat == "auto" and bool(getattr(tokenizer, "chat_template", None))
    turn = turn_template_of(tokenizer, stops) if use_chat else TurnTemplate()
    end: int | None
    if turn.end is not None:
        end, source = turn.end, turn.words
    elif tokenizer.eos_token_id is not None:
        end, source = int(tokenizer.eos_token_id), f"the tokenizer's eos_token, since {turn.words}"
    else:
        end = stops[0] if stops else None
        source = f"eos_token_id of the model's configs, since {turn.words} and the tokenizer has no eos_token"
    if end is not None and end not in stops:
        stops = (*stops, end)
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)
    return Tokenization(tokenizer, stops, end, use_chat, context, turn, source)


def name_end(model: Any, tokenization: Tokenization) -> None:
    """Add the end token to the model's generation config, so that plain `generate` stops there too."""
    config = getattr(model, "generation_config", None)
    if config is None or tokenization.end_id is None or tokenization.end_id in (known := eos_of(config)):
        return
    config.eos_token_id = [*known, tokenization.end_id] if known else tokenization.end_id
