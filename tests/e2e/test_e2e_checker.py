"""The rules that check restaurant descriptions agree with sentences whose answer anyone can see."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import read
from prefloop.types import Demonstration, Item

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_checker() -> Any:
    spec = importlib.util.spec_from_file_location("e2e_checker", EXAMPLES / "e2e_checker.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


checker = load_checker()
FULL = (
    "name[The Mill], eatType[pub], food[English], priceRange[less than £20], customer rating[low], area[riverside], "
    "familyFriendly[no], near[Café Sicilia]"
)


def outcome(asked: str, text: str) -> str:
    (key,) = checker.attributes(asked)
    return str(checker.check(asked, text)[key])


def test_a_text_that_says_everything_scores_one() -> None:
    text = (
        "The Mill is a cheap English pub by the river near Café Sicilia. It has a low rating and is not family-friendly"
    )
    assert checker.score(FULL, text) == 1.0
    assert checker.unasked(FULL, text) == set()


def test_an_empty_text_scores_nothing() -> None:
    assert checker.score(FULL, "") == 0.0


def test_spacing_case_and_accents_of_the_systems_do_not_matter() -> None:
    text = "the mill is an english pub near cafe sicilia in riverside . it is not family - friendly , low rated , £ 20"
    found = checker.check(FULL, text)
    assert {k for k, v in found.items() if v != "ok"} == {"priceRange"}


@pytest.mark.parametrize(
    ("asked", "text", "expected"),
    [
        ("eatType[pub]", "It is a coffee shop.", "contradicted"),
        ("eatType[pub]", "It serves food.", "missing"),
        ("eatType[coffee shop]", "A coffee shop in town", "ok"),
        ("food[Fast food]", "a Fast food outlet", "ok"),
        ("food[French]", "Italian food", "contradicted"),
        ("area[city centre]", "by the riverside", "contradicted"),
        ("area[city centre]", "in the center of the city", "ok"),
        ("familyFriendly[yes]", "It is not kid friendly.", "contradicted"),
        ("familyFriendly[yes]", "It is kid friendly but not cheap.", "ok"),
        ("familyFriendly[no]", "It is family friendly.", "contradicted"),
        ("familyFriendly[no]", "Children are not welcome.", "ok"),
        ("familyFriendly[no]", "It is for adults only.", "ok"),
        ("customer rating[low]", "It has a low price range.", "missing"),
        ("customer rating[low]", "It has a low customer rating.", "ok"),
        ("customer rating[1 out of 5]", "poorly rated", "ok"),
        ("customer rating[5 out of 5]", "Its customer rating is 1 out of 5.", "contradicted"),
        ("customer rating[3 out of 5]", "rated average by customers", "ok"),
        ("priceRange[high]", "It has a high customer rating.", "missing"),
        ("priceRange[high]", "It has a high price range.", "ok"),
        ("priceRange[moderate]", "moderately priced", "ok"),
        ("priceRange[£20-25]", "The price range is £20-25.", "ok"),
        ("priceRange[more than £30]", "more than £ 30", "ok"),
        ("priceRange[cheap]", "expensive", "contradicted"),
        ("priceRange[cheap]", "inexpensive", "ok"),
        ("near[The Bakers]", "close to The Bakers", "ok"),
        ("name[The Mill]", "The Phoenix is a pub", "missing"),
    ],
)
def test_each_attribute_is_found_missing_or_contradicted(asked: str, text: str, expected: str) -> None:
    assert outcome(asked, text) == expected


def test_the_name_of_a_neighbour_says_nothing_about_the_food() -> None:
    asked = "name[Aromi], food[English], near[Raja Indian Cuisine]"
    assert checker.check(asked, "Aromi is near Raja Indian Cuisine.")["food"] == "missing"


def test_what_the_prompt_never_gave_is_reported_as_made_up() -> None:
    assert checker.unasked("name[Aromi]", "Aromi is a cheap pub.") == {"eatType", "priceRange"}


def test_people_and_good_systems_pass_most_checks_and_forgetful_systems_do_not(shared_data: Path) -> None:
    folder = shared_data / "e2e_nlg"
    written = [d for d in read(folder / "demonstrations.jsonl.gz") if isinstance(d, Demonstration)]
    people = checker.report((d.prompt.text, d.text) for d in written)
    assert people["error_rate"] < 0.1
    by_system: dict[str, list[tuple[str, str]]] = {}
    for item in read(folder / "rankings_train.jsonl.gz"):
        assert isinstance(item, Item)
        for completion in item.completions:
            by_system.setdefault(str(completion.model), []).append((item.prompt.text, completion.text))
    errors = {name: checker.report(pairs)["error_rate"] for name, pairs in by_system.items()}
    # Systems built on rules say everything; two neural ones are known to leave things out.
    assert errors["forge1"] < 0.02 and errors["tuda"] < 0.02
    assert errors["sheff2"] > 0.2 and errors["chen"] > 0.2
