"""Holds chat templates of well-known families as test data, in the form that their models publish.

They are shortened to what concerns users, assistants and a system prompt. What is marked "excerpt" leaves out more:
tools, reasoning, dates.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefloop.models.scratch import train_tokenizer

TEXTS = ["Say hello to the cat. Hello, cat! Go on. User: Assistant: system user model assistant final\n\n"] * 4
# These are nearly the words of Llama 3.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """Describes a family. end, lead, tail: what `turn_template_of` should find; eos: the tokenizer's.

    stops: the generation config's tokens
    """

    template: str
    tokens: tuple[str, ...]
    eos: str
    end: str | None
    lead: str = ""
    tail: str = ""
    stops: tuple[str, ...] = ()
    bos: str | None = None

    def tokenizer(self) -> PreTrainedTokenizerFast:
        made = train_tokenizer(TEXTS, 320)
        words = pre_tokenizers.Split(Regex(WORDS), "isolated")
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(False, True, False)]
        )
        named = dict.fromkeys([*self.tokens, self.eos, *([self.bos] if self.bos else [])])
        made.add_tokens([AddedToken(token, special=True, normalized=False) for token in named])
        made.eos_token, made.bos_token, made.chat_template = self.eos, self.bos, self.template
        return made


_CHATML = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
_HEADER = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>'"

FAMILIES: dict[str, Family] = {
    "Llama 2": Family(
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        + ALTERNATE
        + "{% if loop.index0"
        " == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + "
        "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        (),
        "</s>",
        "</s>",
        lead=" ",
        tail=" ",
        bos="<s>",
    ),
    "Llama 3": Family(
        "{% for message in messages %}{% set content = " + _HEADER + " %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
        stops=("<|end_of_text|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
    ),
    "Llama 3, the first release": Family(  # It always writes the head of the next answer.
        "{% for message in messages %}{% set content = " + _HEADER + " %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "Qwen2.5": Family(  # This is an excerpt.
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        "{% endif %}{% for message in messages %}" + _CHATML + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        "<|im_end|>",
        "<|im_end|>",
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "ChatML on a base model's tokenizer": Family(
        "{% for message in messages %}" + _CHATML + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        stops=("<|endoftext|>",),
    ),
    "Qwen3": Family(  # This is an excerpt: the last answer has a place for thoughts, which is empty.
        "{% for message in messages %}{% if message['role'] == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message['content'] + '<|im_end|>\n' }}"
        "{% else %}" + _CHATML + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        "<|im_end|>",
        "<|im_end|>",
        lead="<think>\n\n</think>\n\n",
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "Phi-3": Family(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|endoftext|>",
        "<|end|>",
        stops=("<|endoftext|>", "<|end|>"),
        bos="<s>",
    ),
    "Gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}" + ALTERNATE + "{% if (message['role'] == 'assistant') %}"
        "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<end_of_turn>",
        stops=("<eos>", "<end_of_turn>"),
        bos="<bos>",
    ),
    "Mistral": Family(
        "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]"),
        "</s>",
        "</s>",
        lead=" ",
        bos="<s>",
    ),
    "Zephyr": Family(
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        (),
        "</s>",
        "</s>",
        bos="<s>",
    ),
    "DeepSeek": Family(  # This is an excerpt.
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<\uff5cUser\uff5c>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
        "{{ '<\uff5cAssistant\uff5c>' + message['content'] + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}",
        ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"),
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    ),
    "OLMo and Tulu": Family(
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
        "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
        "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        (),
        "<|endoftext|>",
        "<|endoftext|>",
        bos="<|startoftext|>",
    ),
    "Command-R": Family(  # This is an excerpt.
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + "
        "message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        bos="<BOS_TOKEN>",
    ),
    "gpt-oss": Family(  # This is an excerpt: the last message of a conversation returns, and earlier ones only end.
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] }}"
        "{% if loop.last %}{{ '<|return|>' }}{% else %}{{ '<|end|>' }}{% endif %}"
        "{% else %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"),
        "<|return|>",
        "<|return|>",
        lead="<|channel|>final<|message|>",
        stops=("<|return|>", "<|call|>"),
    ),
    # This is an excerpt: nothing ends an answer but the next speaker's token, at which the config stops.
    "GLM-4": Family(
        "{{ '[gMASK]<sop>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"),
        "<|endoftext|>",
        "<|user|>",
        lead="\n",
        stops=("<|endoftext|>", "<|user|>"),
    ),
    "Falcon": Family(
        "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if message['role'] == 'user' %}"
        "{{ 'User: ' + message['content'].strip() }}{% elif message['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + message['content'].strip() }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}",
        (),
        "<|endoftext|>",
        None,
        lead=" ",
    ),
}

# People write such templates themselves.
HOME_MADE: dict[str, Family] = {
    "an end between turns only": Family(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
        "{% if not loop.last %}{{ '<|turn|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn|><|assistant|>' }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|turn|>"),
        "</s>",
        "<|turn|>",
    ),
    "no end, and always the head of the next answer": Family(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
        "{{ '<|assistant|>' }}",
        ("<|user|>", "<|assistant|>"),
        "</s>",
        None,
    ),
    "an end on a line of its own": Family(
        "{% for message in messages %}{{ message['role'] + ':\n' + message['content'] + '\n<|stop|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}",
        ("<|stop|>",),
        "</s>",
        "<|stop|>",
        tail="\n",
    ),
    "an end that is text": Family(
        "{% for message in messages %}{{ '### ' + message['role'] + '\n' + message['content'] + '\n### End\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}",
        (),
        "</s>",
        None,
        tail="\n### End",
    ),
    "one question and one answer, no more": Family(
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        ("<|user|>", "<|assistant|>"),
        "</s>",
        "<|end|>",
    ),
}
