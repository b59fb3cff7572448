"""Defines the data types of prefloop, by the standard library only. Every record is frozen.

A *prompt* is answered by *completions*. An *item* is one prompt with the list of completions that are shown together. A
*ranking* is one person's tiers of an item. Comparisons are always derived from rankings and never stored.

Identifiers are hashes of content, so that importing the same file twice adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefloop.messages import Content as Content
from prefloop.messages import Json as Json
from prefloop.messages import Message as Message
from prefloop.messages import Turns as Turns
from prefloop.messages import content_from_json as content_from_json
from prefloop.messages import content_text as content_text
from prefloop.messages import content_to_json as content_to_json
from prefloop.messages import conversation, message_text, tool_text
from prefloop.messages import digest as digest

FinishReason = Literal["stop", "length"]
Split = Literal["train", "heldout"]
IMPORTED = "import"  # This is the annotator of rankings whose file names nobody.
# By this criterion single completions are judged: what is placed is good, unless it is marked unacceptable.
ACCEPTABLE = "acceptable"


@dataclass(frozen=True)
class Prompt:
    """Holds what a model is asked.

    content: a text or the messages of a chat
    id:      a hash of content, system and tools
    tools:   JSON schemas of the functions that the model may call, as chat templates take them
    """

    content: Content
    system: str | None = None
    metadata: Json = field(default_factory=dict, hash=False, compare=False)
    split: Split | None = None  # With None the project's held-out share decides.
    id: str = ""
    row: int | None = field(default=None, hash=False, compare=False)  # It is the row of the file that it was read from.
    tools: tuple[Json, ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", prompt_id(self.content, self.system, self.tools))

    @property
    def text(self) -> str:
        """Return the prompt as text, for people and for scorers. Tools come first."""
        asked = content_text(self.content)
        return "\n\n".join(["\n".join(["tools:", *map(tool_text, self.tools)]), asked]) if self.tools else asked

    @property
    def start(self) -> str:
        """Return at most 160 characters on one line, by which people recognise the prompt in a list.

        They are the beginning of the text, or of the last turn that says something, preferably the user's.
        """
        said = conversation(self.content)
        turns = [Message("user", said)] if isinstance(said, str) else sorted(reversed(said), key=_not_asking)
        line = next((line for turn in turns if (line := " ".join(message_text(turn).split()))), "")
        return line if len(line) <= 160 else line[:159] + "…"


def _not_asking(turn: Message) -> bool:
    return turn.role != "user"


def prompt_id(content: Content, system: str | None, tools: Sequence[Json] = ()) -> str:
    return digest("prompt", content_to_json(content), system, *([list(tools)] if tools else []))


def answer_key(text: str, messages: Turns) -> object:
    """Return what distinguishes one answer from another: its text, and its messages if they hold more than it shows."""
    return text if all(m.plain for m in messages) else [text, content_to_json(messages)]


@dataclass(frozen=True)
class Demonstration:
    """Holds a completion that somebody wrote as an example. `messages` is as in `Completion`."""

    prompt: Prompt
    text: str
    metadata: Json = field(default_factory=dict, hash=False, compare=False)
    ordinal: int = 0  # distinguishes equal answers to one prompt
    id: str = ""
    row: int | None = field(default=None, hash=False, compare=False)  # It is the row of the file that it was read from.
    messages: Turns = ()

    def __post_init__(self) -> None:
        if not self.id:
            answer = answer_key(self.text, self.messages)
            object.__setattr__(self, "id", digest("demonstration", self.prompt.id, answer, self.ordinal))


@dataclass(frozen=True)
class Completion:
    """Holds one answer to a prompt.

    Sampled ones keep their token ids and logprobs, since encoding the text again may differ.

    logprobs: the sampler's log-probabilities of `token_ids`, in nats
    tokenizer: the fingerprint of the tokenizer that made `token_ids`; only a model with the same one uses the ids
    policy_version: the name of the weights that sampled it
    messages: the turns of an answer that is more than one plain text of the assistant (it calls tools, it reasons, it
              goes on after a tool's result); otherwise (). `text` is then what a person reads.
    """

    id: str
    text: str
    model: str | None = None
    policy_version: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason | None = None
    sampling: Json | None = field(default=None, hash=False, compare=False)
    tokenizer: str | None = None
    metadata: Json = field(default_factory=dict, hash=False, compare=False)
    messages: Turns = ()

    @property
    def answer(self) -> object:
        """Return what distinguishes it from another answer to the same prompt."""
        return answer_key(self.text, self.messages)

    @property
    def local_id(self) -> str:
        """Return the id inside its item ("c0"), as in the canonical ranking format."""
        return self.id.split(":", 1)[-1]


@dataclass(frozen=True)
class Ranking:
    """Records one event: one annotator ranks one item by one criterion.

    Rankings are only added; an edit supersedes another.

    tiers:           completion ids, best tier first; ids in one tier tie, and ids in no tier were left unranked
    unacceptable:    completion ids that were marked unacceptable
    shown:           completion ids in the order in which they were shown
    ratings:         {completion id: {attribute: number}}
    """

    item_id: str
    annotator: str
    criterion: str
    tiers: tuple[tuple[str, ...], ...]
    unacceptable: tuple[str, ...] = ()
    none_acceptable: bool = False
    ratings: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    comment: str | None = None
    flags: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    duration_s: float | None = None
    created_at: str | None = None
    supersedes: str | None = None
    simulated: bool = False
    metadata: Json = field(default_factory=dict, hash=False, compare=False)
    ordinal: int = 0  # the position in its record, which distinguishes equal events
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            key = digest(
                "ranking", self.item_id, self.annotator, self.criterion, self.tiers, self.created_at, self.ordinal
            )
            object.__setattr__(self, "id", key)


@dataclass(frozen=True)
class Item:
    """Holds a prompt, the completions shown together, and their rankings.

    external_id: the record's own id in the file it came from; completion ids are "<item id>:<local id>"
    round: the number of the loop's round
    source: where the item came from ("import", "sample")
    """

    id: str
    prompt: Prompt
    completions: tuple[Completion, ...]
    rankings: tuple[Ranking, ...] = ()
    external_id: str | None = None
    round: int = 0
    source: str = "import"
    metadata: Json = field(default_factory=dict, hash=False, compare=False)
    row: int | None = field(default=None, hash=False, compare=False)  # It is the row of the file that it was read from.


@dataclass(frozen=True)
class Comparison:
    """Is a pair derived from a ranking: `better` beats `worse` with probability `p` (1 = strict, 0.5 = tie)."""

    better: str
    worse: str
    p: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class Snapshot:
    """Says what a model was trained on: the sorted ids of its data, and their hash."""

    kind: Literal["demonstrations", "rankings", "prompts"]
    ids: tuple[str, ...]

    @property
    def hash(self) -> str:
        return digest(self.kind, self.ids)
