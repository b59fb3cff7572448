"""Every setting of a stage changes what the stage makes, or is refused: none is ignored without a word."""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from resumable import WORDS

from prefloop import config as settings
from prefloop.algorithms.registry import make
from prefloop.config_problems import describe, places
from prefloop.effects import refuse_for_align
from prefloop.errors import ConfigError
from prefloop.known_algorithms import ALGORITHMS as KNOWN
from prefloop.known_algorithms import is_offline
from prefloop.project.project import Project
from prefloop.results import Outcome
from prefloop.stages.align import align, check_options
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking

TOML = """
[project]
seed = 3
threads = 1
device = "cpu"
[model]
init = "scratch"
vocab_size = 300
hidden_size = 16
layers = 2
heads = 2
context = 64
[data]
heldout = 0.3
[sft]
batch = 8
epochs = 1
lr = 1e-3
max_tokens = 64
[sample]
k = 8
prompts = 6
temperature = 0.1
max_tokens = 1
[reward]
batch = 8
epochs = 1
lr = 1e-3
normalise_prompts = 4
[align]
lr = 1e-3
max_tokens = 6
[align.rollout]
prompts = 4
"""
FEW = "evaluation.eval_prompts=2"
ONLINE = ("steps=2", "rollout.k=2", "rollout.minibatches=2", "evaluation.eval_every=2", FEW, "checkpoint_every=2")
# No setting of [align] tells one offline method from another, so that one stands for all.
ALGORITHMS = ["ppo", "grpo", "rloo", "online_dpo", "dpo"]  # The stage, and no method, reads these settings.
CHANGED: dict[str, dict[str, str]] = {  # Each value is another than the default and than the project's.
    "align": {
        "lr": "2e-3",
        "critic_lr": "5e-3",
        "warmup": "0.5",
        "schedule": '"constant"',
        "optim": '"adamw_8bit"',
        "weight_decay": "0.5",
        "clip_norm": "0.01",
        "token_budget": "64",
        "gradient_checkpointing": "true",
        "steps": "3",
        "prompts": "3",
        "k": "3",
        "epochs": "2",
        "passes": "2",
        "lists": "3",
        "minibatches": "4",
        "temperature": "0.5",
        "max_tokens": "5",
        "missing_eos": '"off"',
        "missing_eos_penalty": "2.0",
        "overlong": "1.0",
        "length_penalty": "0.5",
        "length_target": "3",
        "length_normalised": "true",
        "dynamic_sampling": "2",
        "ptx": "0.5",
        "average": "0.9",
        "kl_budget": "1e-9",
        "calibrate_kl": "true",
        "eval_every": "1",
        "eval_prompts": "3",
        "checkpoint_every": "1",
        "critic": '"head"',
        "frozen_dtype": '"bfloat16"',
        "frozen_offload": "true",
        "reference_refresh": "1",
        "reference_ema": "0.5",
        "staleness": "1",
        "importance_cap": "0.5",
        "reward_weights": "{quality = 2.0}",
        "reward": '"length"',
        "kind": '"worst"',
        "maximise": '"quality"',
        "subject_to": "{quality = 0.5}",
        "scorers": '{short = "brevity"}',
        "on_alarm": '"stop"',
        "stop_on": '["kl-weak"]',
        "multiplier_start": "2.0",
        "multiplier_lr": "0.5",
        "multiplier_gain": "5.0",
        "multiplier_max": "1.01",
        "window": "1",
    },
    "sft": {
        "lr": "2e-3",
        "warmup": "0.9",
        "schedule": '"constant"',
        "optim": '"adamw_8bit"',
        "weight_decay": "0.5",
        "clip_norm": "0.01",
        "token_budget": "64",
        "gradient_checkpointing": "true",
        "epochs": "2",
        "batch": "4",
        "max_tokens": "11",
        "limit": "9",
        "preferred": '"quality"',
        "eval_every": "1",
        "checkpoint_every": "1",
    },
    "sample": {
        "k": "3",
        "prompts": "5",
        "temperature": "0.5",
        "top_p": "0.5",
        "max_tokens": "2",
        "avoid_duplicates": "false",
        "batch": "3",
    },
    "reward": {
        "lr": "2e-3",
        "warmup": "0.9",
        "schedule": '"constant"',
        "optim": '"adamw_8bit"',
        "weight_decay": "0.5",
        "clip_norm": "0.01",
        "token_budget": "64",
        "gradient_checkpointing": "true",
        "objective": '"bradley_terry"',
        "start": '"model"',
        "criteria": '["quality"]',
        "epochs": "2",
        "batch": "4",
        "dropout": "0.3",
        "freeze": "1",
        "max_tokens": "10",
        "annotators": '"majority"',
        "auxiliary": "true",
        "contrast": "{quality = 0.5}",
        "average": "0.9",
        "eval_every": "1",
        "checkpoint_every": "1",
        "normalise_prompts": "3",
    },
}
STAGES: dict[str, Callable[[Project], Outcome]] = {"sft": sft, "sample": sample, "reward": reward, "align": align}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return demonstrations, lists ranked by three people and one who guesses, an SFT model, a reward model."""
    root = tmp_path_factory.mktemp("effects")
    (root / "prefloop.toml").write_text(TOML)
    rng = random.Random(5)

    def text(n: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(n))

    records: list[Any] = []
    for n in range(32):
        prompt = Prompt(f"{n} {text(3)}")
        records.append(Demonstration(prompt, text(rng.randint(2, 6))))
        completions = tuple(Completion(f"i{n}:c{k}", text(rng.randint(2, 6))) for k in range(3))
        best, said = [c.id for c in completions], []
        for person, criterion in [*((p, "quality") for p in ("ann", "bob", "cat", "dan")), ("ann", "style")]:
            order = best if person in ("ann", "bob", "cat") and rng.random() < 0.8 else rng.sample(best, 3)
            said.append(Ranking(f"i{n}", person, criterion, tuple((id,) for id in order)))
        records.append(Item(f"i{n}", prompt, completions, tuple(said)))
    with Project.open(root, quiet=True) as opened:
        opened.store.add(records)
        sft(opened)
    with Project.open(root, ['reward.criteria=["quality"]'], quiet=True) as opened:
        reward(opened)
    return root


def made(root: Path, stage: str, overrides: list[str]) -> tuple[bool, str]:
    """Return whether a stage was done before, and a hash of all that it makes but times."""
    with Project.open(root, overrides, quiet=True) as project:
        if stage == "align":
            refuse_for_align(project.config, overrides)  # The command does so too.
        before = {item.id for item in project.store.items(source="sample")}
        outcome = STAGES[stage](project)
        new = [i for i in project.store.items(source="sample") if i.id not in before]
        total = hashlib.sha256(repr(sorted(c.text for i in new for c in i.completions)).encode())
        for run in str(outcome.run).split(","):
            for path in sorted((root / "runs" / run).rglob("*")):
                if path.name in ("model.safetensors", "metrics.jsonl", "result.json"):
                    total.update(
                        path.read_bytes().replace(run.encode(), b"") if path.suffix == ".json" else path.read_bytes()
                    )
    return outcome.skipped, total.hexdigest()


def named(stage: str) -> set[str]:
    """Return the settings of a section and its parts; each name is used once in them."""
    keys = [key for key, *_ in describe(settings.Config) if key.split(".")[0] == stage]
    found = {key.rpartition(".")[2] for key in keys}
    assert len(found) == len(keys)
    return found


def check(root: Path, stage: str, key: str, usual: list[str], plain: str) -> None:
    """Change one setting: the result is another, or an error names it; it is the same where the setting is neutral."""
    asked = [*usual, f"{places(settings.Config, stage, key)[0]}={CHANGED[stage][key]}"]
    section = getattr(settings, stage.capitalize())
    if key in section.neutral:
        assert made(root, stage, asked)[0], f"{stage}.{key} is said to change no result"
        return
    try:
        _, found = made(root, stage, asked)
    except ConfigError as error:
        assert key in str(error) and "no effect" in str(error), error
    else:
        assert found != plain, f"{stage}.{key} is ignored, with {usual}"


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(a, marks=[pytest.mark.slow] if a in ("grpo", "rloo", "online_dpo") else []) for a in ALGORITHMS],
)
def test_every_setting_of_align_has_an_effect_or_is_refused(project: Path, algorithm: str) -> None:
    assert set(CHANGED["align"]) == named("align") - {"algorithm"}
    usual = [f"align.algorithm={algorithm}"]
    usual += [f"align.{setting}" for setting in ((FEW,) if is_offline(algorithm) else ONLINE)]
    _, plain = made(project, "align", usual)
    for key in CHANGED["align"]:
        check(project, "align", key, usual, plain)


def test_every_setting_of_a_bound_has_an_effect(project: Path) -> None:
    scorers = '{short = "brevity", long = "length"}'
    usual = ["align.algorithm=grpo", f"align.objective.scorers={scorers}", "align.objective.kind=constrained",
             "align.objective.subject_to={short = -1.0}", *(f"align.{setting}" for setting in ONLINE)]  # fmt: skip
    _, plain = made(project, "align", usual)
    for asked in ("maximise=long", "subject_to={short = 5.0}", "multiplier_start=2.0", "multiplier_lr=0.5",
                  "multiplier_gain=5.0", "multiplier_max=1.01", "window=1", "kind=lexicographic"):  # fmt: skip
        assert made(project, "align", [*usual, f"align.objective.{asked}"])[1] != plain, asked


def test_a_reference_that_follows_the_policy_is_moved_as_the_settings_say(project: Path) -> None:
    usual = ["align.algorithm=rloo", *(f"align.{setting}" for setting in ONLINE), "align.steps=3"]
    asked = ([], ["align.reference_refresh=1"], ["align.reference_refresh=2"],
             ["align.reference_refresh=1", "align.reference_ema=0.5"])  # fmt: skip
    assert len({made(project, "align", [*usual, *some])[1] for some in asked}) == len(asked)


@pytest.mark.parametrize("stage", ["sft", "sample", pytest.param("reward", marks=pytest.mark.slow)])
def test_every_setting_of_the_other_stages_has_an_effect_or_is_refused(project: Path, stage: str) -> None:
    assert set(CHANGED[stage]) == named(stage)
    _, plain = made(project, stage, [])
    for key in CHANGED[stage]:
        check(project, stage, key, [], plain)


@pytest.mark.parametrize("name", KNOWN)
def test_what_settings_know_of_an_algorithm_is_true_of_its_class(name: str) -> None:
    made, known = make(name), KNOWN[name]
    assert made.name == name
    assert known.critic == ("critic" in made.trains) == ("value" in getattr(made, "needs", ()))
    assert known.kind != "offline" or known.reference == ("reference" in made.needs)
    assert (known.kind == "online") == hasattr(made, "credit") and (known.kind == "reward") == (
        made.trains == ("reward",)
    )


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("[model]\nlayers = 2", "model.layers"),
        ('[model]\ninit = "scratch"\npath = "there"', "model.path"),
        ('[model]\ninit = "scratch"\nrevision = "abc"', "model.revision"),
        ("[sample]\ntemperature = 0\ntop_p = 0.9", "sample.top_p"),
        ("[annotate]\noverlap_share = 0\noverlap_many = 5", "annotate.overlap_many"),
        ("[annotate]\noverlap_many = 1\noverlap_share = 0.5", "annotate.overlap_share"),
        ("[annotate]\nlease_minutes = 90\nlease_hours = 1", "annotate.lease_hours"),
        ('[align]\nalgorithm = "dpo"\nevaluation.kl_budget = 5', "align.evaluation.kl_budget"),
        ('[align]\nalgorithm = "dpo"\nreward = "length"', "align.reward"),
        ('[align]\nalgorithm = "dpo"\nrollout.epochs = 3', "align.rollout.epochs"),
        ('[align]\nalgorithm = "dpo"\nrollout.prompts = 8', "align.rollout.prompts"),
        ('[align]\nalgorithm = "grpo"\npasses = 3', "align.passes"),
        ("[align]\nlists = 3", "align.lists"),
        ('[align]\nreward = "length"\nreward_weights = {quality = 1.0}', "align.reward_weights"),
        ('[align]\nalgorithm = "rloo"\ncritic_lr = 0.1', "align.critic_lr"),
        ('[align]\nalgorithm = "grpo"\ncritic = "head"', "align.critic"),
        ('[align]\nalgorithm = "dpo"\ncritic = "head"', "align.critic"),
        ('[align]\nrollout.missing_eos = "off"\nrollout.missing_eos_penalty = 3', "align.rollout.missing_eos_penalty"),
        ("[align]\nreference_ema = 0.9", "align.reference_ema"),
        ("[align]\nrollout.length_target = 9", "align.rollout.length_target"),
        ('[align]\nrollout.missing_eos = "off"\nrollout.overlong = 0.3', "align.rollout.overlong"),
        ("[align]\nrollout.k = 1\nrollout.dynamic_sampling = 2", "align.rollout.dynamic_sampling"),
        ('[align]\nalgorithm = "dpo"\nrollout.dynamic_sampling = 2', "align.rollout.dynamic_sampling"),
        ("[align]\nrollout.prompts = 2\nrollout.minibatches = 4", "align.rollout.minibatches"),
        ("[align]\nrollout.staleness = 1\nevaluation.eval_every = 1", "align.rollout.staleness"),
        ('[run]\nrounds = 3\nstages = ["sft", "report"]', "run.rounds"),
        ('[run]\nignore = {"a.jsonl" = ["label"]}', "run.ignore"),
    ],
)
def test_a_file_with_a_setting_that_nothing_reads_is_refused_by_its_name(asked: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named} = .* would have no effect: "):
        settings.make_config(tomllib.loads(asked))
    section, _, rest = asked.partition("\n")
    others = [line for line in rest.splitlines() if not line.startswith(named.split(".", 1)[1])]
    settings.make_config(tomllib.loads("\n".join([section, *others])))  # It is the same without it.


def test_what_a_file_says_for_its_own_algorithm_stays_where_a_command_takes_another(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = project.parent / "ppo.toml"
    file.write_text(TOML.replace("[align]\n", "[align]\nsteps = 7\nptx = 0.5\n"))
    assert settings.load_config(file, ["align.algorithm=dpo"]).align.ptx == 0.5
    for overrides in (["align.algorithm=dpo", "align.ptx=0.25"], ["align.algorithm=dpo", "align.rollout.k=3"]):
        with pytest.raises(ConfigError, match="no effect"):
            settings.load_config(file, overrides)
    file.write_text(TOML.replace("[align]\n", '[align]\nptx = 0.5\nalgorithm = "dpo"\n'))
    with pytest.raises(ConfigError, match=r"align.ptx = 0.5 would have no effect: dpo"):
        settings.load_config(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ppo": {"kl_horizon": 50.0}}, "kl_horizon would have no effect"),
        ({"ppo": {"clip": 0.1}}, "clip would have no effect"),
        ({"grpo": {"klip": 0.1}}, 'has no option "klip"'),
        ({"dpo": {"label_smoothing": 0.7}}, "label_smoothing: .*less than or equal to 0.5"),
        ({"grop": {"kl": 0.1}}, 'no algorithm "grop"'),
    ],
)
def test_an_option_without_effect_or_misspelt_is_refused_in_any_section(
    options: Mapping[str, Any], message: str
) -> None:
    config = settings.make_config({"align": {"rollout": {"minibatches": 1}}, "algorithms": options})
    with pytest.raises(ConfigError, match=message):
        check_options(config)
    check_options(
        settings.make_config(
            {"align": {"rollout": {"epochs": 2}}, "algorithms": {"ppo": {"clip": 0.1, "kl_target": 6}}}
        )
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["align.reward_weights={quality=1.0,tone=1.0}"], "tone is not among"),
        (["align.reward_weights={quality=-1.0,style=1.0}"], "0 or more"),
        (["align.reward_weights={quality=2.0}", 'reward.criteria=["quality"]'], "would have no effect"),
    ],
)
def test_weights_that_rankings_cannot_be_learnt_with_are_refused(
    project: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(project, "align", ["align.algorithm=dpo", *overrides])


def test_dpo_hears_people_and_criteria_as_the_settings_say(project: Path) -> None:
    """Majority is one ranking a list; a criterion of weight 0 is as good as absent, and only proportions count."""
    usual, found = ["align.algorithm=dpo", "align.lists=8"], {}
    for name, asked in {
        "all": [],
        "majority": ["reward.annotators=majority"],
        "weighted": ["reward.annotators=weighted"],
        "quality": ['reward.criteria=["quality"]'],
        "no style": ["align.reward_weights={quality=1.0,style=0.0}"],
        "both": ["align.reward_weights={quality=1.0,style=1.0}"],
        "mostly quality": ["align.reward_weights={quality=9.0,style=1.0}"],
    }.items():
        with Project.open(project, [*usual, *asked], quiet=True) as opened:
            outcome = align(opened)
            run = project / "runs" / str(outcome.run)
            found[name] = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
            assert outcome.annotators["quality"].mode == (name if name in ("majority", "weighted") else "all")
    assert found["quality"] == found["no style"] and found["all"] == found["both"]
    different = ("all", "majority", "weighted", "quality", "mostly quality")
    assert len({found[name] for name in different}) == len(different)
