"""The two sides of `prefloop compare`: a policy that is asked, or texts that a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from prefloop import exchange
from prefloop.behaviour.registry import Pair
from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.errors import DataError, suggest
from prefloop.exchange import RowError
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut, fitting
from prefloop.project.project import ModelRef, Project, derive, load_policy
from prefloop.training.sampled_lists import to_completion
from prefloop.types import Completion, Demonstration, Item, Prompt

NAMES = ("policy", "reference", "base")
SHOWN = 3  # rows of a file that could not be used


@dataclass(frozen=True)
class Side:
    """Answers of one side. answers: {prompt id: its answers}, as many for each prompt."""

    name: str
    answers: Mapping[str, Sequence[Completion]]

    def pairs(self, prompts: Sequence[Prompt]) -> list[list[Pair]]:
        """The answers as checks see them. Whether a text of a file ended by itself is not known."""
        return [
            [
                Pair(p.text, c.text, p.id, None if c.finish_reason is None else c.finish_reason == "stop")
                for c in self.answers[p.id]
            ]
            for p in prompts
        ]


def read_rows(path: Path, project: Project) -> list[Prompt | Demonstration | Item]:
    """Read a file of prompts or answers. Rows that cannot be used are named; DataError where none can."""
    rows: list[Prompt | Demonstration | Item] = []
    rejected = []
    for row in exchange.read(path):
        if isinstance(row, RowError):
            rejected.append(f"row {row.line}: {row.reason}")
        else:
            rows.append(row)
    if rejected:
        project.say(f"warning: {len(rejected)} rows of {path} could not be used: {'; '.join(rejected[:SHOWN])}")
    if not rows:
        raise DataError(f"{path} holds no row that can be used")
    return rows


def prompts_of(rows: Sequence[Prompt | Demonstration | Item]) -> list[Prompt]:
    """The prompts of rows, each once."""
    return list({p.id: p for p in (row if isinstance(row, Prompt) else row.prompt for row in rows)}.values())


def texts_of(path: Path, project: Project) -> tuple[Side, list[Prompt]]:
    """Read the texts of a file as a side, with their prompts. Each prompt counts as many answers as the fewest have."""
    rows = read_rows(path, project)
    found: dict[str, list[Completion]] = {}
    for row in rows:
        if isinstance(row, Demonstration):
            some = found.setdefault(row.prompt.id, [])
            some.append(Completion(f"{row.prompt.id}:{len(some)}", row.text, messages=row.messages))
        elif isinstance(row, Item):
            found.setdefault(row.prompt.id, []).extend(row.completions)
    if not found:
        raise DataError(f"{path} holds prompts and no answers: give it with --prompts, and name two sides")
    fewest = min(map(len, found.values()))
    side = Side(path.name, {id: some[:fewest] for id, some in found.items()})
    return side, [p for p in prompts_of(rows) if p.id in found]


def policy_named(project: Project, name: str) -> ModelRef:
    """Return the policy of a version or run, a folder or a hub id. DataError suggests the nearest name."""
    if name == "base":
        return project.base()
    if name == "reference":
        return project.reference().here()
    if name == "policy":
        return project.policy(project.aligned_rounds()).here()
    rows = {row.version: row for row in project.store.models("policy")}
    if name in rows:
        return project.ref(rows[name]).here()
    runs = {candidate.run: candidate for candidate in project.candidates()}
    if name in runs:  # Its best step was the start.
        return project.policy_of(runs[name]).here()
    for folder in (project.root / name, Path(name)):
        for path in (folder, folder / "model"):
            if (path / "config.json").is_file():
                return ModelRef(name, str(path), str(path.resolve()))
        if folder.exists():
            raise DataError(f"{folder} is neither a folder with a model (config.json) nor a file of texts")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return ModelRef(name, name, name)
    known = list(dict.fromkeys([*NAMES, *rows, *runs]))
    raise DataError(
        f'there is no policy, folder or file called "{name}".{suggest(name, known)} It may be {", ".join(NAMES)}, a '
        "run, a folder, a hub id (owner/name), or a file of texts."
    )


def ask(project: Project, ref: ModelRef, prompts: Sequence[Prompt], left_out: LeftOut) -> Side:
    """Let a policy answer prompts by the settings of `[evaluate]`. Those that don't fit it have no answers."""
    settings = project.config.evaluate
    model, tokenization = load_policy(project, ref)
    fit = fitting(project, tokenization, prompts, settings.max_tokens, left_out)
    k, sampling = settings.samples, Sampling(settings.max_tokens, settings.temperature)
    seed = derive(project.config.project.seed, "compare")
    policy = Policy(model, settings.temperature)
    with closing(make_engine({"policy": policy}, tokenization, seed, project.placement)) as engine:
        ids = [ids for _, ids in fit for _ in range(k)]
        keys = [derive(0, prompt.id, draw) for prompt, _ in fit for draw in range(k)]
        drawn = engine.generate(ids, keys, sampling)
    how = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
    answers = {
        prompt.id: [
            to_completion(tokenization, prompt, f"{prompt.id}:{draw}", drawn[n * k + draw], ref.version, how)
            for draw in range(k)
        ]
        for n, (prompt, _) in enumerate(fit)
    }
    return Side(ref.version, answers)
