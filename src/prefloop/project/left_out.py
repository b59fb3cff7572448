"""Leaves rows that a chat template or an endpoint refuses out of a stage. It counts and names them, by file and row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from prefloop.errors import DataError, NothingToDoError, TemplateError
from prefloop.results import Refused
from prefloop.store.origins import origins
from prefloop.types import Demonstration, Item, Prompt

if TYPE_CHECKING:
    from prefloop.models.tokenization import Tokenization
    from prefloop.project.project import Project

Row = TypeVar("Row", Prompt, Demonstration, Item)

NAMED = 10  # A result names so many; the others are counted.
SHOWN = 3  # The terminal shows so many.


class LeftOut:
    """Holds the rows that one stage leaves out.

    They are printed when they are found, and `counted` goes into the result.
    """

    def __init__(self, project: Project | None = None):
        """Take note of where the rows come from.

        project: None where a file was read without a project
        """
        self.project = project
        self.reasons: dict[str, str] = {}  # {row's id: "file row 8: what the template said"}

    def accepted(
        self,
        tokenizations: Sequence[Tokenization],
        rows: Iterable[Row],
        what: str,
        some: bool = True,
        learns: bool = False,
    ) -> list[Row]:
        """Return the rows that the chat templates of all these models take, prompt and answers.

        what: what the rows are, for messages to people
        some: raise DataError where there are rows, and none is taken
        learns: a policy learns the answers, so that it must be known which part of each the assistant wrote
        """
        kept: list[Row] = []
        refused: dict[str, tuple[Row, str]] = {}
        for row in rows:
            why = next((why for tokenization in tokenizations if (why := refusal(tokenization, row, learns))), None)
            if why is None:
                kept.append(row)
            else:
                refused[row.id] = (row, why)
        if not refused:
            return kept
        named = self._named(refused)
        if not kept and some:
            self.reasons |= named
            self.stop(what)
        if fresh := [text for key, text in named.items() if key not in self.reasons]:
            more = f"; and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else ""
            if self.project is not None:
                self.project.say(
                    f"warning: {len(fresh)} of {len(kept) + len(refused)} {what} left out, since the model's chat "
                    f"template refuses them: {'; '.join(fresh[:SHOWN])}{more}"
                )
        self.reasons |= named
        return kept

    def add(self, row: Row, why: str) -> None:
        """Leave out a row that something else than a template refuses; the first ones are printed."""
        named = self._named({row.id: (row, why)})
        self.reasons |= named
        if self.project is not None and len(self.reasons) <= SHOWN:
            self.project.say(f"warning: left out: {named[row.id]}")

    def stop(self, what: str) -> NoReturn:
        """Raise the DataError that says that nothing is left."""
        raise DataError(
            f"the model's chat template refuses every one of {len(self.reasons)} {what}, first "
            f"{next(iter(self.reasons.values()))}. Import them as the template wants them, or leave it alone: [model] "
            'chat = "none".'
        )

    def _named(self, refused: dict[str, tuple[Any, str]]) -> dict[str, str]:
        places: dict[str, str] = {}
        if self.project is not None:
            asked = [id for id, _ in refused.items()] + [_prompt(row).id for row, _ in refused.values()]
            places = origins(self.project.store, asked)
        found = {}
        for id, (row, why) in refused.items():
            prompt = _prompt(row)
            place = places.get(id) or places.get(prompt.id) or f"prompt {prompt.id}"
            found[id] = f"{place}: {why}"
        return found

    def used(self, snapshot: str, refused: Collection[str] | None = None) -> str:
        """Return the snapshot without the ids that were refused (by default the rows' own): what the model learnt from.

        It is the same snapshot where nothing of it was left out.
        """
        gone = self.reasons.keys() if refused is None else refused
        if self.project is None or not gone:
            return snapshot
        known = self.project.store.snapshot(snapshot)
        return self.project.snapshot(known.kind, [id for id in known.ids if id not in gone])

    def counted(self) -> Refused | None:
        """For a result: how many and the first of them; None where nothing was left out."""
        if not self.reasons:
            return None
        return Refused(len(self.reasons), tuple(self.reasons.values())[:NAMED])


def _prompt(row: Prompt | Demonstration | Item) -> Prompt:
    return row if isinstance(row, Prompt) else row.prompt


def refusal(tokenization: Tokenization, row: Prompt | Demonstration | Item, learns: bool = False) -> str | None:
    """Return what the chat template says against a prompt or an answer to it; None where it takes them.

    The argument `learns` is as of `LeftOut.accepted`.
    """
    if not tokenization.chat:
        return None
    prompt = _prompt(row)
    answers = row.completions if isinstance(row, Item) else () if isinstance(row, Prompt) else (row,)
    try:
        tokenization.render(prompt)
        for answer in answers:
            if tokenization.render_answer(prompt, answer) is not None and learns:
                ids = tokenization.encode_prompt(prompt)
                tokenization.assistant_mask(prompt, ids, answer, tokenization.answer_ids(prompt, ids, answer))
    except TemplateError as error:
        return error.reason
    return None


def fitting(
    project: Project,
    tokenization: Tokenization,
    prompts: Iterable[Prompt],
    max_tokens: int,
    left_out: LeftOut | None = None,
    judges: Iterable[Tokenization] = (),
) -> list[tuple[Prompt, list[int]]]:
    """Return (prompt, its ids) of those that leave room for an answer; the others are counted and named, not fatal.

    judges:   tokenizations of models that read the prompt too; their templates may refuse what the policy's takes
    left_out: gets the prompts that a template refuses

    Raises NothingToDoError where none is left.
    """
    kept, dropped = [], []
    for prompt in (left_out or LeftOut(project)).accepted([tokenization, *judges], prompts, "prompts"):
        ids = tokenization.encode_prompt(prompt)
        if len(ids) + max_tokens <= tokenization.context:
            kept.append((prompt, ids))
        else:
            dropped.append((prompt.id, len(ids)))
    if dropped:
        project.say(
            f"warning: {len(dropped)} prompts left out: with max_tokens = {max_tokens} they do not fit the model's "
            f"context of {tokenization.context} tokens (first: {dropped[0][0]}, {dropped[0][1]} tokens)"
        )
    if not kept:
        raise NothingToDoError(
            "no prompt fits the model: import prompts first, or lower max_tokens"
            if dropped
            else "there are no prompts yet: run prefloop import FILE"
        )
    return kept
