"""Prepares what the ranking page shows of a presentation: safe text, letters for positions, and words for people.

Nothing is added to what `Queue` hands out. What is not in `Presentation` cannot reach an annotator.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from markupsafe import Markup

from prefloop.config import Annotate
from prefloop.labels.answer import FLAGS, LETTERS, LONGEST_COMMENT, SKIP_REASONS, Answer
from prefloop.messages import Turns, asides, conversation, message_text, speaker, tool_text
from prefloop.store.queue.types import Presentation, Progress
from prefloop.types import Content, Message, Prompt
from prefloop.web.render import raw, rendered

FLAG_WORDS = {
    "wrong": "Wrong: states something false",
    "unsafe": "Unsafe: harmful or illegal help",
    "pii": "Personal data of a real person",
    "off": "Off: not an answer, broken, or another language",
}
SKIP_WORDS = {
    "unclear": "I can't tell what is asked",
    "no expertise": "I don't know enough about this",
    "too long": "Too long to read with care",
    "broken": "The texts are broken or empty",
    "distressing": "I would rather not read this",
    "other": "Another reason",
}
# "Much better" is a choice for two answers only where an answer has a field for it.
MUCH = "much" in {field.name for field in fields(Answer)}
KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Tab", "j", "k"), "next and previous answer"),
    (("1…9",), "put the answer in that place, go to the next one without"),
    (("[", "]"), "one step better or worse (also Alt+↑, Alt+↓)"),
    (("=",), "tie with the place above"),
    (("Backspace",), "take the place away"),
    (("x",), "unacceptable"),
    (("0",), "none acceptable"),
    (("q…t", "Q…T"), "rate 1 to 5: first, second attribute"),
    (("v",), "pin; on a second answer: compare word by word"),
    (("m",), "raw text or rendered"),
    (("p",), "prompt: a third, one line, whole"),
    (("f",), "flag"),
    (("s",), "skip, with a reason"),
    (("c", "Esc"), "write why; leave the text"),
    (("u", "Ctrl+Z"), "undo; then reopen your last answers"),
    (("Ctrl+S",), "save the draft (it also saves itself)"),
    (("Enter",), "submit (in the text: Ctrl+Enter)"),
    (("?",), "guidelines and keys"),
)
TAPS = (
    "Read a card, then tap its place: on the card, or in the ranking below, which speaks of the card you are reading.",
    "The same place twice is a tie. Tap a letter in the ranking to go to its card, or drag it to another place.",
    "✗ marks an answer unacceptable, ⚑ flags it, ⇄ on two cards shows them side by side.",
    "⌫ takes a card's place away. A card that belongs between two others: drag its letter there.",
    "With two answers: tap which is better, a tie, or both bad.",
    "Why opens a field for your reasons. Undo takes back a step, then reopens your last answers.",
    "Skip gives the item to somebody else and asks why. Raw shows the texts as they were written.",
    "Submit is ready once every card has a place and has been seen to its end.",
)
PAIR_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("←", "→"), "two answers: left or right is better"),
    (("↓", "↑"), "two answers: a tie; both bad"),
    *(((("⇧←", "⇧→"), "two answers: much better"),) if MUCH else ()),
)


@dataclass(frozen=True)
class Shown:
    """Holds a text in two forms: as safe Markdown, and unchanged.

    `name` is its heading ("A", "User"), `kind` its style.
    """

    name: str
    kind: str
    html: Markup
    raw: Markup


@dataclass(frozen=True)
class TaskPage:
    """Holds everything that `rank_task.html` needs. The JSON texts are for data attributes; Jinja escapes them."""

    lease: str
    seconds_left: int
    position: int
    criterion: str
    attributes: tuple[str, ...]
    turns: tuple[Shown, ...]
    cards: tuple[Shown, ...]
    words: int
    draft: str
    answer: str
    progress: str
    returned: str | None


def task_page(given: Presentation, progress: Progress | None, now: float | None = None) -> TaskPage:
    """Return the page of one presentation.

    now: seconds since 1970, by default the current time
    """
    now = time.time() if now is None else now
    return TaskPage(
        lease=given.lease,
        seconds_left=max(0, int(given.expires_at - now)),
        position=given.position,
        criterion=given.criterion,
        attributes=given.attributes,
        turns=turns(given.prompt),
        cards=cards(given.texts, given.turns),
        words=words(given.prompt.text, *given.texts),
        draft=data(given.draft),
        answer=data(said(given.answer)) if given.answer else "",
        progress=data(progress_json(progress)) if progress else "",
        returned=given.returned,
    )


def cards(texts: Sequence[str], turns: Sequence[Turns]) -> tuple[Shown, ...]:
    """Return answers by letter: A is texts[0], and turns[0] holds its turns if it has more than its text."""
    pairs = enumerate(zip(texts, turns, strict=True))
    return tuple(Shown(LETTERS[place], "answer", _answer(text, said), raw(text)) for place, (text, said) in pairs)


def _answer(text: str, said: Turns) -> Markup:
    """Return an answer as HTML; one of several turns says who speaks."""
    if not said:
        return rendered(text, typeset=True)
    if len(said) == 1 and said[0].role == "assistant":
        return _message(said[0])
    named = (Markup("<p><strong>{}</strong></p>").format(raw(_name(m))) + _message(m) for m in said)
    return Markup("").join(named)


def turns(prompt: Prompt) -> tuple[Shown, ...]:
    """Return the prompt as turns of a chat, after its tools. A plain prompt, or a chat of one turn, has no names."""
    tools = "\n".join(map(tool_text, prompt.tools))
    first = [Shown("Tools", "system", Markup("<pre>{}</pre>").format(raw(tools)), raw(tools))] if tools else []
    system = [Message("system", prompt.system)] if prompt.system else []
    said = conversation(prompt.content)
    if isinstance(said, str):
        return (*first, *map(_turn, system), Shown("", "user", rendered(said, typeset=True), raw(said)))
    named = (*first, *map(_turn, [*system, *said]))
    if len(named) == 1 and said[0] == Message("user", said[0].content):
        return (replace(named[0], name=""),)  # A chat of one turn is shown like a plain question.
    return named


def _turn(message: Message) -> Shown:
    kind = message.role if message.role in ("system", "user", "assistant") else "other"
    return Shown(_name(message), kind, _message(message), raw(message_text(message)))


def _name(message: Message) -> str:
    """Return the name of a speaker: "User", "Tool weather [call_1]"."""
    said = speaker(message)
    return said[:1].upper() + said[1:]


def _message(message: Message) -> Markup:
    """Return a message: its text as Markdown, but calls and reasoning unchanged, since Markdown drops characters."""
    before, after = (
        Markup("<pre>{}</pre>").format(raw("\n".join(lines))) if lines else Markup("") for lines in asides(message)
    )
    return before + (rendered(message.content, typeset=True) if message.content else Markup("")) + after


def words(*texts: str) -> int:
    """Return how many words there are to read."""
    return sum(len(text.split()) for text in texts)


def plain(content: Content) -> str:
    """Return a prompt on one line, for lists."""
    text = content if isinstance(content, str) else " · ".join(map(message_text, content))
    return " ".join(text.split())


def said(answer: Answer) -> dict[str, Any]:
    """Return an answer for the screen to start from, without its duration."""
    return {key: value for key, value in answer.to_json().items() if key not in ("duration_s", "dwell_s")}


def in_words(answer: Answer) -> str:
    """Return an answer in words for a person's own history: "B, then A = C; unacceptable: A"."""
    parts = [", then ".join(" = ".join(LETTERS[i] for i in sorted(tier)) for tier in answer.tiers)]
    if answer.unacceptable:
        parts.append("unacceptable: " + ", ".join(LETTERS[i] for i in sorted(answer.unacceptable)))
    if answer.none_acceptable:
        parts.append("none acceptable")
    return "; ".join(filter(None, parts))


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return a person's own numbers for the page's progress bar."""
    return {
        "done": progress.done,
        "limit": progress.limit,
        "open": progress.open,
        "per_hour": round(progress.per_hour) if progress.per_hour else None,
        "seconds_per_word": progress.seconds_per_word,
    }


def rules(settings: Annotate) -> str:
    """Return what the project allows, for the script. The server checks the same again."""
    return data(
        {
            "partial": settings.partial,
            "none_acceptable": settings.none_acceptable,
            "rationale": settings.rationale,
            "attributes": list(settings.attributes),
            "much": MUCH,
        }
    )


def choices() -> dict[str, Any]:
    """Return the dialogs' choices and the key map."""
    return {
        "flags": [(flag, FLAG_WORDS[flag]) for flag in FLAGS],
        "skip_reasons": [(reason, SKIP_WORDS[reason]) for reason in SKIP_REASONS],
        "keys": (*KEYS, *PAIR_KEYS),
        "taps": TAPS,
        "much": MUCH,
        "longest_comment": LONGEST_COMMENT,
    }


def finished(progress: Progress, *, held: bool) -> Mapping[str, str]:
    """Return what a person without work is told.

    held: whether somebody holds an item that could become theirs
    """
    if progress.stopped == "limit":
        return {
            "title": "That was your share: thank you",
            "why": f"You have ranked {progress.done} items, as many as this project asks of one person.",
        }
    if progress.stopped:
        return {"title": "Nothing for you here now", "why": "Ask the project's owner if you expected work."}
    if held:
        return {
            "title": "Nothing for you at this moment",
            "why": "Others are working on what is left. If they let go of it, it is yours: look again in a while.",
        }
    return {
        "title": "All done: thank you",
        "why": "You have had everything there is for you. New items will appear here.",
    }


def data(value: object) -> str:
    """Return JSON for a data attribute; None is the empty text. Jinja escapes it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")) if value is not None else ""
