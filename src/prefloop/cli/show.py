"""Results for people: the key figures of each stage in a few lines, where the files are, and what comes next."""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop import results
from prefloop.cli.show_behaviour import behaviour_lines, breach_lines, compared_lines
from prefloop.cli.show_best_of import best_of_lines
from prefloop.cli.show_frontier import traded_lines
from prefloop.cli.show_plan import plan_lines
from prefloop.cli.show_text import between as _between
from prefloop.cli.show_text import mean as _mean
from prefloop.results import Outcome

if TYPE_CHECKING:
    from prefloop.labels.preference_eval import PairReport


def summary(outcome: Outcome, root: Path, following: str = "") -> list[str]:
    """Lines to print; `following` is the command that comes next."""
    head = f"{outcome.stage}: already done, nothing to do" if outcome.skipped else f"{outcome.stage}: done"
    if outcome.run:
        head += f" ({outcome.run})"
    if isinstance(outcome, results.Status):
        head = f"{outcome.name} in {outcome.project}"
    lines = [head, *(f"  {line}" for line in _figures(outcome))]
    for part in outcome.models.values() if isinstance(outcome, results.Rewarded) else (outcome,):
        lines += [f"  {line}" for line in _left_out(part)]
    for path in _files(outcome, root):
        lines.append(f"  files: {path}")
    return [*lines, f"next: {following}"] if following else lines


def _left_out(part: Outcome) -> list[str]:
    """What a stage could not use."""
    lines: list[str] = []
    refused: results.Refused | None = getattr(part, "left_out", None)
    if refused:
        lines.append(f"{refused.refused} rows left out, since the model's chat template refuses them:")
        lines += [f"  {row}" for row in refused.refused_rows]
        if more := refused.refused - len(refused.refused_rows):
            lines.append(f"  and {more} more")
    cut: results.Cut | None = getattr(part, "cut", None)
    if cut:
        lines.append(
            f"{cut.answers_cut} of {cut.answers} answers were longer than the model reads "
            f"({cut.reads_tokens} tokens of prompt and answer), and cut; {cut.prompts_shortened} prompts "
            f"lost their beginning; {cut.same_after_cut} pairs were the same then, and not learnt from"
        )
    return lines


def _files(outcome: Outcome, root: Path) -> list[Path]:
    if isinstance(outcome, results.Tuned | results.AlignedOnline | results.AlignedOffline):
        return [root / outcome.model] if outcome.model else []
    if isinstance(outcome, results.Rewarded):
        return [root / model.model for model in outcome.models.values()]
    if isinstance(outcome, results.Reported):
        return [root / outcome.json.name, root / outcome.html.name]
    if isinstance(outcome, results.BestOf):
        return [root / outcome.answers, root / outcome.lists]
    if isinstance(outcome, results.Evaluated) and outcome.run:
        return [root / "runs" / outcome.run / "result.json"]
    return []


# -- figures ---------------------------------------------------------------------------------------------------------


@singledispatch
def _figures(r: Outcome) -> list[str]:
    """The lines of a result, by its type. A type without lines of its own shows its plain figures."""
    return [f"{name}: {value}" for name, value in r.figures().items() if isinstance(value, str | int | float)]


@_figures.register
def _created(r: results.Created) -> list[str]:
    where = " (a hub id: loaded on first use)" if r.hub else ""
    return [f"model: {r.model}{where}", f"settings: {r.config}"]


@_figures.register
def _imported(r: results.Imported) -> list[str]:
    return [line for file in r.files for line in _imported_file(file)]


def _imported_file(r: results.ImportedFile) -> list[str]:
    new = _counts(prompts=r.prompts, demonstrations=r.demonstrations, items=r.items, completions=r.completions,
                  rankings=r.rankings)  # fmt: skip
    lines = [f"{r.file} ({r.format}): {'new: ' + new if new else 'nothing new, all of it is there already'}"]
    if r.rejected:
        lines.append(f"{r.rejected} rows could not be used:")
        lines += [f"  {reason}" for reason in r.reasons[:10]]
    return lines


def _counts(**counts: int) -> str:
    """The kinds of rows of which there are some."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


@_figures.register
def _removed(r: results.Removed) -> list[str]:
    going = _counts(prompts=r.prompts, demonstrations=r.demonstrations, items=r.items, rankings=r.rankings,
                    rollouts=r.rollouts)  # fmt: skip
    lines = [f"{'removed' if r.removed else 'would go'}: {going or 'nothing'}"]
    if r.rows:
        lines.append(f"among them {', '.join(r.rows)}")
    if r.sampled_items or r.rankings_by_people:
        lines.append(f"{r.sampled_items} of the items were sampled here, {r.rankings_by_people} rankings by people")
    if r.kept:
        lines.append(f"{r.kept} records stay, since another file holds them too")
    for model in r.models:
        how = f"through {model.through}" if model.through else "directly"
        lines.append(f"learnt from them: {model.version} ({model.kind}), {how}")
    if not r.removed:
        lines.append("nothing was removed")
    elif r.models:
        lines.append("these models keep what they learnt; runs, exports and backups keep their copies")
    return lines


@_figures.register
def _tuned(r: results.Tuned) -> list[str]:
    lines = [f"{r.steps} steps on {r.demonstrations} demonstrations ({r.too_long} too long)"]
    if r.heldout_loss is not None:
        lines.append(f"held-out loss {r.heldout_loss:.3f} nats a token (perplexity {r.heldout_perplexity:.2f})")
    return lines


@_figures.register
def _sampled(r: results.Sampled) -> list[str]:
    round = f"round {r.round}" + (", which starts here" if r.starts_round else "")
    whose = f"policy {r.policy}" if r.endpoints is None else f"model {r.policy} at {', '.join(r.endpoints)}"
    lines = [f"{round}, {whose}: {r.completions} completions of {r.prompts} prompts"]
    if r.ended is not None:
        length = "" if r.mean_tokens is None else f"{r.mean_tokens:.0f} tokens on average, "
        lines.append(f"{r.ended:.0%} ended by themselves, {length}{r.near_duplicates} near-duplicates")
    return lines


@_figures.register
def _crowd_ranked(r: results.CrowdRanked) -> list[str]:
    return [
        f"{r.rankings} simulated rankings of {r.items} items by {r.annotators} annotators, criterion "
        f'"{r.criterion}", hidden quality "{r.scorer}", {r.with_ties:.0%} with ties'
    ]


@_figures.register
def _rewarded(r: results.Rewarded) -> list[str]:
    lines = []
    for criterion, model in r.models.items():
        lines.append(f'"{criterion}": {model.rankings} rankings of {model.lists} lists')
        if model.heldout:
            lines += accuracy_lines(model.heldout)
        else:
            lines.append("  no held-out rankings to measure it on: import more prompts, or raise [data] heldout")
    return lines


@_figures.register
def _evaluated_reward(r: results.EvaluatedReward) -> list[str]:
    lines = [f"{r.model} on {r.items} items of {r.file}"]
    if r.rejected:
        lines.append(f"{r.rejected} rows could not be used, first: {r.reasons[0]}")
    for criterion, report in r.criteria.items():
        lines += [f'"{criterion}"', *accuracy_lines(report)]
    return lines


def accuracy_lines(report: PairReport) -> list[str]:
    """The table of how a reward model orders pairs."""
    if report.accuracy is None:
        return ["  no pair that people decided"]
    lines = [
        f"  accuracy     {_interval(report.accuracy, report.low, report.high)}  "
        f"on {report.pairs} pairs of {report.prompts} prompts",
        f"  longer wins  {_share(report.longer_wins.share)}  (the baseline to beat)",
        f"  calibration  error {_share(report.ece)}, log loss {report.log_loss:.3f} nats (chance 0.693)",
    ]
    for bin in report.by_margin:
        if bin.pairs:
            most = f"to {bin.high:g}" if bin.high is not None else "or more"
            margin = f"margin {bin.low:g} {most} ranks"
            lines.append(f"  {margin:24} {_share(bin.accuracy)}  on {bin.pairs} pairs")
    if report.ties:
        lines.append(f"  {report.ties} ties: score gap {report.tie_gap:.2f}, on others {report.pair_gap:.2f}")
    return lines


@_figures.register(results.AlignedOnline)
@_figures.register(results.AlignedOffline)
def _aligned(r: results.Aligned) -> list[str]:
    lines = [f"{r.algorithm}, round {r.round}: {r.steps} steps"]
    if r.best_step is not None:
        lines[0] += f" ({r.stopped}); kept step {r.best_step}"
    if isinstance(r, results.AlignedOnline) and r.reward is not None:
        lines.append(
            f"held-out reward {r.reward_before:+.3f} -> {r.reward:+.3f}, KL {r.kl:.2f} nats from the reference"
        )
    elif r.kl is not None:
        lines.append(f"KL {r.kl:.2f} nats a sequence from the reference, {r.length:.1f} tokens an answer")
    if isinstance(r, results.AlignedOffline) and r.heldout_accuracy is not None:
        lines.append(f"implicit reward orders {r.heldout_accuracy:.1%} of held-out pairs as people do")
    if isinstance(r, results.AlignedOnline) and r.constraints:
        lines += [f"{name}: {_constraint(c)}" for name, c in r.constraints.items()]
    if r.collapses:
        at = ", ".join(str(collapse.step) for collapse in r.collapses)
        lines.append(f"COLLAPSED at step {at}, which is not kept: {'; '.join(r.collapses[-1].signs)}")
    lines += breach_lines(r.breaches or ())
    if r.best_step == 0:
        held = (r.constraints or {}).values() if isinstance(r, results.AlignedOnline) else ()
        why = "was better than the start" if all(c.met for c in held) else "keeps every bound"
        why = f"kept the bounds of behaviour and {why}" if r.breaches else why
        lines.append(f"NO NEW POLICY: no step {why}, so the policy stays {r.policy}")
    elif r.collapsed:
        lines.append(f"COLLAPSED: {'; '.join(r.collapsed)}")
    lines += [f"warning: {warning}" for warning in r.warnings or ()]
    return lines + _standing(r.standing)


def _constraint(c: results.Constraint) -> str:
    verdict = "met" if c.met else "NOT MET: the lower end of the interval is below it"
    return f"{c.mean:.3g} (95 % interval {c.low:.3g} to {c.high:.3g}) for a bound of {c.bound:g}, {verdict}"


def _standing(r: results.RoundStanding | None) -> list[str]:
    """The round's runs, where there are several."""
    if r is None or len(r.runs) < 2:
        return []
    chosen = f"policy is of {r.chosen} ([run] choose = {r.choose})" if r.chosen else "policy is unchanged"
    lines = [f"{len(r.runs)} runs in this round, whose {chosen}; on validation prompts:"]
    for run in r.runs:
        if run.unchanged:
            figures = "no new policy"
        elif run.win_rate is None:
            figures = "not judged" if run.kl is None else f"not judged, KL {run.kl:.2f}"
        else:
            figures = f"win rate {run.win_rate:.1%}, reward {run.reward:+.3f}, KL {run.kl:.2f}"
        mark = "*" if run.chosen else " "
        lines.append(f"  {mark} {run.run} {run.algorithm or ''}: {figures}{', collapsed' * bool(run.collapsed)}")
    return lines


@_figures.register
def _evaluated(r: results.Evaluated) -> list[str]:
    if r.sampled is None or r.greedy is None:
        return [f"nothing to compare: round {r.round} left the policy as it was, which is {r.policy}"]
    each = r.samples_per_prompt or 1
    lines = [f"{r.policy} against {r.reference} on {r.prompts} held-out prompts, {each} answers each"]
    if r.collapsed:
        lines.append(f"THE POLICY HAS COLLAPSED: {'; '.join(r.collapsed)}. What it wins says nothing.")
    if r.independent is False:
        lines.append("NOT INDEPENDENT: the same prompts chose the policy. Import more, or raise [data] heldout.")
    for mode, m in (("sampled", r.sampled), ("greedy", r.greedy)):
        lines.append(f"{mode}: win rate {_mean(m.win_rate, '.1%')}, reward gain {_mean(m.reward_gain, '+.3f')}")
        if m.judge_win_rate and m.judge_gain:
            win, gain = _mean(m.judge_win_rate, ".1%"), _mean(m.judge_gain, "+.3f")
            lines.append(f"  independent judge: win rate {win}, gain {gain}")
        for name, part in (m.parts or {}).items():
            lines.append(f"  {name}: {_mean(part.policy, '.3g')}, reference {part.reference.mean:.3g}")
            if part.constraint:
                lines.append(f"    bound {part.constraint.bound:g}: {'met' if part.constraint.met else 'NOT MET'}")
        lines.append(
            f"  KL {m.policy['kl']:.2f} nats, {m.policy['length']:.0f} tokens (reference "
            f"{m.reference['length']:.0f}), ended {m.policy['ended']:.0%}"
        )
    if r.behaviour:
        lines += behaviour_lines(r.behaviour)
    seen_win, seen_gain = r.sampled.win_rate.detectable, r.sampled.reward_gain.detectable
    if seen_win is not None and seen_gain is not None:
        lines.append(
            f"so many prompts show a win rate {seen_win:.1%} off one half, or a reward gain of {seen_gain:.3f}, four "
            "times in five; what is smaller is likely to be missed"
        )
    return lines


@_figures.register
def _traded(r: results.Traded) -> list[str]:
    return traded_lines(r)


@_figures.register
def _compared(r: results.Compared) -> list[str]:
    return compared_lines(r)


@_figures.register
def _best_of(r: results.BestOf) -> list[str]:
    return best_of_lines(r)


@_figures.register
def _reported(r: results.Reported) -> list[str]:
    return []


@_figures.register
def _demo(r: results.DemoFigures) -> list[str]:
    """What came out, by the hidden true quality that training never saw."""
    names = {"demonstrations": "the demonstrations", "sft": "imitation of as many more of them"}
    names |= {"best_of_n": "best of n by the reward model", "dpo": "DPO on the same rankings", "rlhf": "the loop"}
    beside = {n: f", right step {share:.0%}, readable {r.readable[n]:.1%}" for n, share in r.right_step.items()}
    win = _between(r.win_rate, r.win_rate_low, r.win_rate_high, ".1%")
    return [
        f"the loop against imitation with the same labelling: wins {win} on {r.prompts} prompts",
        *(f"  true quality {r.quality[name]:.3f}{beside.get(name, '')}: {said}" for name, said in names.items()),
        f"  different word pairs at temperature 1: {', '.join(f'{v:.0%} {names[n]}' for n, v in r.distinct_2.items())}",
        f"KL {r.kl:.2f} nats, reward model accuracy {_share(r.reward_accuracy)}, {r.seconds:.0f} s",
        f"files: {r.report}",
    ]


@_figures.register
def _status(r: results.Status) -> list[str]:
    data, people, work = r.data, r.people, r.running.work
    real = data.effective - data.simulated
    lines = [
        f"data: {data.prompts} prompts, {data.demonstrations} demonstrations, {data.items} lists; "
        f"{real} rankings by people, {data.simulated} simulated",
        *(_round(round) for round in r.rounds),
    ]
    if people.lists:
        lines.append(
            f'people ("{people.criterion}"): {people.done} of {people.wanted} rankings, {people.at_work} lists in work'
        )
    lines += [f"  {p.name} ({p.role}): {p.done}, {p.last_24_hours} today" for p in people.people]
    lines.append(f"running: process {work.pid} ({work.command})" if work else "running: nothing")
    if r.running.server:
        lines.append(f"people rank at {r.running.server}")
    if not work and r.unfinished:
        lines.append(f"stopped half-way: {', '.join(r.unfinished)}; the same command goes on with it")
    lines += [f"diagnosis: {found.sentence}" for found in r.findings]
    return lines


def _round(r: results.RoundStatus) -> str:
    parts = [f"{r.lists} lists, {r.ranked} ranked"]
    parts += ["reward model"] * r.reward_model
    if r.align_runs:
        parts.append(f"policy of {r.policy}" if r.policy else "aligned, no new policy")
    if r.evaluated:
        parts.append(f"win rate {_mean(r.win_rate, '.1%')}" if r.win_rate else "evaluated")
    return f"round {r.round}: {', '.join(parts)}"


@_figures.register
def _ran(r: results.Ran) -> list[str]:
    lines = []
    for outcome in r.stages:
        name = f"{outcome.stage} {outcome.run or ''}".strip()
        lines.append(f"{name:28} {'already done' if outcome.skipped else 'done'}")
    return lines


@_figures.register
def _planned(r: results.Planned) -> list[str]:
    return plan_lines(r)


@_figures.register
def _exported(r: results.Exported) -> list[str]:
    if r.models is None:
        lines = [f"{r.rows} rows of {r.what} in {r.to} ({r.bytes} bytes)", f"sha256 {r.sha256}"]
        if r.mended:
            lines.append(f"{r.mended} rows held surrogates, which no file can: halves of pairs became U+FFFD")
        return lines
    lines = [f"{m.version}{' (' + m.criterion + ')' if m.criterion else ''} in {m.folder}" for m in r.models]
    return [*lines, *([f"uploaded to {r.pushed}"] if r.pushed else [])]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.1%}" if low is None or high is None else f"{value:.1%} (95 % interval {low:.1%} to {high:.1%})"
