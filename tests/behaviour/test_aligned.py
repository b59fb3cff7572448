"""A step of `align` that breaks a bound on behaviour is never kept, whatever its reward."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefloop.api.project import Project
from prefloop.cli.show import summary
from prefloop.errors import ConfigError
from prefloop.record import Run

LONGER: dict[str, Any] = {"k": 4, "prompts": 8, "lr": 0.01, "checkpoint_every": 100, "kl_budget": 1000.0}
BRIEF = {"data.heldout": 0.5, "behaviour.functions": ["mine.py:brief"], "behaviour.checks": ["length"]}


def opened(project: Project, **settings: object) -> Project:
    return Project.open(project.root, BRIEF | settings, quiet=True)


def metrics(project: Project, run: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.root / "runs" / str(run) / "metrics.jsonl").read_text().splitlines()]


def test_the_best_step_is_the_best_of_those_that_keep_the_bound(project: Project) -> None:
    """Training makes answers longer at each step; the bound allows 6 characters more."""
    how = LONGER | {"steps": 12, "eval_every": 2, "eval_prompts": 20}
    with opened(project, **{"behaviour.max_drop": {"brief": 6.0}}) as bound:
        found = bound.align("rloo", reward="length", **how)
    assert found.breaches and found.best_step not in {breach.step for breach in found.breaches}
    seen = {row["step"]: row for row in metrics(project, found.run) if "eval_reward" in row}
    kept = [step for step, row in seen.items() if not row["eval_behaviour_broken"]]
    assert found.best_step == max(kept, key=lambda step: (seen[step]["eval_reward"], -step))
    assert (
        seen[12]["eval_behaviour_broken"] == 1
        and seen[12]["eval_behaviour_brief"] < seen[0]["eval_behaviour_brief"] - 6
    )
    told = "\n".join(summary(found, project.root))
    assert "BOUND BROKEN at step" in told and "max_drop is 6" in told


def test_where_no_step_keeps_the_bound_the_reference_stays_and_the_stage_says_so(project: Project) -> None:
    with opened(project, **{"behaviour.max_drop": {"brief": 0.5}}) as bound:
        found = bound.align("rloo", reward="length", steps=12, eval_every=12, eval_prompts=20, **LONGER)
    assert (found.best_step, found.policy, found.model) == (0, "sft-001", None)
    assert found.breaches is not None and [breach.step for breach in found.breaches] == [12]
    told = "\n".join(summary(found, project.root))
    assert (
        "NO NEW POLICY: no step kept the bounds of behaviour and was better than the start, so the policy stays sft-001"
        in told
    )


def test_dpo_keeps_no_step_that_breaks_a_bound(project: Project) -> None:
    with opened(project, **{"behaviour.max_drop": {"brief": 0.5}}) as bound:
        bound.sample()
        bound.crowd("length")
        found = bound.align("dpo", lr=0.02, passes=6, lists=4, eval_every=100, checkpoint_every=100, eval_prompts=20)
    assert found.breaches and (found.best_step, found.policy) == (0, "align-001"), "that of round 0"


def test_a_check_that_fails_while_training_is_told_and_ends_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = BRIEF | {"behaviour.functions": ["mine.py:fails"], "behaviour.max_drop": {"length": 0.9}}
    with Project.open(project.root, settings) as bound:
        found = bound.align("rloo", reward="length", steps=2, eval_every=1, eval_prompts=4, **LONGER)
    assert found.breaches is None
    assert capsys.readouterr().err.count("LookupError: no such thing") == 1


@pytest.mark.parametrize(
    ("bound", "function", "said"),
    [
        ("fails", "mine.py:fails", "the check failed on 4 of 4 of the reference's answers"),
        ("valid_json", "mine.py:brief", 'it gives no number for prompts of "all"'),
    ],
)
def test_a_bound_that_cannot_be_checked_ends_align_before_it_learns(
    project: Project, bound: str, function: str, said: str
) -> None:
    settings = BRIEF | {"behaviour.functions": [function], "behaviour.max_drop": {bound: 0.1}}
    with Project.open(project.root, settings, quiet=True) as bounded:
        with pytest.raises(ConfigError, match=f'the bound on "{bound}" could not be checked on.*{said}|{said}'):
            bounded.align("rloo", reward="length", steps=2, eval_every=1, eval_prompts=4, **LONGER)
        (run,) = (path for path in (project.root / "runs").glob("align-*") if path.name != "align-001")
        assert Run(run).status == "failed" and Run(run).metrics() == []


def test_a_step_after_which_a_bound_can_no_longer_be_checked_is_not_kept(project: Project) -> None:
    """The check raises once answers have grown, so that no answer says that the bound is broken."""
    code = "def short(prompt, answer):\n    assert len(answer) < LONG\n    return True\nshort.unit = 'share'\n"
    how = LONGER | {"steps": 12, "eval_every": 12, "eval_prompts": 20}
    with opened(project) as plain:
        run = plain.align("rloo", reward="length", **how).run
    rows = map(json.loads, (project.root / "runs" / str(run) / "samples.jsonl").read_text().splitlines())
    longest = max(len(row["text"]) for row in rows if row["step"] == 0)
    (project.root / "short.py").write_text(code.replace("LONG", str(longest + 1)))
    checks = {"behaviour.functions": ["short.py:short"], "behaviour.max_drop": {"short": 0.5}}
    with opened(project, **checks) as bound:
        found = bound.align("rloo", reward="length", **how)
    assert found.best_step == 0 and found.breaches
    assert "the check failed on" in found.breaches[-1].bounds[0] and "of the policy's" in found.breaches[-1].bounds[0]


@pytest.mark.parametrize("algorithm", ["rloo", "dpo"])
def test_a_bound_on_a_set_of_prompts_is_asked_at_every_evaluation(project: Project, algorithm: str) -> None:
    """The check minds the set's prompts only: on the validation prompts nothing changes."""
    code = "def there(prompt, answer):\n    return -len(answer) if 'hats' in prompt else 0.0\n"
    (project.root / "there.py").write_text(code)
    (project.root / "hats.jsonl").write_text("\n".join(json.dumps({"prompt": f"Say {n} hats."}) for n in range(16)))
    checks = {"behaviour.functions": ["there.py:there"], "behaviour.max_drop": {"there": 0.5}}
    sets = {"behaviour.prompt_sets": {"hats": "hats.jsonl"}}
    online = LONGER | {"reward": "length", "steps": 12, "eval_every": 12}
    offline = {"lr": 0.02, "passes": 6, "lists": 4, "eval_every": 100, "checkpoint_every": 100}
    how = {**(offline if algorithm == "dpo" else online), "eval_prompts": 20}
    with opened(project, **checks, **sets) as bound:
        if algorithm == "dpo":
            bound.sample()
            bound.crowd("length")
        found = bound.align(algorithm, **how)
        again = bound.align(algorithm, **how)
        with opened(project, **checks, **sets, **{"behaviour.set_prompts": 0}) as later:
            other = later.align(algorithm, **how)
    assert found.best_step == 0 and found.breaches and "there on hats" in found.breaches[-1].bounds[0]
    assert metrics(project, found.run)[-1]["eval_behaviour_there_on_hats"] < -1 and again.skipped
    assert other.breaches is None and not other.skipped


@pytest.mark.parametrize("algorithm", ["rloo", "dpo"])
def test_a_bound_on_an_unknown_name_ends_align_before_it_begins(project: Project, algorithm: str) -> None:
    with Project.open(project.root, {"behaviour.max_drop": {"lenght": 0.1}}, quiet=True) as bound:
        bound.sample()
        bound.crowd("length")
        with pytest.raises(ConfigError, match='Did you mean "length"'):
            bound.align(algorithm, **({} if algorithm == "dpo" else {"reward": "length"}))
    assert [run.name for run in (Run(path) for path in (project.root / "runs").glob("align-*"))] == ["align-001"]
