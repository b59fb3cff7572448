"""Opens a project on disk: its prefloop.toml, its store and its runs/, and which model each stage starts from.

The rounds r of the loop (0 is the first) start from these models:

    base -> sft ---------------------------------------------> the reference of every round
    sample(r), align(r) start from the policy of round r-1    (round 0: the reference)
    reward(r) starts from the reference, on all rankings of rounds <= r
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tqdm import tqdm

from prefloop import record
from prefloop.config import CONFIG_NAME, Config, load_config
from prefloop.config_rollout import refuse_endpoint
from prefloop.config_section import Optimiser, Section
from prefloop.engine.placement import Placement
from prefloop.engine.process import set_environment
from prefloop.engine.rollouts.environments import check_launch
from prefloop.errors import ConfigError, ModelError, NothingToDoError
from prefloop.models.folder import check_files, check_sizes, file_hash, file_hashes, gone, has_weights
from prefloop.project.choose import FRONT, Candidate, candidates, choose, passed_over
from prefloop.project.diagnosing import Announcer
from prefloop.project.lines import Lines
from prefloop.project.scratch import make_scratch_model
from prefloop.project.unfinished import refuse_other_settings
from prefloop.record import Run
from prefloop.results import Outcome
from prefloop.rewards.rules import RuleScorer, make_scorer
from prefloop.store import ModelKind, ModelRow, ProjectLock, Queue, Store
from prefloop.track.tracking import Tracking, check_installed
from prefloop.types import Snapshot, digest

if TYPE_CHECKING:  # torch takes seconds to load, and verbs that only move data do without it.
    from prefloop.models.tokenization import Tokenization
    from prefloop.models.trunk import Trunks


_Outcome = TypeVar("_Outcome", bound=Outcome)


@dataclass(frozen=True)
class ModelRef:
    """Names a model that a stage starts from. `weights` identifies the bytes, `version` is for people.

    registered: whether it is in the store
    files:      the hashes that `intact` compares, of one registered with them
    """

    version: str
    path: str
    weights: str
    files: Mapping[str, str] | None = field(default=None, compare=False, repr=False)
    registered: bool = field(default=False, compare=False, repr=False)

    def here(self) -> Self:
        """Return itself, once its weights are known to be there. A stage asks before it begins. Raises ModelError."""
        if self.registered and not has_weights(Path(self.path)):
            raise gone(Path(self.path), self.version)
        return self

    def intact(self) -> str:
        """Return its folder, once its files are known to be what was registered.

        Every load of a model goes through this. Raises ModelError, which names what changed.
        """
        self.here()
        if self.files is not None:
            check_files(Path(self.path), self.files, self.version)
        return self.path


class Project:
    """Is an open project. `say` and progress bars go to standard error; standard output is for results."""

    def __init__(
        self, root: Path, config: Config, store: Store, quiet: bool = False, new: bool = False, front: bool = False
    ):
        """Hold an open project; `open` is the usual way.

        new: begin another run where one with other settings stopped half-way, which is refused otherwise
        front: runs are points of `prefloop frontier`, which give no round its policy unless `[run] choose` names one
        """
        self.root = root
        self.new, self.front = new, front
        self._told: set[str] = set()  # It warned of these runs that are passed over, of each only once.
        self.begun = 0  # the round that `run` is in, which need not sample anything
        self.config = config
        self.store = store
        self.quiet = quiet
        # The program that opened the project adds these, under the names that settings give them.
        self.scorers: dict[str, RuleScorer] = {}

    def scorer(self, spec: str) -> RuleScorer:
        """Return the scorer that a setting names: the opening program's own, a built-in one, or "file.py:function"."""
        return self.scorers.get(spec) or make_scorer(spec, self.root)

    @cached_property
    def device(self) -> str:
        """Return the device of tensors. Whatever computes asks for it first: this also sets the number of threads."""
        from prefloop.engine.process import pick_device, set_up

        device = pick_device(self.config.project.device)
        set_up(self.config.project.threads, device)
        return device

    @property
    def placement(self) -> Placement:
        """Return where engines do their work, for `engine.make`."""
        offload = self.config.align.frozen_offload
        return Placement(self.device, self.config.rollout, self.root, self.config.model, offload)

    @cached_property
    def trunks(self) -> Trunks:
        """Return the frozen models that adapters stand on, as long as they are in use."""
        from prefloop.models.trunk import Trunks

        return Trunks()

    @cached_property
    def queue(self) -> Queue:
        """Return the queue of what people are asked to rank, by the rules of `[annotate]`."""
        return Queue(self.store, self.config.annotate, seed=self.config.project.seed)

    @classmethod
    def open(cls, root: Path, overrides: Iterable[str] = (), quiet: bool = False, new: bool = False) -> Self:
        """Open a project folder. Raises ConfigError where there is no project, or its settings are wrong."""
        set_environment()
        config = load_config(root / CONFIG_NAME, list(overrides))
        return cls(root, config, Store.open(config.project.store, root), quiet, new)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- messages ----------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def progress(self, total: int | None, label: str, start: int = 0, lines: bool = True) -> Any:
        """Return a bar on a terminal; elsewhere a line a minute, unless the caller writes its own (`lines` False)."""
        if lines and not self.quiet and not sys.stderr.isatty():
            return Lines(self.say, total, label, start)
        hide = self.quiet or not sys.stderr.isatty()
        return tqdm(total=total, initial=start, desc=label, disable=hide, file=sys.stderr, leave=False)

    # -- runs --------------------------------------------------------------------------------------------------------

    def lock(self) -> ProjectLock:
        """Return the lock that lets one process at a time write runs and models.

        Entering it raises BusyError, which names the other process.
        """
        return ProjectLock(self.root)

    def fingerprint(self, stage: str, settings: Section, inputs: Mapping[str, Any]) -> str:
        """Return a hash of all that decides a stage's outcome."""
        model = self.config.model.unusual(isinstance(settings, Optimiser))
        decides = dict(inputs) | ({"model settings": model} if model else {})
        return digest(stage, self.config.project.seed, self.config.data.heldout, settings.deciding(), decides)

    def done(self, kind: type[_Outcome], fingerprint: str) -> _Outcome | None:
        """The result of an earlier run of the same stage on the same inputs. kind: the stage's result."""
        run = record.find_run(self.root, kind.stage, fingerprint)
        if run:
            self._claim(run)
        return kind.read(run.result, run.name, skipped=True) if run else None

    def _claim(self, run: Run) -> None:
        """Let a point of a front that is asked for by itself count like any other run."""
        if run.manifest.get(FRONT) and not self.front:
            run.note(FRONT, False)

    def begin(self, stage: str, fingerprint: str, inputs: Mapping[str, Any]) -> Run:
        if stage not in ("sample", "crowd"):
            refuse_endpoint(self.config.rollout, f"prefloop {stage.replace('_', '-')}")
        if stage not in ("sft", "crowd"):  # The others sample.
            check_launch(self.config.rollout)
        track = self.config.track
        check_installed(track.to)
        if not self.new:
            verb = "frontier" if self.front else stage
            refuse_other_settings(self.root, self.config, stage, fingerprint, inputs, verb)
        run = record.begin_run(
            self.root,
            stage,
            fingerprint,
            self.config.model_dump(),
            inputs=inputs,
            seed=self.config.project.seed,
            known=[model.version for model in self.store.models()],
            notes={FRONT: True} if self.front else {},
        )
        self._claim(run)
        self.say(f"{stage}: {'going on with' if run.resumed else 'new run'} {run.path}")
        to = Tracking(track, self.root / track.folder, track.project or self.config.project.name, self.say)
        announcers = () if self.quiet else (Announcer(self.say),)
        return replace(run, listeners=((to,) if track.to else ()) + announcers)

    def snapshot(self, kind: Any, ids: Iterable[str]) -> str:
        """Remember the ids a model is trained on; return their hash."""
        return self.store.add_snapshot(Snapshot(kind, tuple(sorted(ids))))

    def register(
        self,
        run: Run,
        kind: ModelKind,
        parent: ModelRef,
        weights: str,
        snapshot: str,
        metrics: Mapping[str, Any],
        criterion: str | None = None,
    ) -> None:
        """Register the model that a run left in its `model/` folder, under the run's name."""
        self.store.add_model(
            ModelRow(
                version=run.name,
                kind=kind,
                path=self.relative(run.path / "model"),
                parent=parent.version,
                run_id=run.name,
                weights_sha256=weights,
                snapshot_hash=snapshot,
                criterion=criterion,
                metrics=dict(metrics),
                files=file_hashes(run.path / "model"),
            )
        )

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    # -- which model -------------------------------------------------------------------------------------------------

    def base(self) -> ModelRef:
        """Return the model that the user brought, or the one made from scratch on first use."""
        settings = self.config.model
        if settings.init == "scratch":
            folder = self.root / "model"
            if not (folder / "config.json").is_file():
                self.say(f"model: training a tokenizer and initialising a small Llama in {folder}")
                make_scratch_model(folder, self.root, self.config, self.store)
            check_sizes(folder, settings)
            return ModelRef("base", str(folder), file_hash(folder))
        if not settings.path:
            raise ConfigError('[model] path is not set. Give a Hugging Face folder or hub id, or init = "scratch".')
        folder = self.root / settings.path
        if folder.is_dir():
            if settings.revision:
                raise ConfigError(f"[model] revision would have no effect: {folder} is a folder. Take it out.")
            return ModelRef("base", str(folder), file_hash(folder))
        return ModelRef("base", settings.path, f"{settings.path}@{settings.revision or 'main'}")

    def reference(self) -> ModelRef:
        """Return the frozen reference of every round: the newest supervised policy, else the base model."""
        for row in reversed(self.store.models("policy")):
            if row.version.startswith("sft-"):
                return self.ref(row)
        return self.base()

    def policy(self, round: int) -> ModelRef:
        """Return the policy at the *start* of a round. Raises NothingToDoError where the round before was not aligned.

        A round in which no step was better than the start leaves the policy that it started from.
        """
        if round == 0:
            return self.reference()
        if row := self.aligned(round - 1):
            return self.ref(row)
        if not self.candidates(round - 1):
            raise NothingToDoError(
                f"round {round} starts from the policy of round {round - 1}: run prefloop align first"
            )
        return self.policy(round - 1)

    def aligned(self, round: int) -> ModelRow | None:
        """Return the policy of a round: of those that `align` made in it, the one that `[run] choose` picks."""
        chosen = self.chosen(round)
        return chosen.row if chosen else None

    def candidates(self, round: int | None = None) -> list[Candidate]:
        """Return every finished run of `align`, of a round or of all, oldest first."""
        found = candidates(record.runs(self.root), self.store.models("policy"), self.root)
        return [candidate for candidate in found if round in (None, candidate.round)]

    def policy_of(self, candidate: Candidate) -> ModelRef:
        """Return the policy that a run of `align` came to.

        Where its best step was the start, it is the policy that it started from.
        """
        return self.ref(candidate.row) if candidate.row and not candidate.unchanged else self.policy(candidate.round)

    def chosen(self, round: int) -> Candidate | None:
        """Return the run whose policy is the round's.

        None before `align`, and where no run made a policy of its own.
        """
        judges = {m.criterion or "": m.weights_sha256 for m in self._reward_models(round)}
        picked = choose(self.candidates(round), self.config.run.choose, judges)
        for why in passed_over(self.candidates(), round, self.config.run.choose, picked):
            if why not in self._told and not self.front:
                self._told.add(why)
                self.say(f"warning: {why}")
        return picked

    def aligned_rounds(self) -> int:
        """Return how many rounds have been through `align`."""
        round = 0
        while self.candidates(round):
            round += 1
        return round

    def latest_round(self) -> int:
        """Return the newest round that anything was sampled in."""
        return self.store.latest_round("sample")

    def existing_round(self, asked: int | None, starts: bool = False) -> int:
        """Return the round that was asked for; by default the newest.

        Raises NothingToDoError where there is no such round.

        starts: whether the next one may be begun, too
        """
        if asked is None:
            return self.latest_round()
        newest = max(self.latest_round(), self.begun, self.aligned_rounds() if starts else 0)
        if asked > newest:
            raise NothingToDoError(
                f"there is no round {asked}: the newest is round {newest}. prefloop sample starts the next, once the "
                "round before it has been through prefloop align"
            )
        return asked

    def reward_models(self, round: int) -> list[ModelRow]:
        """Return the newest reward model of each criterion for a round.

        Raises NothingToDoError where there is none.
        """
        newest = self._reward_models(round)
        if not newest:
            raise NothingToDoError(f"there is no reward model for round {round} yet: run prefloop reward first")
        for row in newest:
            self.ref(row).here()
        return newest

    def _reward_models(self, round: int) -> list[ModelRow]:
        rows = [row for row in self.store.models("reward") if row.metrics.get("round") == round]
        return list({row.criterion or "": row for row in rows}.values())

    def ref(self, row: ModelRow) -> ModelRef:
        """Return a registered model. Raises ModelError for a path out of the project: the store may be another's."""
        if Path(row.path).is_absolute() or ".." in Path(row.path).parts:
            raise ModelError(f"the store says that {row.version} is at {row.path}, which is outside of the project")
        return ModelRef(row.version, str(self.root / row.path), row.weights_sha256 or "", row.files, True)


def derive(seed: int, *names: object) -> int:
    """Return a seed for one purpose: 63 bits from the project's seed and names."""
    return int(digest(seed, *names), 16) >> 1


def load_policy(project: Project, ref: ModelRef, learns: bool = False) -> tuple[Any, Tokenization]:
    """Return (policy, its tokenization). learns: whether what `[model] adapter` asks for is trained of it."""
    from prefloop.models.load import load_causal

    assert project.device  # This comes before the first tensor, since it sets the number of threads.
    if learns and project.config.model.adapter == "lora":
        seed = derive(project.config.project.seed, "adapter")
        return project.trunks.causal(ref.intact(), project.config.model, seed)
    return load_causal(ref.intact(), project.config.model)


def load_registered_reward(project: Project, row: ModelRow) -> tuple[Any, Tokenization]:
    """Return (reward model, its tokenization). Raises ModelError where its files are not those that were registered."""
    from prefloop.models.reward import load_reward_model

    return load_reward_model(project.ref(row).intact(), project.config.model, project.trunks)
