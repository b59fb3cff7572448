"""A project as programs use it: every step of the loop is a method, and gives a typed result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from prefloop import results
from prefloop.api.functions import ScoreFunction, as_scorer
from prefloop.api.rankings import RankedList, as_table, ranked_lists
from prefloop.api.settings import Settings, as_overrides, setting_key
from prefloop.config import CONFIG_NAME, Config, load_config
from prefloop.effects import refuse_for_align
from prefloop.project.project import Project as Core
from prefloop.store import Store

if TYPE_CHECKING:
    import pyarrow

    from prefloop.api.models import Policy, RewardScorer
    from prefloop.stages.annotate_with import Annotator


class Project:
    """Is a project folder that is open. Each method does what the command of its name does, with the same settings.

    Settings come from prefloop.toml, then from `open`, then from the call: `project.align("grpo", steps=20)`.
    """

    def __init__(self, core: Core, overrides: Sequence[str] = ()):
        """Use `create` or `open`."""
        self._core = core
        self._overrides = list(overrides)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | Path | None = None,
        *,
        scratch: bool = False,
        texts: Sequence[str | Path] = (),
        settings: Settings = (),
        quiet: bool = False,
    ) -> Self:
        """Make a project folder with a commented prefloop.toml, and open it.

        model: a Hugging Face folder or hub id; or scratch=True for a small new one. settings are written down.
        Raises ConfigError where there is a project already, ModelError for a model that cannot be used.
        """
        initialise(folder, model, scratch=scratch, texts=texts, settings=settings)
        return cls.open(folder, quiet=quiet)

    @classmethod
    def open(cls, folder: str | Path = ".", settings: Settings = (), *, quiet: bool = False, new: bool = False) -> Self:
        """Open a project folder. settings: {"align.steps": 20}, for as long as it is open.

        new: begin another run where one with other settings stopped half-way, which is refused otherwise
        Raises ConfigError where there is no project, or a setting is wrong.
        """
        overrides = as_overrides(settings)
        return cls(Core.open(Path(folder).absolute(), overrides, quiet, new), overrides)

    def close(self) -> None:
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Return the project folder."""
        return self._core.root

    @property
    def config(self) -> Config:
        """Return the resolved settings."""
        return self._core.config

    @property
    def store(self) -> Store:
        """Return the database of prompts, lists, rankings and models."""
        return self._core.store

    def say(self, text: str) -> None:
        """Write a line to standard error, unless the project is quiet."""
        self._core.say(text)

    def next_command(self, after: results.Outcome) -> str:
        """Return the command that comes next in the loop after what was just done; empty where none follows."""
        from prefloop.stages.advice import following

        return following(self._core, after)

    def status(self) -> results.Status:
        """Return what the project holds, what is running, how far people are, and which command comes next."""
        from prefloop.stages.status import status

        found = status(self._core)
        return replace(found, next=self.next_command(found))

    def plan(
        self, *stages: str, devices: int | None = None, memory: float | None = None, measure: bool = True
    ) -> results.Planned:
        """Return what stages will need: memory, steps, tokens, hours. stages: "sft", "reward", "align"; none = all.

        devices: None = what `[project] ranks` says;  memory: GB of each, for GPUs that are not here
        measure: the speed of this machine, for the hours
        """
        from prefloop.stages.plan import STAGES, plan

        return plan(self._core, stages or STAGES, devices, memory and memory * 1e9, measure)

    # -- data in -----------------------------------------------------------------------------------------------------

    def import_file(
        self, path: str | Path, format: str | None = None, ignore: Collection[str] = ()
    ) -> results.Imported:
        """Read prompts, demonstrations, rankings or pairs into the store. What is there already adds nothing.

        path: a file; or "hf://owner/name:split", a data set of the hub (pip install 'prefloop[hub]').
        """
        return self.import_files([path], format, ignore)

    def import_files(
        self, paths: Sequence[str | Path], format: str | None = None, ignore: Collection[str] = ()
    ) -> results.Imported:
        """Import several files, in turn. Raises DataError at the first that holds nothing usable; earlier ones stay."""
        from prefloop.stages.importing import import_files

        return import_files(self._core, paths, format, ignore)

    def remove(
        self,
        ids: Sequence[str] = (),
        imports: Sequence[str] = (),
        refused: bool = False,
        *,
        with_rankings: bool = False,
        dry_run: bool = False,
        agreed: Callable[[results.Removed], bool] = lambda planned: True,
    ) -> results.Removed:
        """Take rows out again: by id, by the file they came from, or those that the model's chat template refuses."""
        from prefloop.stages.removing import remove

        return remove(self._core, ids, imports, refused, with_rankings=with_rankings, dry_run=dry_run, agreed=agreed)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def sft(self, **settings: Any) -> results.Tuned:
        """Fine-tune the base model on demonstrations. settings: of `[sft]`."""
        from prefloop.stages.sft import sft

        return sft(self._with("sft", settings))

    def sample(self, round: int | None = None, **settings: Any) -> results.Sampled:
        """Draw several completions of each prompt, to be ranked. settings: of `[sample]`."""
        from prefloop.stages.sample import sample

        return sample(self._with("sample", settings), round)

    def crowd(self, scorer: str | ScoreFunction | None = None, **settings: Any) -> results.CrowdRanked:
        """Let simulated people rank what was sampled, by a hidden quality. settings: of `[crowd]`."""
        from prefloop.stages.crowd import crowd

        return crowd(self._with("crowd", settings, scorer=scorer))

    def annotate_with(
        self, function: Annotator, name: str | None = None, criterion: str | None = None
    ) -> results.FunctionRanked:
        """Let a function rank every list: (prompt, completions) -> their places, best first, as `[2, [0, 1]]`."""
        from prefloop.stages.annotate_with import annotate_with

        return annotate_with(self._core, function, name, criterion)

    def prioritise(self) -> results.Prioritised:
        """Let people rank first what the reward model is unsure of."""
        from prefloop.stages.prioritise import prioritise

        return prioritise(self._core)

    def agreement(self, criterion: str | None = None, hardest: int = 10) -> results.Agreed:
        """Return how far people agree, and whose rankings to look at."""
        from prefloop.stages.agreement import agreement

        return agreement(self._core, criterion, hardest)

    def reward(self, round: int | None = None, **settings: Any) -> results.Rewarded:
        """Train a reward model of each criterion from the rankings. settings: of `[reward]`."""
        from prefloop.stages.train_reward import reward

        return reward(self._with("reward", settings), round)

    def align(
        self,
        algorithm: str | None = None,
        round: int | None = None,
        *,
        reward: str | ScoreFunction | None = None,
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> results.Aligned:
        """Optimise the policy. algorithm: one that `prefloop align --help` lists, or `prefloop.register` made known.

        reward: a function (prompt, completion) -> number, or an object with `score(prompts, texts)`, that takes the
        place of the reward models. options: of the algorithm, {"kl": 0.1}; settings: of `[align]` and its parts,
        by their names: `steps=20, k=4, eval_every=5`.
        """
        from prefloop.stages.align import align

        more = settings | ({"algorithm": algorithm} if algorithm else {})
        name = algorithm or self.config.align.algorithm
        project = self._with("align", more, {f"algorithms.{name}": options or {}}, reward=reward)
        refuse_for_align(project.config, [*self._overrides, *(f"{setting_key('align', key)}=" for key in more)])
        return align(project, round)

    def evaluate(
        self,
        round: int | None = None,
        run: str | None = None,
        *,
        scorer: str | ScoreFunction | None = None,
        **settings: Any,
    ) -> results.Evaluated:
        """Compare the aligned policy with the reference. scorer: an independent judge; settings: of `[evaluate]`."""
        from prefloop.stages.evaluate import evaluate

        return evaluate(self._with("evaluate", settings, scorer=scorer), round, run)

    def frontier(self, round: int | None = None, **settings: Any) -> results.Traded:
        """Trade one criterion for another, as runs of `align`, and draw the front. settings: of `[frontier]`."""
        from prefloop.stages.frontier import frontier

        return frontier(self._with("frontier", settings), round)

    def compare(
        self,
        a: str,
        b: str,
        *,
        prompts: str | Path | None = None,
        scorers: Sequence[str | ScoreFunction] = (),
        slices: Sequence[str] = (),
        **settings: Any,
    ) -> results.Compared:
        """Compare two policies, or a policy and a file of texts: a run, "policy", "reference", a folder, a hub id.

        scorers: names or functions; settings: of `[evaluate]`.
        """
        from prefloop.stages.compare import compare_sides

        core = self._with("evaluate", settings)
        names = []
        for scorer in scorers:
            if not isinstance(scorer, str):
                made = as_scorer(scorer)
                core.scorers[made.name] = made
            names.append(scorer if isinstance(scorer, str) else made.name)
        return compare_sides(core, a, b, None if prompts is None else Path(prompts), names, slices)

    def best_of(
        self,
        n: int | None = None,
        *,
        scorer: str | ScoreFunction | None = None,
        majority: str | None = None,
        policy: str = "policy",
        prompts: str | Path | None = None,
        out: str | Path | None = None,
        lists: str | Path | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> results.BestOf:
        """Answer prompts by the best of n by a scorer, or by majority of the final answers. Nothing is trained.

        scorer: "reward" for the reward models, a name or a function; majority: a regular expression or
        "file.py:function"; prompts: a file, else the held-out ones; settings: of `[best_of]`.
        """
        from prefloop.stages.best_of import best_of

        core = self._with("best_of", {"n": n, "majority": majority, **settings}, scorer=scorer)
        asked, answers, ranked = (None if path is None else Path(path) for path in (prompts, out, lists))
        return best_of(core, policy, asked, answers, ranked, overwrite)

    def report(self) -> results.Reported:
        """Write report.html and report.json into the project folder."""
        from prefloop.stages.report import report

        return report(self._core)

    def run(self, **settings: Any) -> results.Ran:
        """Go through the whole loop; what is done already is skipped. settings: of `[run]`."""
        from prefloop.stages.run import run

        return run(self._with("run", settings))

    # -- what there is -----------------------------------------------------------------------------------------------

    def rankings(self, criterion: str | None = None, round: int | None = None) -> Iterator[RankedList]:
        """Yield every ranking that counts, one at a time, however many there are."""
        return ranked_lists(self.store, criterion, round)

    def rankings_table(self, criterion: str | None = None, round: int | None = None) -> pyarrow.Table:
        """Return the same as an Arrow table; `.to_pandas()` makes a data frame of it where pandas is installed."""
        return as_table(self.rankings(criterion, round))

    def policy(self, round: int | None = None) -> Policy:
        """Return the newest policy, or that at the start of a round: 0 is the reference."""
        from prefloop.api.models import newest_policy

        return newest_policy(self._core, round)

    def reward_model(self, criterion: str | None = None, round: int | None = None) -> RewardScorer:
        """Return the newest reward model of a criterion. Raises NothingToDoError where there is none."""
        from prefloop.api.models import newest_reward_model

        return newest_reward_model(self._core, criterion, round)

    # -- data out ----------------------------------------------------------------------------------------------------

    def export(
        self,
        what: str,
        to: str | Path,
        criterion: str | None = None,
        round: int | None = None,
        overwrite: bool = False,
        *,
        pairing: str = "all",
        probability: Literal["votes", "model"] = "votes",
        run: str | None = None,
        push: str | None = None,
    ) -> results.Exported:
        """Write a policy, reward models, rankings, pairs, kto, demonstrations or prompts to a folder or file.

        push: "owner/name" of a repository on the hub that gets the model, too; it is made private where it is new.
        """
        from prefloop.stages.exporting import export

        place = Path(to).absolute()
        how: dict[str, Any] = {"pairing": pairing, "probability": probability, "run": run, "push": push}
        return export(self._core, what, place, criterion, round, overwrite, **how)

    def backup(self, to: str | Path, runs: bool = False) -> results.BackedUp:
        """Copy the store while people work, with settings and guidelines; runs: the trained models too."""
        from prefloop.stages.backup.backup import backup

        return backup(self._core, Path(to).absolute(), runs)

    # -- settings of one call ----------------------------------------------------------------------------------------

    def _with(
        self,
        section: str,
        settings: Mapping[str, Any],
        more: Mapping[str, Mapping[str, Any]] | None = None,
        **functions: str | ScoreFunction | None,
    ) -> Core:
        """Return the project with other settings of a section.

        functions: settings that name a scorer, or a function
        """
        core, values = self._core, dict(settings)
        for key, function in functions.items():
            if isinstance(function, str):
                values[key] = function
            elif function is not None:
                scorer = as_scorer(function)
                core.scorers[scorer.name] = scorer
                values[key] = scorer.name
        changes = {section: values, **(more or {})}
        overrides = as_overrides(
            {setting_key(part, key): value for part, keys in changes.items() for key, value in keys.items()}
        )
        if not overrides:
            return core
        config = load_config(core.root / CONFIG_NAME, [*self._overrides, *overrides])
        other = Core(core.root, config, core.store, core.quiet, core.new)
        other.scorers = core.scorers
        return other


def initialise(
    folder: str | Path,
    model: str | Path | None = None,
    *,
    scratch: bool = False,
    texts: Sequence[str | Path] = (),
    settings: Settings = (),
) -> results.Created:
    """Make a project folder without opening it."""
    from prefloop.stages.init import init

    named = None if model is None else str(model)
    return init(Path(folder), named, scratch, [Path(text) for text in texts], as_overrides(settings))
