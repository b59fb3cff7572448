"""Single answers judged good or bad (KTO): TRL's `prompt, completion, label`, LLaMA-Factory's `kto_tag`.

Each row becomes an item with one completion and one ranking on the criterion "acceptable".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Record
from prefloop.exchange.build import ACCEPTABLE, IMPORTED, build_item, draft
from prefloop.types import Item, Prompt

LABELS = ("label", "kto_tag")
ANSWERS = ("completion", "response")
USED = ("id", "annotator", "simulated", *LABELS, *ANSWERS)


def fits(record: Record) -> bool:
    answered = any(name in record for name in (*ANSWERS, "messages", "conversations"))
    return answered and any(isinstance(record.get(name), bool) for name in LABELS)


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    label = next((name for name in LABELS if record.get(name) is not None), None)
    if label is None:
        raise BadRow("no label")
    good = fields.flag(record, label)
    prompt = fields.prompt_of(record)
    answered = next((name for name in ANSWERS if record.get(name) is not None), None)
    if answered:
        completion = fields.completion(record[answered], "c0", answered)
    else:
        asked, turn = fields.split_answer(prompt.content, "a conversation with a label")
        prompt = Prompt(asked, prompt.system, prompt.metadata)
        completion = fields.answer((turn,), "c0", "the answer")
    ranking = draft(
        fields.optional_name(record, "annotator") or IMPORTED,
        ACCEPTABLE,
        [["c0"]],
        unacceptable=() if good else ("c0",),
        simulated=fields.flag(record, "simulated", False),
    )
    yield build_item(
        prompt,
        [completion],
        [ranking],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, (*USED, *fields.prompt_fields(record))),
    )


FORMAT = Format("kto", "single answers with a true/false label (TRL unpaired, LLaMA-Factory KTO)", fits, parse)
