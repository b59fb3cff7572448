"""The pages on which answers, runs side by side and a reward model are looked at."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from prefloop import record
from prefloop.web.watch.answers import Answers, Token

from .test_watch import HOSTILE, address, open_pages, words
from .watched import align_run, reward_run, sample

REFERENCE = [sample(0, n, f"Reference {n}.", "reference", reward=0.0) for n in range(3)]


def with_answers(root: Path, *more: dict[str, Any]) -> record.Run:
    run = align_run(root)
    texts = ("Answer zero is short.", "Answer one is the longest of all three answers.", "Answer two it is.")
    run.samples([*REFERENCE, *(sample(8, n, text, judge=1.0 - n) for n, text in enumerate(texts)), *more])
    return run


def shown(client: TestClient, query: str = "", name: str = "align-001") -> tuple[str, list[str]]:
    """The page, and the answers on it in order: those of the step, not of the reference."""
    page = client.get(f"{address(client, name)}/answers{query}")
    assert page.status_code == 200
    articles = re.findall(r"<article.*?</article>", page.text, re.DOTALL)
    firsts = [re.search(r'<div class="answer raw untrusted">(.*?)</div>', article, re.DOTALL) for article in articles]
    return page.text, [words(found[1]).replace(" ", "") for found in firsts if found]


def test_the_newest_answers_stand_beside_the_references_to_the_same_prompts(tmp_path: Path) -> None:
    with_answers(tmp_path, sample(4, 0, "An earlier answer."))
    page, answers = shown(open_pages(tmp_path))
    assert [text[:9] for text in answers] == ["Answerzer", "Answerone", "Answertwo"]
    for n, article in enumerate(re.findall(r"<article.*?</article>", page, re.DOTALL)):
        said = words(article)
        assert f"Question {n}?" in said and "The reference" in said
        assert f"Reference{n}." in said.replace(" ", "")
    assert shown(open_pages(tmp_path), "?step=4")[1] == ["Anearlieranswer."]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("?sort=reward", [2, 1, 0]),
        ("?sort=reward&order=ascending", [0, 1, 2]),
        ("?sort=length", [1, 0, 2]),
        ("?sort=kl", [2, 1, 0]),
        ("?sort=judge", [0, 1, 2]),
        ("?sort=gain&order=ascending", [0, 1, 2]),
        ("?sort=nonsense&step=99&kind=%3Cscript%3E&page=-1&colour=x", [0, 1, 2]),
    ],
)
def test_answers_are_sorted_as_the_address_says(tmp_path: Path, query: str, order: list[int]) -> None:
    with_answers(tmp_path)
    starts = ["Answerzero", "Answerone", "Answertwo"]
    _, answers = shown(open_pages(tmp_path), query)
    assert [next(n for n, start in enumerate(starts) if text.startswith(start)) for text in answers] == order


def test_many_answers_have_several_pages_and_none_is_lost(tmp_path: Path) -> None:
    run = align_run(tmp_path)
    run.samples(sample(8, n, f"Answer-{n}-here.") for n in range(45))
    client = open_pages(tmp_path)
    pages = [shown(client, f"?page={n}")[1] for n in (1, 2, 3)]
    assert [text for some in pages for text in some] == [f"Answer-{n}-here." for n in range(45)]


def test_tokens_say_their_figure_without_colour_too(tmp_path: Path) -> None:
    run = align_run(tmp_path)
    tokens = {"tokens": ["Good", " day", " to", " you"], "token_kl": [3.0, -0.7, 0.01, None]}
    run.samples([sample(8, 0, "Good day to you", "train", advantage=[0.0, 1.2, 0, 0], **tokens)])
    client = open_pages(tmp_path)
    page, _ = shown(client, "?kind=train&colour=kl")
    assert (
        '<span class="p4" title="+3.00">Good</span><span class="n2" title="−0.70"> day</span><span> to</span>' in page
    )
    assert "Largest: Good +3.00, day −0.70" in words(page).replace(" ,", ",")
    assert 'class="p3" title="+1.20"> day' in shown(client, "?kind=train&colour=advantage")[0]
    assert "title=" not in re.findall(r"<article.*</article>", shown(client, "?colour=none")[0], re.DOTALL)[0]


@pytest.mark.parametrize(
    ("value", "level"), [(0.09, ""), (0.1, "p1"), (-0.5, "n2"), (1.5, "p3"), (-99.0, "n4"), (None, ""), (0.0, "")]
)
def test_a_tokens_mark_has_the_sign_and_the_size_of_its_figure(value: float | None, level: str) -> None:
    assert Token("x", value).level == level


def test_what_a_model_wrote_is_shown_as_text(tmp_path: Path) -> None:
    with_answers(
        tmp_path,
        sample(
            8,
            3,
            HOSTILE,
            prompt=HOSTILE,
            tokens=[HOSTILE, "</span><b>"],
            token_kl=[3.0, 1.0],
            parts={HOSTILE: 1, "b": 2},
        ),
        sample(8, 4, HOSTILE, tokens=[HOSTILE], token_kl=[]),
    )
    page, _ = shown(open_pages(tmp_path))
    assert page.count("&lt;script&gt;alert(1)") >= 4
    assert "<script>alert" not in page and "<img" not in page and "<b>" not in page and "\u202e" not in page


def test_damaged_lines_and_odd_values_leave_the_other_answers(tmp_path: Path) -> None:
    run = with_answers(tmp_path)
    with (run.path / "samples.jsonl").open("ab") as file:
        file.write(b"not JSON\n[1]\n\xff\n" + json.dumps({"step": 8, "kind": "eval", "text": "Bare."}).encode() + b"\n")
        odd = {
            "step": 8,
            "kind": "eval",
            "text": "Odd.",
            "reward": "high",
            "tokens": 3,
            "token_kl": {},
            "parts": [],
            "id": 1,
        }
        file.write(json.dumps(odd).encode() + b'\n{"step": 8, "kind": "eval", "text": "torn')
    page, answers = shown(open_pages(tmp_path))
    assert "3 lines of samples.jsonl are no sample" in page
    assert answers[3:] == ["Bare.", "Odd."] and "torn" not in page


def test_an_index_grows_with_the_file_and_is_made_anew_when_a_resume_replaces_it(tmp_path: Path) -> None:
    run, answers = with_answers(tmp_path), Answers()
    assert answers.steps(run.path) == {"reference": [0], "eval": [8]}
    run.samples([sample(12, 0, "Later.")])
    assert answers.steps(run.path)["eval"] == [8, 12]
    assert [pair.answer.text for pair in answers.pairs(run.path, 12, "eval")] == ["Later."]
    run.rewind(8)
    run.samples([sample(12, 1, "Later, again, and longer than before.") for _ in range(9)])
    assert [pair.answer.id for pair in answers.pairs(run.path, 12, "eval")] == ["p1"] * 9
    assert answers.torn(run.path) == 0


def test_a_run_that_starts_from_its_reference_is_compared_with_its_own_start(tmp_path: Path) -> None:
    run = align_run(tmp_path)
    run.samples([sample(0, 0, "The start."), sample(8, 0, "The end.")])
    answers = Answers()
    (pair,) = answers.pairs(run.path, 8, "eval")
    assert pair.reference is not None and pair.reference.text == "The start."
    assert answers.pairs(run.path, 0, "eval")[0].reference is None


def test_a_run_without_answers_says_why(tmp_path: Path) -> None:
    align_run(tmp_path)
    page, _ = shown(open_pages(tmp_path))
    assert "has kept no answers yet" in page


# -- runs side by side -------------------------------------------------------------------------------------------------


def compared(client: TestClient, *names: str) -> str:
    keys = [address(client, name).removeprefix("/runs/") for name in names]
    answer = client.get("/runs/compare", params={"run": keys})
    assert answer.status_code == 200
    return answer.text


def test_comparing_says_what_differs_and_what_came_out_with_intervals(tmp_path: Path) -> None:
    align_run(tmp_path)
    align_run(tmp_path, config={"lr": 1e-5}, drift=0.5).note("versions", {"torch": "9.9"})
    evaluation = record.begin_run(tmp_path, "evaluate", "x", {}, inputs={}, seed=0)
    rate = {"mean": 0.61, "low": 0.52, "high": 0.7, "n": 40}
    evaluation.finish({"round": 0, "policy": "align-002", "sampled": {"win_rate": rate, "policy": {"kl": 3.0}}})
    page = compared(open_pages(tmp_path), "align-001", "align-002")
    said = words(page)
    assert "align.lr 0.0003 1e−05" in said and "align.steps" not in said
    assert "Data and models: the same." in said and "torch" in said and "9.9" in said
    assert "Evaluated: win rate – 61 % (52 to 70 %)" in said
    panel = re.search(r'<figure class="panel" id="panel-reward">.*?</figure>', page, re.DOTALL)
    assert panel and panel[0].count('<path class="line') == 4  # two curves, and their samples in the legend


def test_comparing_one_run_none_or_one_that_has_gone_offers_the_others(tmp_path: Path) -> None:
    align_run(tmp_path)
    reward_run(tmp_path)
    client = open_pages(tmp_path)
    assert "What differs" not in compared(client, "align-001")
    assert 'name="run"' in client.get("/runs/compare").text
    gone = client.get("/runs/compare", params={"run": [HOSTILE, "x/../y"]}).text
    assert "2 of the runs that were asked for are not here" in gone and "<script>alert" not in gone


def test_a_run_without_a_result_shows_its_newest_evaluation(tmp_path: Path) -> None:
    run = align_run(tmp_path, steps=6, done=False)
    client = open_pages(tmp_path)
    said = words(client.get(address(client, run.name)).text)
    assert "Newest evaluation step 4 Held-out reward +0.40 +0.00 before KL to the reference 2.0 nats" in said


def test_runs_of_several_projects_are_told_apart(tmp_path: Path) -> None:
    align_run(tmp_path / "one")
    align_run(tmp_path / "two", drift=1.0)
    client = open_pages(tmp_path)
    keys = [found.removeprefix("/runs/") for found in re.findall(r'<a href="(/runs/[^"]+)"', client.get("/runs").text)]
    page = client.get("/runs/compare", params={"run": keys}).text
    # The newest run comes first, and two of the same second come in the order of their names.
    assert re.search(r"Result (one: align-001 two: align-001|two: align-001 one: align-001)", words(page))
    assert 'data-label="two: align-001"' in page


# -- a reward model ----------------------------------------------------------------------------------------------------


def test_a_reward_models_page_has_its_accuracy_its_calibration_and_who_taught_it(tmp_path: Path) -> None:
    people = [
        {"name": "Ann", "rankings": 40, "weight": 1.1, "weight_se": 0.1, "agreement": 0.8, "longer": 0.5, "pairs": 99},
        {"name": HOSTILE, "rankings": 30, "weight": -0.6, "weight_se": 0.2},
        {"nobody": 1},
    ]
    reward_run(tmp_path, people)
    client = open_pages(tmp_path)
    page = client.get(address(client, "reward-001")).text
    said = words(page)
    assert "Held-out accuracy 66 % 58 to 73 %" in said
    assert "predicted 84 %, won 78 % of 50 votes" in page
    assert "0.5 to 1.0 ranks apart 120 58 %" in said and "over 1.0 ranks apart 180 72 %" in said
    assert "people preferred the shorter 160 62 %" in said and "0.0 to 0.5" not in said
    assert said.index("−0.60 ± 0.39") < said.index("1.10 ± 0.20") and "<script>alert" not in page


@pytest.mark.parametrize("heldout", [None, [], {"by_margin": 3, "calibration": [1, {"predicted": "x"}], "ece": "no"}])
def test_a_damaged_report_of_a_reward_model_leaves_its_curves(tmp_path: Path, heldout: Any) -> None:
    run = reward_run(tmp_path)
    record.write_json_atomic(run.path / "result.json", {"heldout": heldout, "round": "x"})
    client = open_pages(tmp_path)
    page = client.get(address(client, "reward-001"))
    assert page.status_code == 200 and "<h3>Loss" in page.text


def test_runs_are_not_read_again_while_nothing_changes(tmp_path: Path) -> None:
    """The list of a hundred runs is asked for every few seconds."""
    run = align_run(tmp_path)
    client = open_pages(tmp_path)
    client.get("/runs")
    at = run.path / "metrics.jsonl"
    stat = at.stat()
    at.write_bytes(b"x" * stat.st_size)
    os.utime(at, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # The change is not to be seen from outside.
    assert "8 of 20" in client.get("/runs").text
