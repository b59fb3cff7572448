"""Several criteria in one run: the arithmetic by hand, and what constraints change in a real run of a tiny model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resumable import build

from prefloop import config as settings
from prefloop import record
from prefloop.errors import ConfigError, DataError
from prefloop.intervals import part_interval, wilson
from prefloop.project.choose import Candidate, choose, objective_of, passed_over
from prefloop.project.project import Project
from prefloop.results import AlignedOnline, read_aligned
from prefloop.rewards.objective import Balance, Criterion, Goal, Kind
from prefloop.rewards.rules import make_scorer
from prefloop.stages.align import align
from prefloop.stages.evaluate import evaluate
from prefloop.store import ModelRow
from prefloop.training import loop
from prefloop.types import Completion, Prompt

A, B = Criterion("a", weight=1.0), Criterion("b", bound=0.0)


def balance(kind: Kind = "constrained", bounded: Criterion = B, **more: Any) -> Balance:
    return Balance(Goal(kind, (bounded, A)), **{"lr": 0.5, "window": 2, "gain": 0.0, **more})


def test_a_multiplier_follows_the_mean_violation_of_the_last_batches_as_computed_by_hand() -> None:
    now, found = balance(), []
    for mean in (-1.0, -0.5, 1.0):
        now = now.seen({"a": [0.0, 0.0], "b": [mean - 1.0, mean + 1.0]})
        found.append(now.metrics({"a": [0.0, 0.0], "b": [mean - 1.0, mean + 1.0]}))
    assert [m["violation_b"] for m in found] == pytest.approx([1.0, 0.75, -0.25])
    # Two standard errors of the mean are sqrt(2) after one batch, and 1 after two, of which the window holds no more.
    # ln l: 0.5 * 1 / sqrt(2), + 0.5 * 0.75, - 0.5 * 0.25
    logs = [0.3535534, 0.7285534, 0.6035534]
    assert [m["multiplier_b"] for m in found] == pytest.approx([math.exp(log) for log in logs])
    assert [m["constraint_b"] for m in found] == [-1.0, -0.5, 1.0]
    # (2 - 1.8286 * 1) / (1 + 1.8286)
    assert now.reward({"a": [2.0], "b": [-1.0]}) == pytest.approx([0.0605935], abs=1e-6)


def test_a_multiplier_moves_by_no_more_than_its_rate_whatever_the_unit_and_falls_as_fast_as_it_rises() -> None:
    """A share that is 0.4 below its bound, and one that is 0.1 above it, are both sure."""
    share = Criterion("b", bound=0.9, mean=0.4, std=0.49)
    below = balance(bounded=share, lr=0.2, window=1).seen({"a": [0.0], "b": [1.0, 0.0] * 50})
    assert below.logs["b"] == pytest.approx(0.2)
    assert below.seen({"a": [0.0], "b": [1.0] * 100}).logs["b"] == pytest.approx(0.0)
    near = below.seen({"a": [0.0], "b": [1.0] * 91 + [0.0] * 9})
    assert 0.16 < near.logs["b"] < 0.2, "one point over the bound is within the noise of 100 answers"


def test_a_bound_counts_in_the_references_spread_and_the_margin_lifts_what_is_aimed_at() -> None:
    length = Criterion("b", bound=12.0, mean=10.0, std=2.0)
    now = balance(bounded=length, gain=1.0).seen({"a": [0.0], "b": [8.0]})
    assert now.violation(length) == pytest.approx(2.0)  # (12 - 8) / 2
    # One answer has no noise, so that ln l moves by the whole 0.5; the violation adds 2.
    assert now.reward({"a": [0.0], "b": [8.0]}) == pytest.approx([-2.0 * math.exp(2.5) / (1 + math.exp(2.5))])
    assert now.aims({"b": 1.0}).violation(length) == pytest.approx(2.5)


def test_a_multiplier_stays_between_its_ends_and_can_come_back() -> None:
    now = balance(lr=100.0, most=50.0, window=1)
    for mean, ends in ((-1.0, 50.0), (1.0, 0.02), (-1.0, 50.0)):
        now = now.seen({"a": [0.0], "b": [mean]})
        assert math.exp(now.logs["b"]) == pytest.approx(ends)


def test_the_first_bound_that_is_not_kept_is_all_that_counts_in_a_lexicographic_run() -> None:
    second = Criterion("c", bound=1.0)
    now = Balance(Goal("lexicographic", (B, second, A)), window=1)
    parts = {"a": [5.0, -5.0], "b": [-1.0, 0.5], "c": [0.0, 3.0]}
    assert now.seen(parts).reward(parts) == [-1.0, 0.5]
    parts |= {"b": [1.0, 1.0], "c": [0.0, 1.0]}
    assert now.seen(parts).reward(parts) == [-1.0, 0.0]
    parts |= {"c": [2.0, 1.0]}
    assert now.seen(parts).reward(parts) == [5.0, -5.0]
    assert "multiplier_b" not in now.seen(parts).metrics(parts)


def test_the_worst_of_several_is_compared_in_one_unit() -> None:
    goal = Goal("worst", (Criterion("a", 0.5), Criterion("b", 0.5, mean=100.0, std=10.0), Criterion("c", 0.0)))
    assert goal.total({"a": [1.0, 2.0], "b": [105.0, 130.0], "c": [-9.0, -9.0]}).tolist() == [0.5, 2.0]


def test_a_rule_that_no_answer_breaks_has_an_interval_all_the_same() -> None:
    always = part_interval([[1.0, 1.0]] * 20, 200, 0)
    assert always["mean"] == always["high"] == 1.0 and 0.8 < always["low"] < 0.9
    assert part_interval([[0.5]] * 20, 200, 0)["low"] == 0.5


# -- real runs ----------------------------------------------------------------------------------------------------

USUAL = [
    "data.heldout=0.5", "align.reward=length", "align.algorithm=grpo", "align.rollout.k=4", "align.lr=1e-2",
    "align.steps=20", "align.evaluation.kl_budget=1000", 'align.objective.scorers={brevity="brevity"}',
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objective") / "base"
    build(root, with_reward=False)
    return root


def aligned(root: Path, *overrides: str) -> tuple[AlignedOnline, list[dict[str, Any]]]:
    with Project.open(root, [*USUAL, *(f"align.{o}" for o in overrides)], quiet=True) as project:
        made = align(project)
        assert isinstance(made, AlignedOnline) and made.run
        return made, record.Run(root / "runs" / made.run).metrics()


GROWS = ("objective.kind=constrained", "objective.subject_to={brevity=-1000}")
KEEPS = ("objective.kind=constrained", "objective.subject_to={brevity=-20}")
# The two criteria are each other's opposite, and a step changes much: the multiplier has to answer at once.
CONSTRAINED = (
    "objective.kind=constrained", "objective.maximise=reward", "objective.multiplier_gain=3", "objective.window=2",
)  # fmt: skip


def test_a_constraint_changes_what_is_learnt_and_which_step_is_kept(base: Path) -> None:
    free, grown = aligned(base, *GROWS)
    held, kept = aligned(base, *CONSTRAINED, "objective.subject_to={brevity=-16}")
    assert free.constraints and held.constraints
    assert grown[-1]["eval_reward_brevity"] < -20, "without a bound that binds, answers grow"
    assert free.constraints["brevity"].met and free.constraints["brevity"].mean < -20
    assert grown[-1]["multiplier_brevity"] == pytest.approx(1 / 50)
    assert max(line["multiplier_brevity"] for line in kept[1:]) > 1.5
    assert all(line["constraint_brevity"] > -18 for line in kept[1:])
    assert held.constraints["brevity"].low >= -16 and held.warnings == ()
    assert held.reward and free.reward and held.reward < free.reward


# One of each kind of credit: others differ in how their losses are clipped. Expert iteration imitates what is above a
# threshold, which says little of a reward whose scale moves with a multiplier.
CREDITS = ("ppo", "rloo", "reinforce", "reinforce_plus_plus", "online_dpo", "raft")


@pytest.mark.parametrize("algorithm", CREDITS)
def test_an_online_algorithm_learns_to_keep_a_bound(base: Path, algorithm: str) -> None:
    """Answers grow where the bound is far away; where it is near, the same run keeps them short."""
    how = (f"algorithm={algorithm}", "evaluation.eval_every=20", "objective.multiplier_start=2")
    runs = [aligned(base, *CONSTRAINED, f"objective.subject_to={{brevity={b}}}", *how)[1] for b in (-1000, -16)]
    far, near = (lines[-1] for lines in runs)
    assert far["multiplier_brevity"] < 0.1, "nothing pulls where the bound is kept by far"
    assert max(line["multiplier_brevity"] for line in runs[1][1:]) > 1
    assert near["eval_reward_brevity"] > far["eval_reward_brevity"] + 3
    assert near["eval_constraint_brevity"] > -17


def test_evaluate_gives_each_part_with_its_interval_and_whether_the_bound_is_surely_kept(base: Path) -> None:
    made, _ = aligned(base, *KEEPS)
    for bound, met in ((-20.0, True), (-10.0, False)):
        objective = [*USUAL, "align.objective.kind=constrained", f"align.objective.subject_to={{brevity={bound}}}"]
        with Project.open(base, [*objective, "evaluate.max_tokens=10", "evaluate.samples=2"], quiet=True) as project:
            found = evaluate(project, run=made.run)
            assert found.sampled and found.sampled.parts
        part = found.sampled.parts["brevity"]
        assert part.constraint and part.constraint.met is met is (part.policy.low >= bound)
        assert part.policy.low < part.policy.mean < part.policy.high and part.policy.n == found.prompts
        assert part.gain.mean == pytest.approx(part.policy.mean - part.reference.mean)
        assert found.sampled.parts["reward"].constraint is None


def test_a_run_for_another_objective_is_not_chosen_by_figures_that_mean_something_else() -> None:
    asked = [{}, {"align": {"objective": {"kind": "worst"}}}, {"align": {"reward_weights": {"quality": 2.0}}}]
    objectives = [objective_of(settings.make_config(one).align.model_dump()) for one in asked]
    assert objectives[0] == {}, "runs of earlier versions can be compared with those of this one"
    judges = {"quality": "a"}

    def found(*runs: tuple[float, int]) -> list[Candidate]:
        return [
            Candidate(
                f"align-{n}",
                0,
                ModelRow(f"align-{n}", "policy", "x"),
                read_aligned({"win_rate": rate, "best_step": 3}),
                judges,
                objective=objectives[which],
            )
            for n, (rate, which) in enumerate(runs)
        ]

    for which in range(3):  # the newest run's objective decides, and its best run counts
        other = (which + 1) % 3
        runs = found((0.7, which), (0.9, other), (0.8, which), (0.6, which))
        picked = choose(runs, "win_rate", judges)
        assert picked and picked.run == "align-2"
        tried = [*runs, replace(found((0.9, other))[0], run="align-4", front=True)]
        assert choose(tried, "win_rate", judges) == picked, "a point of a front changes nothing"
        named = choose(tried, "align-4", judges)
        assert named and named.run == "align-4"
        # The newest run kept no bound. The policy of another objective, which breaks it, does not take its place.
        kept_none = replace(found((0.5, (which + 2) % 3))[0], run="align-4", result=read_aligned({"best_step": 0}))
        assert choose([*runs, kept_none], "win_rate", judges) is None is choose([*runs, kept_none], "newest", judges)
        (said,) = passed_over([*runs, kept_none], 0, "win_rate", None)
        assert "round 0 keeps the policy that it started from" in said and '[run] choose = "align-3"' in said


def test_where_no_step_keeps_the_bound_the_policy_stays_and_the_nearest_step_is_said(base: Path) -> None:
    made, lines = aligned(base, *CONSTRAINED, "objective.subject_to={brevity=-1}", "steps=8")
    assert made.model is None and made.best_step == 0
    (said,) = made.warnings
    assert "no step keeps every bound" in said and "for -1: not met" in said
    with Project.open(base, quiet=True) as project:
        again = next(c for c in project.candidates(0) if c.run == made.run)
    assert again.result and again.result.constraints == made.constraints, "a result comes back from its file"


def test_a_bound_that_these_prompts_cannot_show_is_said_before_the_first_step(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "short.py").write_text("def short(prompt, text):\n    return len(text) < 9\n")
    how = ("scorers={short='short.py:short'}", "kind=constrained", "subject_to={short=0.9}")
    with Project.open(base, [*USUAL, *(f"align.objective.{o}" for o in how), "align.steps=1"]) as project:
        made = align(project)
    err = capsys.readouterr().err
    said = "8 validation prompts cannot show that short is 0.9: if every answer kept it, the interval would still begin"
    assert err.index(said) < err.index("step 0:") and isinstance(made, AlignedOnline)
    assert said in made.warnings[0] and "It takes 35 prompts" in made.warnings[0]
    assert wilson(35, 35)[0] >= 0.9 > wilson(34, 34)[0]


def test_a_bound_that_is_out_of_reach_is_told_from_one_that_takes_more_steps(base: Path) -> None:
    """Answers of at least one token cannot be shorter than that."""
    far, _ = aligned(base, *CONSTRAINED, "objective.subject_to={brevity=1}", "objective.multiplier_max=1.5", "steps=8")
    near, _ = aligned(base, *CONSTRAINED, "objective.subject_to={brevity=-8}", "steps=1")
    assert "The multiplier of brevity is at multiplier_max" in far.warnings[0] and "out of reach" in far.warnings[0]
    assert "Give more steps, or lower the bound." in near.warnings[0] and "multiplier_max" not in near.warnings[0]
    (base / "odds.py").write_text(
        "def odds(prompt, text):\n    return len(text) < 12\ndef even(prompt, text):\n    return len(text) >= 12\n"
    )
    both = ("objective.scorers={odds='odds.py:odds', even='odds.py:even'}", "objective.subject_to={odds=0.6, even=0.6}")
    torn, _ = aligned(base, *CONSTRAINED, *both, "steps=4", "evaluation.eval_prompts=20")
    assert torn.model is None and "came nearest" in torn.warnings[0]


def test_a_lexicographic_run_stops_once_a_bound_that_was_kept_is_surely_lost(base: Path) -> None:
    """Whatever the policy does, this function finds it bad after 150 answers."""
    code = "said = []\ndef soured(prompt, text):\n    said.append(text)\n    return 2.0 * (len(said) < 150) - 1.0\n"
    (base / "soured.py").write_text(code)
    scorers = 'objective.scorers={soured="soured.py:soured"}'
    made, lines = aligned(base, "objective.kind=lexicographic", scorers, "objective.subject_to={soured=0}")
    assert made.stopped == "soured was kept at an earlier step, and is below its bound now" and made.steps < 20
    assert made.constraints and made.constraints["soured"].met


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    asked = ("objective.kind=constrained", "objective.subject_to={brevity=-14}", "rollout.staleness=1", "steps=9")
    roots = {name: Path(shutil.copytree(base, tmp_path / name)) for name in ("straight", "killed", "forgetful")}
    straight = aligned(roots["straight"], *asked)[1]
    real: Callable[..., None] = loop.save_checkpoint

    def killing(folder: Path, done: int, *rest: Any) -> None:
        real(folder, done, *rest)
        if done == 3:
            raise KeyboardInterrupt

    for name in ("killed", "forgetful"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(loop, "save_checkpoint", killing)
            aligned(roots[name], *asked)
    bounded = [*USUAL, *(f"align.{o}" for o in asked), "behaviour.max_drop={ended=0.5}"]
    said = r"bounds, checks and prompts of \[behaviour\]: the default then, "
    with Project.open(roots["killed"], bounded, quiet=True) as other, pytest.raises(ConfigError, match=said):
        align(other)
    assert aligned(roots["killed"], *asked)[1] == straight
    monkeypatch.setattr(Balance, "restored", lambda self, state: self)
    assert aligned(roots["forgetful"], *asked)[1] != straight, "the comparison above can fail"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["kind=constrained", "subject_to={brevty=0.5}"], 'names "brevty", which nothing measures.*"brevity"'),
        (["kind=constrained", "subject_to={brevity=0.5}", "maximise=quality"], 'names "quality", which nothing'),
        (["kind=constrained", "subject_to={brevity=0.5, reward=0.5}"], "leaves nothing to maximise"),
        (["kind=constrained"], "needs a bound"),
        (["kind=lexicographic", "maximise=brevity", "subject_to={brevity=1}"], "a criterion is one of the two"),
        (["kind=worst", "scorers={}"], "the only criterion that counts"),
        (["scorers={reward='brevity'}"], "which is what .align. reward is called"),
        (["kind=constrained", "subject_to={brevity=nan}"], "subject_to.*finite"),
        (["scorers={short='brevty'}"], 'no scorer "brevty"'),
        (["subject_to={brevity=1}"], "keeps no bounds"),
        (["kind=worst", "multiplier_lr=0.5"], "by multipliers"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_before_a_run_begins(
    base: Path, overrides: list[str], said: str
) -> None:
    before = len(record.runs(base))
    with pytest.raises(ConfigError, match=said):
        aligned(base, *(f"objective.{o}" for o in overrides))
    assert len(record.runs(base)) == before


def test_a_run_whose_scorer_was_changed_half_way_is_not_begun_anew_without_a_word(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(base, tmp_path / "changed"))
    (root / "mine.py").write_text("def mine(prompt, text):\n    return float(len(text))\n")
    asked = ("objective.scorers={mine='mine.py:mine'}", "steps=9")
    real: Callable[..., None] = loop.save_checkpoint

    def killing(folder: Path, done: int, *rest: Any) -> None:
        real(folder, done, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", killing)
        aligned(root, *asked)
    (root / "mine.py").write_text("def mine(prompt, text):\n    return float(len(text) + 1)\n")
    with pytest.raises(ConfigError, match="stopped half-way, after step 3.*\n  the code of mine.py:mine: "):
        aligned(root, *asked)


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward_weights are all 0 \(quality, style\): nothing would be learnt"):
        settings.make_config({"align": {"reward_weights": {"quality": 0.0, "style": 0}}})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("return float('nan') if len(text) > 9 else 1", "gave nan for completion"),
        ("return 1 / (len(text) - 40)", "ZeroDivisionError"),
        ("return None", "returned None, which is no number"),
    ],
)
def test_a_criterion_that_gives_no_number_now_and_then_names_the_row(base: Path, code: str, said: str) -> None:
    (base / "odd.py").write_text(f"def odd(prompt, text):\n    {code}\n")
    scorer = make_scorer("odd.py:odd", base)
    with pytest.raises(DataError, match=f"odd.py:odd .*{said}") as error:
        scorer.score([Prompt("One?"), Prompt("Two?")], [Completion("a", "short"), Completion("b", "x" * 40)])
    row = "prompt 'One?', answer 'short'" if "None" in code else "prompt 'Two?', answer 'xxxxxxxx"
    assert row in str(error.value)


def test_runs_of_before_objectives_are_still_the_same_runs() -> None:
    plain = settings.make_config({}).align.deciding()
    assert not {"kind", "maximise", "subject_to", "scorers", "multiplier_lr", "window"} & plain.keys()
    assert settings.make_config({"align": {"objective": {"kind": "worst"}}}).align.deciding()["kind"] == "worst"
