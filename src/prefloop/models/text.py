"""Text to token ids and back, for any Hugging Face tokenizer, with or without a chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from prefloop.errors import DataError, ModelError
from prefloop.types import Completion, Message, Prompt

EXTRA_PAD = "<|prefloop_pad|>"  # added to reward models whose own pad token ends answers


@dataclass(frozen=True)
class Codec:
    """How one model reads and writes text.

    stop_ids: every id that ends an answer (generation config, model config and tokenizer together)
    end_id:   the one that training appends to a completed answer
    chat:     prompts go through the chat template; a plain string becomes one user message
    context:  longest sequence in tokens
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    end_id: int | None
    chat: bool
    context: int

    @cached_property
    def fingerprint(self) -> str:
        """Equal for two tokenizers that give the same ids: hash of what turns text into ids, and the chat template.

        Left out: padding and truncation settings, and a pad token added for a reward model; they change no id.
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
        """Ids up to where the answer begins. Raises DataError where the chat template refuses the messages."""
        return list(self._encoded(prompt))

    @cached_property
    def _encoded(self) -> Callable[[Prompt], tuple[int, ...]]:
        """The same; lately asked ones are known, for a prompt is encoded again with each of its answers."""
        return lru_cache(maxsize=512)(lambda prompt: tuple(self._encode_prompt(prompt)))

    def _encode_prompt(self, prompt: Prompt) -> list[int]:
        if self.chat:
            messages = [{"role": m.role, "content": m.content} for m in _messages(prompt)]
            try:
                text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                raise DataError(f"the model's chat template refuses prompt {prompt.id}: {error}") from error
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._plain(_plain_text(prompt))

    def encode_completion(self, prompt: Prompt, prompt_ids: Sequence[int], text: str, ended: bool = True) -> list[int]:
        """Ids of an answer given as text, with the end token if it ended by itself.

        Without a chat template, prompt and answer are encoded as one text where that leaves the prompt's ids as they
        are: some tokenizers would put a space of their own at the start of the answer.
        """
        ids: list[int] | None = None
        if not self.chat:
            whole = self._plain(_plain_text(prompt) + text)
            if whole[: len(prompt_ids)] == list(prompt_ids):
                ids = whole[len(prompt_ids) :]
        if ids is None:
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.end_id] if ended and self.end_id is not None else ids

    def completion_ids(self, prompt: Prompt, prompt_ids: Sequence[int], completion: Completion) -> list[int]:
        """The sampled ids where this tokenizer made them, else the text encoded anew."""
        if completion.token_ids is not None and completion.tokenizer == self.fingerprint:
            return list(completion.token_ids)
        return self.encode_completion(prompt, prompt_ids, completion.text, completion.finish_reason != "length")

    def decode(self, ids: Sequence[int]) -> str:
        """The answer as text: up to the first stop token, special tokens left out."""
        for place, token in enumerate(ids):
            if token in self.stop_ids:
                ids = ids[:place]
                break
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return text.replace("\x00", "\ufffd")  # an untrained byte-level model samples NUL; no file or Postgres keeps it

    def save(self, folder: str) -> None:
        self.tokenizer.save_pretrained(folder)

    def _plain(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text)["input_ids"])
        # some tokenizers append their end token to whatever they encode; a prompt must not end
        while ids and ids[-1] in self.stop_ids and len(ids) > 1:
            ids.pop()
        if not ids:  # an empty prompt: begin a document
            start = self.tokenizer.bos_token_id
            ids = [start if start is not None else (self.end_id or 0)]
        return ids


def _messages(prompt: Prompt) -> list[Message]:
    content = prompt.content
    messages = [Message("user", content)] if isinstance(content, str) else list(content)
    if prompt.system:
        messages.insert(0, Message("system", prompt.system))
    return messages


def _plain_text(prompt: Prompt) -> str:
    """A prompt for a model without template: text as it is; a chat as named turns, up to where the answer begins."""
    if isinstance(prompt.content, str):
        return f"{prompt.system}\n\n{prompt.content}" if prompt.system else prompt.content
    turns = "".join(f"\n\n{_SPEAKER.get(m.role, m.role)}: {m.content}" for m in _messages(prompt))
    return turns + "\n\nAssistant:"


_SPEAKER = {"user": "Human", "prompter": "Human", "assistant": "Assistant", "system": "System"}


def stop_tokens(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """All ids that end an answer, from generation config, model config and tokenizer."""
    found: list[int] = []
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        for token in value if isinstance(value, list | tuple) else [value]:
            if token is not None and token not in found:
                found.append(int(token))
    return tuple(found)


def make_codec(tokenizer: Any, model: Any, chat: str = "auto") -> Codec:
    """The codec of a loaded model. Raises ModelError where tokenizer and embedding do not fit together."""
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding only {size}: they do not belong together"
        )
    stops = stop_tokens(tokenizer, model)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else (stops[0] if stops else None)
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)
    use_chat = chat == "auto" and bool(getattr(tokenizer, "chat_template", None))
    return Codec(tokenizer, stops, end, use_chat, context)
