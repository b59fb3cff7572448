"""Makes a small Llama model with a tokenizer of its own, for research, tests and the built-in demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefloop.config import Model
from prefloop.errors import ConfigError, DataError

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% if tools %}<|user|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|end|>"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'assistant' %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the special tokens of a chat. Raises DataError if there is no text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += len(text)
            yield text

    tokenizer.train_from_iterator(counted(), trainer)
    if not seen:
        raise DataError(
            "there is no text to train a tokenizer on: import demonstrations or prompts, or set [model] text"
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_model(settings: Model, vocab_size: int, pad_id: int, end_id: int, seed: int) -> LlamaForCausalLM:
    """Return a Llama model initialised at random from the seed.

    Raises ConfigError for sizes that do not fit together.
    """
    if settings.hidden_size % settings.heads or (settings.hidden_size // settings.heads) % 2:
        raise ConfigError(
            f"[model] hidden_size = {settings.hidden_size} must be heads = {settings.heads} times an even number."
        )
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=int(settings.hidden_size * 8 / 3 / 8 + 0.5) * 8,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=pad_id,
        eos_token_id=end_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def make_scratch(folder: Path, settings: Model, texts: Iterable[str], seed: int) -> None:
    """Train the tokenizer, initialise the model, and write both as an ordinary Hugging Face folder."""
    transformers.logging.disable_progress_bar()  # A progress bar for one small file would disturb the output.
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    model = new_model(settings, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
