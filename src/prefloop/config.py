"""Resolves prefloop.toml and --set key=value to frozen models. An unknown key is an error with a suggestion.

This module does not load torch, since every command reads the settings, also on machines that cannot train. The options
of algorithms (`[algorithms.ppo]` ...) are kept as given, and `prefloop.algorithms.registry` checks them.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from prefloop.config_align import Align
from prefloop.config_behaviour import Behaviour
from prefloop.config_best_of import BestOf
from prefloop.config_problems import explain, holds_nul, may_be_left_out, problems, sections, settings_of
from prefloop.config_rollout import Rollouts
from prefloop.config_section import Optimiser, Section, number_or_auto
from prefloop.effects import SCRATCH, refuse_unused
from prefloop.errors import ConfigError

CONFIG_NAME = "prefloop.toml"


class Project(Section):
    name: str = Field("project", description="the project's name, which pages and reports show")
    seed: int = Field(0, ge=0, description="the number from which every random choice is derived")
    store: str = Field("sqlite:///prefloop.db", description="SQLAlchemy URL; an SQLite path is relative to the project")
    threads: int = Field(0, ge=0, description="CPU threads for tensors; 0 = all cores")
    ranks: int | Literal["auto"] = Field(
        1,
        description='processes that compute together, one on each GPU; "auto" = as many as there are GPUs',
    )
    rank_timeout: float = Field(
        1800.0, gt=0, description="seconds that ranks wait for one another before the group ends and is started again"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description='"auto", "cpu" or "cuda"')

    @field_validator("ranks", mode="before")
    @classmethod
    def _is_a_number_or_auto(cls, value: Any) -> Any:
        return number_or_auto(value, 1, "a number of processes")


class Lora(Section):
    """What a new adapter is like. One that is trained further keeps its own form."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float = Field(32.0, gt=0, description="an adapter is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        (), description="names of linear modules that get an adapter, such as q_proj; none = all of every layer"
    )
    dora: bool = Field(False, description="also learn the length of each row of a matrix (DoRA); slower")


class Model(Section):
    # These make or find the base model, which is an input of every stage by the hash of its weights.
    neutral = ("init", "path", "revision", "trust_remote_code", *SCRATCH)

    init: Literal["pretrained", "scratch"] = Field(
        "pretrained", description='"pretrained", or "scratch": a new small Llama with a tokenizer of its own'
    )
    path: str | None = Field(None, description="a Hugging Face folder (relative to the project) or hub id")
    revision: str | None = Field(None, description="revision on the hub; a commit is safest")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description='"float32" or "bfloat16" weights; logprobs, losses and the optimiser are float32 in any case',
    )
    trust_remote_code: bool = Field(False, description="run the code in a model's folder; set it only if you trust it")
    chat: Literal["auto", "none"] = Field("auto", description='"auto" uses the chat template if there is one')
    adapter: Literal["none", "lora"] = Field(
        "none", description='what is trained: "none" = all weights, "lora" = adapters beside one frozen model for all'
    )
    lora: Lora = Lora()
    load_in_4bit: bool = Field(
        False,
        description="hold the frozen layers that adapters stand on in 4 bits (NF4; QLoRA), computed in dtype; the "
        'extra "bitsandbytes"',
    )
    # These apply to a model from scratch only.
    text: tuple[str, ...] = Field((), description="scratch: text files for the tokenizer, beside the training data")
    vocab_size: int = Field(2048, ge=64, description="scratch: size of the vocabulary")
    hidden_size: int = Field(192, ge=8, description="scratch: width of the model")
    layers: int = Field(6, ge=1, description="scratch: number of layers")
    heads: int = Field(6, ge=1, description="scratch: attention heads")
    context: int = Field(512, ge=16, description="scratch: longest sequence in tokens")

    def unusual(self, trains: bool) -> dict[str, Any]:
        """Return the settings that decide a stage's outcome and are not at their defaults. trains: whether it learns"""
        usual, read = type(self)().deciding(), ("adapter", *Lora.model_fields)
        return {k: v for k, v in self.deciding().items() if v != usual[k] and (trains or k not in read)}


class Data(Section):
    heldout: float = Field(0.1, ge=0, lt=1, description="share of prompts kept out of all training, by hash")
    max_line_bytes: int = Field(8_000_000, ge=1000, description="a longer row of a file is rejected")


class Sft(Optimiser):
    epochs: float = Field(3, gt=0, description="passes over the demonstrations")
    batch: int = Field(32, ge=1, description="demonstrations per step")
    max_tokens: int = Field(512, ge=4, description="longest demonstration; longer ones are left out and counted")
    limit: int | None = Field(None, ge=1, description="use only this many demonstrations")
    preferred: str | None = Field(
        None, description="also learn the imported completions that rank best by this criterion"
    )
    eval_every: int = Field(50, ge=1, description="steps between held-out evaluations")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints; changes no result")


class Sample(Section):
    neutral = ("batch",)
    k: int = Field(4, ge=1, le=64, description="completions per prompt")
    prompts: int | None = Field(None, ge=1, description="number of prompts; none = all")
    temperature: float = Field(1.0, ge=0, description="sampling temperature; 0 = greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 = off")
    max_tokens: int = Field(128, ge=1, description="longest completion")
    avoid_duplicates: bool = Field(True, description="sample near-duplicates in a list again")
    batch: int = Field(128, ge=1, description="rows sampled at once; changes speed, not results")


class Crowd(Section):
    scorer: str | None = Field(
        None, description='hidden true quality: a name ("demo", "length", ...), "file.py:function" or "https://..."'
    )
    criterion: str = Field("quality", description="what the rankings are about")
    annotators: int = Field(20, ge=1, description="simulated people")
    overlap: int = Field(1, ge=1, description="how many annotators rank each item")
    quality_sd: float = Field(2.4, gt=0, description="standard deviation of quality differences, in logits")
    careful: float = Field(0.70, ge=0, le=1, description="share of people who judge well")
    weak: float = Field(0.20, ge=0, le=1, description="share of people with half the sensitivity and the same biases")
    coin: float = Field(0.05, ge=0, le=1, description="share of people who rank by chance")
    display_order: float = Field(0.03, ge=0, le=1, description="share of people who keep the order shown")
    inverted: float = Field(0.02, ge=0, le=1, description="share of people who reverse the order")
    length_bias: float = Field(0.5, description="utility per unit of log length")
    position_bias: float = Field(0.1, description="utility of being shown first; it falls as 1/position")
    tie_threshold: float = Field(0.3, ge=0, description="neighbours with closer utilities than this are tied")


class Annotate(Section):
    """Settings of how people rank: what they are asked, and who sees what."""

    criterion: str = Field("quality", description="what the rankings are about")
    attributes: tuple[str, ...] = Field(
        (), max_length=2, description="up to two attributes, rated 1 to 5 per completion"
    )
    guidelines: str = Field("guidelines.md", description="Markdown file shown beside each item")
    partial: bool = Field(False, description="whether completions may stay unplaced")
    none_acceptable: bool = Field(True, description='whether "none acceptable" is offered')
    rationale: Literal["off", "optional", "required"] = Field("optional", description="whether a comment is asked for")
    overlap: int = Field(1, ge=1, description="people who rank an item")
    overlap_many: int = Field(3, ge=1, description="people who rank an item of the overlap sample")
    overlap_share: float = Field(0.2, ge=0, le=1, description="share of items in the overlap sample")
    gold_share: float = Field(
        0.05, ge=0, le=0.5, description="share of a person's items that are gold, if there are any"
    )
    random_share: float = Field(
        0.2, ge=0.2, le=1, description="share of items chosen at random, for unbiased evaluation"
    )
    lease_minutes: float = Field(15, gt=0, description="minutes that an item is kept after the last activity")
    lease_hours: float = Field(2, gt=0, description="hours that activity can keep an item, at most")
    limit: int | None = Field(None, ge=1, description="the most items that a person may rank; none = no limit")
    quota: int | None = Field(None, ge=1, description="rankings that `run` waits for in a round; none = all open ones")
    webhooks: tuple[str, ...] = Field((), description="addresses that get a signed message about new rankings")
    public_url: str | None = Field(
        None,
        description='where people reach the server, as "https://rank.example.org"; invitations lead there',
    )
    hosts: tuple[str, ...] = Field(
        (), description="host names that the server answers to, beside its own addresses and public_url"
    )
    proxies: tuple[str, ...] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted"
    )
    connections: int = Field(200, ge=1, description="most connections from an address, except proxies, to a process")


class Reward(Optimiser):
    objective: str = Field("plackett_luce", description="the objective; prefloop reward --help lists them")
    start: str = Field("policy", description='the model to start from: "policy", a Hugging Face folder or a hub id')
    criteria: tuple[str, ...] = Field((), description="one model for each; none = all criteria in the store")
    epochs: float = Field(2, gt=0, description="passes over the lists")
    batch: int = Field(16, ge=1, description="lists per step")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in training")
    freeze: int = Field(0, ge=0, description="lowest layers that are not trained, with the embedding")
    max_tokens: int | None = Field(
        None,
        ge=4,
        description="longest prompt and completion; a longer prompt loses its beginning; none = the model's context",
    )
    annotators: Literal["all", "weighted", "majority"] = Field(
        "all", description="all rankings alike, weighted by estimated reliability, or one majority ranking per item"
    )
    auxiliary: bool = Field(False, description="learn the other criteria too, with heads that are removed at the end")
    contrast: dict[str, float] = Field(
        default_factory=dict,
        description="criterion = weight (0.1 to 0.5) of an answer to a similar prompt, which ranks below a list's own",
    )
    average: float = Field(0.0, ge=0, lt=1, description="decay of the weight average that is saved; 0 = last weights")
    eval_every: int = Field(50, ge=1, description="steps between held-out evaluations")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints; changes no result")
    normalise_prompts: int = Field(128, ge=2, description="prompts sampled to scale the reward to mean 0 and sd 1")


class Evaluate(Section):
    prompts: int | None = Field(200, ge=1, description="number of held-out prompts; none = all")
    temperature: float = Field(1.0, gt=0, description="sampling temperature; greedy answers are evaluated too")
    max_tokens: int = Field(128, ge=1, description="longest completion")
    samples: int = Field(8, ge=1, description="answers per prompt by each policy; the interval is over prompts")
    bootstrap: int = Field(2000, ge=100, description="resamples over prompts for the 95 % interval")
    scorer: str | None = Field(
        None, description='an independent judge beside the reward model: a name, "file.py:function" or "https://..."'
    )
    show: int = Field(10, ge=0, description="number of before and after samples in the report")


class Frontier(Section):
    """What `prefloop frontier` trades, and in which steps."""

    criteria: tuple[str, ...] = Field(
        (), description="two: the one to maximise, and the one against it; none = those of [align.objective], or all"
    )
    weights: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), description="weights of the second criterion; the first has what is left of 1"
    )
    bounds: tuple[float, ...] = Field((), description="least means of the second criterion, instead of weights")


Stage = Literal["sft", "sample", "annotate", "crowd", "reward", "align", "evaluate", "report"]


class Run(Section):
    rounds: int = Field(1, ge=1, description="number of rounds of the loop")
    stages: tuple[Stage, ...] = Field(
        ("sft", "sample", "crowd", "reward", "align", "evaluate", "report"),
        description="the stages that run runs, always in the order of the loop",
    )
    imports: tuple[str, ...] = Field((), description="files that are imported first; relative to the TOML file")
    ignore: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="file of imports = its fields that become metadata, as for import --ignore",
    )
    choose: str = Field(
        "win_rate",
        pattern=r"^(win_rate|reward|newest|align-\d{3,})$",
        description='which align run of a round counts: the one with the best "win_rate" over the reference or '
        'the best "reward" on validation prompts, the "newest", or a run by name',
    )


class Track(Section):
    neutral = ("to", "project", "folder")  # Where metrics are copied to changes none of them.

    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        (), description='what gets the metrics beside metrics.jsonl: "tensorboard", "wandb", "mlflow", "trackio"'
    )
    project: str | None = Field(None, description="the name that runs are filed under there; none = the project's name")
    folder: str = Field("tracking", description="where local files of trackers go, relative to the project")


class Config(Section):
    """Everything a project can be told. `docs/config.md` lists each key with its default."""

    project: Project = Project()
    model: Model = Model()
    data: Data = Data()
    sft: Sft = Sft()
    sample: Sample = Sample()
    crowd: Crowd = Crowd()
    annotate: Annotate = Annotate()
    reward: Reward = Reward()
    align: Align = Align()
    evaluate: Evaluate = Evaluate()
    behaviour: Behaviour = Behaviour()
    best_of: BestOf = BestOf()
    frontier: Frontier = Frontier()
    run: Run = Run()
    rollout: Rollouts = Rollouts()
    track: Track = Track()
    algorithms: dict[str, dict[str, Any]] = Field(default_factory=dict, description="options of each algorithm")


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply `key=value` overrides.

    Raises ConfigError naming the file, the key and, for a misspelt key, the nearest right one.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist. Make a project with: prefloop init DIR --model PATH_OR_HUB_ID"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    written = copy.deepcopy(table)
    for override in overrides:
        apply_override(table, override)
    return make_config(table, str(path), _for_another(written, table))


def make_config(table: Mapping[str, Any], where: str = "configuration", but: Iterable[str] = ()) -> Config:
    """Check a table of settings. Raises ConfigError with every problem found, one a line.

    A setting without effect is a problem, except those named by `but`.
    """
    if holds_nul(table):
        raise ConfigError(f"{where}: a value holds a NUL character, which no name of a file or an address can")
    if found := list(problems(table, Config)):
        raise ConfigError("\n".join([f"{where}:", *found]))
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise ConfigError(f"{where}:\n" + "\n".join(explain(e, Config) for e in error.errors())) from None
    refuse_unused(config, where, but)
    if config.model.load_in_4bit and config.rollout.backend == "vllm":
        raise ConfigError(
            f"{where}: vLLM gets adapters alone, beside a base in full precision, and would sample from another model "
            "than one that learns with [model] load_in_4bit. Take that out, or let servers of prefloop or SGLang "
            "sample ([rollout] backend): they get whole weights, with the adapter added."
        )
    return config


def _for_another(written: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that a file has for its own algorithm, model or sampler, where a command takes another one."""
    for section, switch in (("align", "algorithm"), ("model", "init"), ("rollout", "backend")):
        there, now = written.get(section, {}), table.get(section, {})
        if isinstance(there, dict) and isinstance(now, dict):
            default = Config.model_fields[section].annotation.model_fields[switch].default  # type: ignore[union-attr]
            if there.get(switch, default) != now.get(switch, default):
                kept = settings_of({section: now}, Config)
                yield from (k for k, v in settings_of({section: there}, Config).items() if v == kept.get(k))


def apply_override(table: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value`; the value is TOML, or a bare string where it is not.

    `none` takes out a setting that may be left out. A table for a section, as in `align.rollout={k=4}`, changes the
    settings that it names and leaves the others as they are.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write section.key=value, for example --set align.steps=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    if value == "none" and may_be_left_out(Config, parts):
        table.pop(parts[-1], None)
    else:
        _put(table, parts, value)


def _put(table: dict[str, Any], key: Sequence[str], value: Any) -> None:
    """Set the last part of a dotted key; a table for a section goes into the one that is there."""
    there = table.get(key[-1])
    if isinstance(value, dict) and isinstance(there, dict) and ".".join(key) in dict(sections(Config)):
        for name, inner in value.items():
            _put(there, [*key, name], inner)
    else:
        table[key[-1]] = value
