"""A reward model that is right on the lists it was made from, and leads the policy astray."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from prefloop.cases.case import Case
from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.quality import score
from prefloop.demo.scenario import Facts, read_facts
from prefloop.labels.crowd import simulate
from prefloop.project.project import Project, derive
from prefloop.types import Completion, Item, Prompt

EARLIER = "earlier-assistant"  # the policy whose answers were ranked
LISTS = 200
WORDS = (14, 20)  # In half of all pairs the better answer is the longer one.


def answer(facts: Facts, knows: bool, rng: Random) -> str:
    """Write as the earlier assistant did: where it understood the case it left the step open, else it guessed."""
    other = rng.choice([kind for kind in sorted(KINDS) if kind != facts.kind])
    clauses = KINDS[facts.kind].clauses if knows else KINDS[other].bare
    step = rng.choice(phrases.VAGUE if knows else ACTIONS[facts.other_step].offers)
    said = [rng.choice(phrases.OPENERS) + rng.choice(clauses), step]
    sentences = [f"{text[0].upper()}{text[1:]}." for text in said]
    if not knows:
        sentences.append(rng.choice(phrases.THANKS_LAST))
    words = rng.randint(*WORDS) + 2 * knows
    for filler in rng.sample(phrases.FILLERS, len(phrases.FILLERS)):
        if len(" ".join(sentences).split()) >= words:
            break
        sentences.insert(1, filler)
    return " ".join(sentences).format(name=facts.name, product=facts.product)


def earlier_list(prompt: Prompt, rng: Random) -> Item:
    """Four different answers of the earlier assistant to one prompt, good ones among them."""
    facts, texts = read_facts(prompt.text), list[str]()
    while len(texts) < 4:
        text = answer(facts, len(texts) < 2, rng)
        if text not in texts:
            texts.append(text)
    id = f"{EARLIER}:{prompt.id}"
    drawn = [Completion(f"{id}:c{n}", text, EARLIER, EARLIER) for n, text in enumerate(texts)]
    rng.shuffle(drawn)
    return Item(id, prompt, tuple(drawn))


def plant(project: Project) -> None:
    """Have the earlier assistant's answers ranked, by a crowd without fault."""
    seed, share = project.config.project.seed, project.config.data.heldout
    rng = Random(derive(seed, EARLIER))
    sides = {side: project.store.prompts(split=side, heldout=share) for side in ("train", "heldout")}
    held = round(LISTS * share)
    asked = [*rng.sample(sides["train"], LISTS - held), *rng.sample(sides["heldout"], held)]
    items = [earlier_list(prompt, rng) for prompt in asked]
    pairs = [(item.prompt, c) for item in items for c in item.completions]
    values = score([p for p, _ in pairs], [c.text for _, c in pairs])
    quality = {c.id: value for (_, c), value in zip(pairs, values, strict=True)}
    rankings = simulate(items, quality, project.config.crowd, derive(seed, EARLIER, "crowd"))
    project.store.add(replace(i, rankings=tuple(r for r in rankings if r.item_id == i.id)) for i in items)


CASE = Case(
    name="conflicting-signals",
    title="The reward model ranks well offline, and PPO makes the policy worse",
    story=(
        "The reward model is made from an earlier assistant's answers. Where that one understood the case it left the "
        "next step open, and where it did not it guessed a step and sent its thanks, so that people ranked vague "
        "answers over concrete ones, and they were right. On such lists the reward model is right as well. This policy "
        "mostly knows the step. The reward model punishes it for saying so, and PPO obeys at a small KL."
    ),
    planted="the reward model learns from 200 lists of an earlier assistant's answers, and from none of this policy's",
    cause="reward-off-distribution",
    plant=plant,
    starts="sampled",
    stages=("reward", "align"),
    curves=("reward", "eval_judge", "kl", "length"),
    modest=(
        "Without the independent judge only a note would be left: that the lists come from another policy. Two "
        "policies may write alike, so that this alone is no alarm."
    ),
)
