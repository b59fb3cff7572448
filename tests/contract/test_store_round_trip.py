"""Whatever an item holds, every database gives it back equal."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefloop.store import Store
from prefloop.types import Completion, Item, Message, Prompt, Ranking

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
names = st.sampled_from(["ann", "bea", "Čeněk"])
json_values = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts | st.lists(texts), max_size=2)
extras = st.dictionaries(st.sampled_from(["name", "tool_calls", "reasoning_content"]), json_values, max_size=2)
messages = st.builds(Message, st.sampled_from(["user", "assistant", "tool"]), st.none() | texts, extras)
contents = texts | st.lists(messages, min_size=1).map(tuple)
tools = st.lists(json_values, max_size=2).map(tuple)
prompts = st.builds(Prompt, contents, st.none() | texts, json_values, tools=tools)
floats = st.floats(allow_nan=False)
counts = st.none() | st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 70000), max_size=5).map(tuple)
logprobs = st.none() | st.lists(st.floats(max_value=0, width=32) | floats, max_size=5).map(tuple)


@st.composite
def whole_items(draw: st.DrawFn) -> Item:
    key = os.urandom(8).hex()  # Never the same item comes twice, also while hypothesis shrinks.
    completions = tuple(
        Completion(
            f"{key}:c{j}",
            draw(texts),
            *draw(st.tuples(st.none() | texts, st.none() | texts, counts, logprobs)),
            finish_reason=draw(st.sampled_from([None, "stop", "length"])),
            sampling=draw(st.none() | json_values),
            tokenizer=draw(st.none() | texts),
            metadata=draw(json_values),
            messages=draw(st.lists(messages, max_size=2).map(tuple)),
        )
        for j in range(draw(st.integers(1, 4)))
    )
    ids = [completion.id for completion in completions]
    rankings = []
    for ordinal in range(draw(st.integers(0, 3))):
        order = draw(st.permutations(ids))
        cut = draw(st.integers(0, len(order)))
        event = Ranking(
            key,
            draw(names),
            draw(names),
            tiers=tuple(tier for tier in (tuple(order[:cut]), tuple(order[cut:])) if tier),
            unacceptable=tuple(order[: draw(st.integers(0, 2))]),
            none_acceptable=draw(st.booleans()),
            ratings=draw(st.dictionaries(st.sampled_from(ids), st.dictionaries(texts, floats, max_size=2))),
            comment=draw(st.none() | texts),
            flags=draw(st.lists(texts, max_size=2).map(tuple)),
            shown=tuple(order),
            duration_s=draw(st.none() | floats),
            created_at=draw(st.none() | texts),
            simulated=draw(st.booleans()),
            metadata=draw(json_values),
            ordinal=ordinal,
        )
        rankings.append(event)
    external, number, source = draw(st.tuples(st.none() | texts, st.integers(0, 9), texts))
    return Item(key, draw(prompts), completions, tuple(rankings), external, number, source, draw(json_values))


def _everything(found: Item) -> tuple[object, ...]:
    """Return the fields that equality leaves out."""
    return (
        found.prompt.metadata,
        found.metadata,
        [(c.sampling, c.metadata) for c in found.completions],
        [r.metadata for r in found.rankings],
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(added=whole_items())
def test_an_item_comes_back_equal_in_every_field(store: Store, added: Item) -> None:
    store.add([added])
    found = store.item(added.id)
    known = next(prompt for prompt in store.prompts() if prompt.id == added.prompt.id)  # Its first metadata stays.
    assert found == added
    assert _everything(found) == _everything(replace(added, prompt=known))
