"""`import prefloop` offers the loop as methods, takes a user's own functions, and says what it refuses when they
change.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prefloop
from prefloop import record
from prefloop.algorithms.dpo import Dpo
from prefloop.algorithms.rloo import Rloo
from prefloop.config import Config
from prefloop.config_problems import places
from prefloop.errors import ConfigError, DataError

SHORT = {"steps": 3, "prompts": 4, "k": 2, "max_tokens": 8, "eval_every": 3}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    """Return a tiny project, sampled and ranked by simulated people."""
    root = make_tiny(tmp_path_factory.mktemp("api"))
    with prefloop.Project.open(root, quiet=True) as project:
        project.sample()
        project.crowd()
    return root


@pytest.fixture
def project(ranked: Path, tmp_path: Path) -> Iterator[prefloop.Project]:
    import shutil

    shutil.copytree(ranked, tmp_path / "tiny")
    with prefloop.Project.open(tmp_path / "tiny", quiet=True) as opened:
        yield opened


def python(program: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_prefloop_and_opening_a_project_load_no_torch(environment: dict[str, str], ranked: Path) -> None:
    python(
        "import sys, prefloop\nheavy = {'torch', 'transformers', 'pydantic', 'sqlalchemy', 'numpy'}\n"
        "assert not heavy & set(sys.modules)\n"
        f"with prefloop.Project.open({str(ranked)!r}) as project:\n    assert next(project.rankings()).ranks\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)",
        environment,
    )


def test_every_public_name_is_there_and_in_the_stub_for_type_checkers() -> None:
    stub = Path(prefloop.__file__).with_suffix(".pyi").read_text()
    for name in set(prefloop.__all__) - {"__version__"}:
        assert getattr(prefloop, name) is not None
        assert f" as {name}\n" in stub
    assert set(prefloop.__all__) <= set(dir(prefloop))
    with pytest.raises(AttributeError, match="Projekt"):
        prefloop.Projekt  # noqa: B018


def test_a_command_and_a_method_make_the_same_run(project: prefloop.Project) -> None:
    """What one of them did, the other finds done."""
    from prefloop.cli.main import run

    sets = [part for key, value in SHORT.items() for part in ("--set", f"{places(Config, 'align', key)[0]}={value}")]
    assert run(["reward", "-C", str(project.root), "-q"]) == 0
    assert run(["align", "-C", str(project.root), "-q", "--algorithm", "rloo", *sets]) == 0
    assert project.reward().skipped
    assert project.align("rloo", **SHORT).skipped
    assert not project.align("rloo", **{**SHORT, "steps": 2}).skipped


def test_rankings_are_the_same_in_a_loop_and_as_a_table(project: prefloop.Project) -> None:
    rows = list(project.rankings())
    table = project.rankings_table()
    assert rows and [vars(row) for row in rows] == [
        {**row, "completions": tuple(row["completions"]), "ranks": tuple(row["ranks"])} for row in table.to_pylist()
    ]
    for row in rows:
        assert len(row.ranks) == len(row.completions) == 3 and min(filter(None, row.ranks)) == 1
    assert project.rankings_table("nobody asked").num_rows == 0
    assert list(project.rankings_table().to_pandas()["annotator"]) == [row.annotator for row in rows]


class Rewarding:
    """Rewards short texts; ends with an error at the n-th call, where it is told to."""

    identity = "short 1"

    def __init__(self, fails_at: int = 0):
        self.calls, self.fails_at = 0, fails_at

    def score(self, prompts: Any, texts: Any) -> list[float]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the server is gone")
        return [-len(text) / 10 for text in texts]


def test_a_run_with_a_reward_of_ones_own_resumes_exactly_and_is_refused_once_its_code_changed(
    project: prefloop.Project, ranked: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="Rewarding failed: RuntimeError: the server is gone"):
        project.align("rloo", reward=Rewarding(fails_at=6), **SHORT)  # two calls are checks before the first step
    other = Rewarding()
    other.identity = "short 2"
    with pytest.raises(ConfigError, match=r"stopped half-way(.|\n)*the code of Rewarding(.|\n)*--new"):
        project.align("rloo", reward=other, **SHORT)
    went_on = project.align("rloo", reward=Rewarding(), **SHORT)
    assert went_on.run == "align-001" and went_on.reward is not None
    run = record.Run(project.root / "runs" / "align-001")
    assert list(run.manifest["inputs"]["rewards"]) == ["Rewarding"]

    import shutil

    shutil.copytree(ranked, tmp_path / "again")
    with prefloop.Project.open(tmp_path / "again", quiet=True) as again:
        whole = again.align("rloo", reward=Rewarding(), **SHORT)
    assert whole == went_on
    files = [place / "runs" / "align-001" / "metrics.jsonl" for place in (project.root, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ppo_with_a_reward_of_ones_own_starts_its_critic_from_the_policy(project: prefloop.Project) -> None:
    def brief(prompt: str, completion: str) -> float:
        return -len(completion) / 10

    made = project.align("ppo", reward=brief, **SHORT)
    metrics = record.Run(project.root / "runs" / str(made.run)).metrics()
    assert all("value_loss" in line for line in metrics[1:]) and made.reward is not None


def test_a_reward_that_is_no_function_or_gives_no_number_is_refused(project: prefloop.Project) -> None:
    with pytest.raises(ConfigError, match="cannot score"):
        project.align("rloo", reward=3.0, **SHORT)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="gave nan for completion"):
        project.align("rloo", reward=lambda prompt, text: float("nan"), **SHORT)
    with pytest.raises(ConfigError, match="would have no effect.*learns from the rankings"):
        project.align("dpo", reward=lambda prompt, text: 0.0)


def test_a_registered_algorithm_runs_and_another_code_under_its_name_is_another_run(project: prefloop.Project) -> None:
    def halved(by: float) -> type:
        @prefloop.register
        @dataclass(frozen=True)
        class Halved(Rloo):
            name = "halved"
            identity = f"halved by {by}"
            share: float = by

        return Halved

    halved(0.5)
    made = project.align("halved", options={"share": 0.25, "kl": 0.1}, reward=Rewarding(), **SHORT)
    manifest = record.Run(project.root / "runs" / str(made.run)).manifest
    assert manifest["computed_by"]["scoring"].keys() >= {"policy", "reference"}
    assert made.algorithm == "halved" and manifest["config"]["algorithms"]["halved"]["share"] == 0.25
    assert project.align("halved", options={"share": 0.25, "kl": 0.1}, reward=Rewarding(), **SHORT).skipped
    halved(0.4)
    again = project.align("halved", options={"share": 0.25, "kl": 0.1}, reward=Rewarding(), **SHORT)
    assert again.run != made.run
    assert project.report().html.is_file()


def test_a_registered_algorithm_may_learn_from_rankings(project: prefloop.Project) -> None:
    @dataclass(frozen=True)
    class Eager(Dpo):
        name = "eager"

    prefloop.register(Eager, kind="offline")
    made = project.align("eager", passes=1, lists=8)
    assert (
        made.algorithm == "eager"
        and "algorithm" in record.Run(project.root / "runs" / str(made.run)).manifest["inputs"]
    )
    with pytest.raises(ConfigError, match="eager does not use it"):
        project.align("eager", steps=3)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (type("Nameless", (Rloo,), {"name": ""}), "give it a name"),
        (Rloo, "built-in"),
        (type("Loose", (), {"name": "loose"}), "@dataclass"),
        (dataclass(frozen=True)(type("Empty", (), {"name": "empty", "trains": ("policy",)})), "it has no needs"),
    ],
)
def test_what_cannot_be_an_algorithm_is_refused_with_the_reason(made: type, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prefloop.register(made)


def test_an_annotator_of_ones_own_ranks_each_list_once_and_names_those_it_failed_on(project: prefloop.Project) -> None:
    seen: list[str] = []

    def judge(prompt: str, completions: Any) -> Any:
        seen.append(prompt)
        if "red cat" in prompt:
            raise ValueError("no idea")
        if "blue" in prompt:
            return None
        return [2, [0, 1]]

    judge.identity = "1"  # type: ignore[attr-defined]
    given = project.annotate_with(judge, criterion="brevity")
    lists = project.store.counts()["items"]
    assert given.items == lists == len(seen) and given.rankings == lists - 11
    assert given.failed == 1 and "ValueError: no idea" in given.reasons[0]
    mine = list(project.rankings("brevity"))
    assert len(mine) == given.rankings and {row.ranks for row in mine} == {(2, 2, 1)}
    assert all(row.simulated and row.annotator == "judge" for row in mine)
    assert project.annotate_with(judge, criterion="brevity").items == 11  # It ranks those that it has not ranked yet.
    judge.identity = "2"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="has changed since it ranked"):
        project.annotate_with(judge, criterion="brevity")
    assert project.annotate_with(judge, name="judge-2", criterion="brevity").rankings == given.rankings
    assert set(project.reward(criteria=["brevity"], epochs=1).models) == {"brevity"}


@pytest.mark.parametrize("places", [[0, 0], [3], [True, 1], ["a"], [[0, 1], 1]])
def test_an_annotator_that_names_no_place_is_an_error_and_writes_nothing(
    project: prefloop.Project, places: Any
) -> None:
    with pytest.raises(DataError, match="failed on each of"):
        project.annotate_with(lambda prompt, texts: places, name="wrong", criterion="brevity")
    assert not list(project.rankings("brevity"))


def test_models_answer_and_score_alone_as_they_do_in_a_project(project: prefloop.Project) -> None:
    judged = project.reward().models["quality"]
    policy = project.policy()
    several = policy.generate(["Say red cat.", "Say blue hat."], k=2, max_tokens=8, seed=1)
    assert policy.generate(["Say blue hat."], k=2, max_tokens=8, seed=1) == several[1:]
    alone = prefloop.load_reward_model(project.root / judged.model, device="cpu")
    asked, texts = ["Say red cat.", [{"role": "user", "content": "Say red cat."}]], ["The cat is red.", "No."]
    assert alone.score(asked, texts) == project.reward_model().score(asked, texts)
    with pytest.raises(ValueError, match="1 prompts, 2 texts"):
        alone.score(asked[:1], texts)
    made = project.align("rloo", reward=alone, **{**SHORT, "lr": 0.02})
    assert made.reward is not None
    compared = project.evaluate(scorer=Rewarding(), samples=1)
    assert compared.policy == made.policy
    if made.model:
        assert compared.win_rate and compared.sampled.judge_win_rate
