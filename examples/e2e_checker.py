"""Checks restaurant descriptions independently: is what the prompt asks for in the text? It uses rules, nothing learnt.

A prompt lists attributes, `name[The Mill], food[English], familyFriendly[no]`. Each one is found in the text ("ok"),
not found ("missing"), or the text says something else ("contradicted"). Nobody trained on these rules, so they show
whether a policy that pleases its reward model still says what it was asked to say.

    prefloop.toml:  [evaluate] scorer = "e2e_checker.py:score"
    by hand:        python e2e_checker.py PROMPTS_AND_TEXTS.jsonl      (records with "prompt" and "completion")

Three things are left out on purpose: fluency, repetition, and the difference between wordings that people use for one
another (a rating of "1 out of 5" and a low one, "less than £20" and cheap). Rules of this kind are wrong on some texts;
they are as wrong before training as after it.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

OK, MISSING, CONTRADICTED = "ok", "missing", "contradicted"

# These words each mean one kind of thing.
EAT_TYPES = {
    "restaurant": r"restaurants?|eatery|diner|bistro",
    "pub": r"pubs?|bar|tavern|inn",
    "coffee shop": r"coffee(?: shops?| house| place| bar)?|coffeeshop|cafe",
}
FOODS = {
    "fast food": r"fast foods?|burgers?",
    "english": r"english|british",
    "chinese": r"chinese",
    "japanese": r"japanese|sushi",
    "french": r"french",
    "italian": r"italian|pasta",
    "indian": r"indian",
}
AREAS = {
    "riverside": r"river ?sides?|rivers?|waterside|waterfront",
    "city centre": r"(?:city|town)(?: ?(?:centre|center))?|(?:centre|center) of|central|centrally",
}
LOW, MIDDLE, HIGH = "low", "middle", "high"
PRICE_CLASS = {
    "cheap": LOW,
    "less than £20": LOW,
    "moderate": MIDDLE,
    "£20-25": MIDDLE,
    "high": HIGH,
    "more than £30": HIGH,
}
RATING_CLASS = {
    "low": LOW,
    "1 out of 5": LOW,
    "average": MIDDLE,
    "3 out of 5": MIDDLE,
    "high": HIGH,
    "5 out of 5": HIGH,
}
_PRICE = r"(?:prices?|priced|pricing|cost|costs|costing)"
_LINKS = "is|are|of|in|a|an|the|as|at|being|around|between|from|fairly|quite|very|on|side"
_IS = rf"(?: range| ranges| bracket| point)?(?: (?:{_LINKS}))*"
PRICES = {
    LOW: rf"cheap|cheaply|cheaper|inexpensive|affordable|low(?:er)? (?:{_PRICE}|end)"
    rf"|{_PRICE}{_IS} (?:low|cheap)\b(?! customer)|(?:less|lower|cheaper) than 20|(?:under|below) 20|low cost",
    MIDDLE: rf"moderate(?! (?:customer|rating))|moderately|mid (?:{_PRICE}|range)|average (?:{_PRICE})|reasonabl[ey]"
    rf"|{_PRICE}{_IS} (?:average|moderate|medium)\b(?! customer)|medium {_PRICE}|20 (?:to |and )?25",
    HIGH: rf"expensive|pricey|pricy|costly|upscale|high(?:er|ly)? (?:{_PRICE}|end)"
    rf"|{_PRICE}{_IS} high\b(?! customer| rating| rated)|(?:more|higher|greater) than 30|(?:over|above) 30",
}
_SPOKEN = r"(?:customer|consumer|user|overall|guest)"
_RATED = r"(?:ratings?|rated|rates?|reviews?|reviewed|satisfaction|scores?|scored|quality)"
_LINK = r"(?: (?:is|are|of|at|as|a|an|the|it|was|being|has|with|only|very|quite|score|been|by|customers?|this|place))*"
_LEVELS = {
    LOW: (r"low|lowly|poor|poorly|bad|badly", r"1|one"),
    MIDDLE: (r"average|averagely|mediocre|decent|middling", r"3|three"),
    HIGH: (r"high|highly|good|great|excellent|well|top|best|fantastic|amazing", r"5|five"),
}
RATINGS = {
    level: rf"(?:{words})(?: {_SPOKEN})? {_RATED}|{_RATED}{_LINK} (?:{words})\b(?! {_PRICE})"
    rf"|(?:{number}) out of (?:5|five)|(?:{number}) (?:of|5ths) (?:5|five)\b|(?:{number}) stars?|(?:{number}) 5\b"
    for level, (words, number) in _LEVELS.items()
}
_FAMILY = r"(?:famil(?:y|ies)|kids?|child(?:ren)?(?:s)?)"
_NOT = r"(?:not|no|non|never|nt|isnt|doesnt|dont|arent|wont|cannot|without|unsuitable|unfriendly|un|inappropriate)"
# "not (a) family friendly", "kids are not welcome" and "adults only" say no; a full stop or "but" ends the reach of a
# "not".
NEGATED = (
    rf"{_NOT}(?: \w+){{0,5}}? {_FAMILY}"
    rf"|{_FAMILY}(?: friendly)?(?: (?:is|are|should|will|would|be|venue|no))*? {_NOT}|adults?(?: only)?"
)
_STOPS = re.compile(r"[.!?;]|\bbut\b|\bhowever\b")


def score(prompt: str, completion: str) -> float:
    """Return the share of the prompt's attributes that the text gives as asked, 0 to 1; 1 for a prompt without
    attributes.
    """
    found = check(prompt, completion)
    return sum(v == OK for v in found.values()) / len(found) if found else 1.0


def attributes(prompt: str) -> dict[str, str]:
    """Return `name[The Mill], food[English]` as {"name": "The Mill", "food": "English"}."""
    return {key.strip(): value.strip() for key, value in re.findall(r"([A-Za-z][A-Za-z ]*)\[([^\]]*)\]", prompt)}


def check(prompt: str, completion: str) -> dict[str, str]:
    """Return what became of each attribute of the prompt: "ok", "missing" or "contradicted"."""
    asked = attributes(prompt)
    said = stated(prompt, completion)
    result = {}
    for key, value in asked.items():
        right = _meaning(key, value)
        values = said.get(key, set())
        wrong = values - {right}
        result[key] = CONTRADICTED if wrong else OK if right in values else MISSING
    return result


def unasked(prompt: str, completion: str) -> set[str]:
    """Return attributes that the text states and the prompt does not: made up, though it contradicts nothing."""
    return {key for key, values in stated(prompt, completion).items() if values and key not in attributes(prompt)}


def stated(prompt: str, completion: str) -> dict[str, set[str]]:
    """Return what the text says about each attribute, in the classes of `_meaning`.

    Proper names are looked for first and taken out, so that "near Raja Indian Cuisine" says nothing about the food.
    """
    asked = attributes(prompt)
    text = _plain(completion)
    said: dict[str, set[str]] = {}
    for key in ("near", "name"):
        value = _meaning(key, asked.get(key, ""))
        if value and re.search(rf"\b{re.escape(value)}\b", text):
            said[key] = {value}
            text = re.sub(rf"\b(?:the )?{re.escape(value)}\b", " X ", text)
    words = " ".join(re.sub(r"[.!?;,:]", " ", text).split())
    for key, kinds in (("eatType", EAT_TYPES), ("food", FOODS), ("area", AREAS)):
        said[key] = _kinds(words, kinds)
    said["priceRange"] = _kinds(words, PRICES)
    said["customer rating"] = _kinds(words, RATINGS)
    said["familyFriendly"] = _family(text)
    return said


def _family(text: str) -> set[str]:
    said = set()
    for clause in _STOPS.split(text):
        clause = " ".join(re.sub(r"[,:]", " ", clause).split())
        if re.search(rf"\b(?:{NEGATED})\b", clause):
            said.add("no")
        elif re.search(rf"\b{_FAMILY}\b", clause):
            said.add("yes")
    return said


def _kinds(words: str, kinds: Mapping[str, str]) -> set[str]:
    return {kind for kind, pattern in kinds.items() if re.search(rf"\b(?:{pattern})\b", words)}


def _meaning(key: str, value: str) -> str:
    """Return the class a value belongs to, in the form that `stated` gives."""
    if key == "priceRange":
        return PRICE_CLASS.get(value, value)
    if key == "customer rating":
        return RATING_CLASS.get(value, value)
    plain = _plain(value)
    return plain.removeprefix("the ") if key in ("name", "near") else plain


def _plain(text: str) -> str:
    """Return the text in lower case, without accents, pounds or apostrophes, and with hyphens as spaces.

    So "family - friendly" is "family friendly".
    """
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    text = re.sub(r"(?<=\d)\.0\b", "", text)
    return " ".join(re.sub(r"[^\w.!?;,: ]", " ", text.replace("'", "").replace("’", "")).split())


def report(pairs: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return counts over (prompt, completion) pairs.

    error_rate:   share of all attributes that are missing or contradicted
    perfect:      share of texts with every attribute as asked
    unasked:      made-up attributes for each text
    attributes:   {attribute: {"ok": n, "missing": n, "contradicted": n}}
    """
    by_key: dict[str, Counter[str]] = {}
    texts = perfect = extra = 0
    for prompt, completion in pairs:
        found = check(prompt, completion)
        texts += 1
        perfect += all(v == OK for v in found.values())
        extra += len(unasked(prompt, completion))
        for key, outcome in found.items():
            by_key.setdefault(key, Counter())[outcome] += 1
    total = sum(sum(c.values()) for c in by_key.values())
    wrong = total - sum(c[OK] for c in by_key.values())
    return {
        "texts": texts,
        "error_rate": wrong / max(1, total),
        "perfect": perfect / max(1, texts),
        "unasked": extra / max(1, texts),
        "attributes": {k: dict(c) for k, c in sorted(by_key.items())},
    }


def main(path: str) -> None:
    with Path(path).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    print(json.dumps(report((r["prompt"], r["completion"]) for r in records), indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
