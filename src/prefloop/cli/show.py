"""Results for people: the key figures of each stage in a few lines, where the files are, and what comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefloop.project.project import Outcome

Result = Mapping[str, Any]


def summary(outcome: Outcome, root: Path, following: str = "") -> list[str]:
    """Lines to print; `following` is the command that comes next. An unknown stage shows its plain figures."""
    head = f"{outcome.stage}: already done, nothing to do" if outcome.skipped else f"{outcome.stage}: done"
    if outcome.run:
        head += f" ({outcome.run})"
    if outcome.stage == "status":
        head = f"{outcome.result['name']} in {outcome.result['project']}"
    lines = [head, *(f"  {line}" for line in _LINES.get(outcome.stage, _plain)(outcome.result))]
    lines += [f"  {line}" for line in _left_out(outcome.result)]
    for path in _files(outcome, root):
        lines.append(f"  files: {path}")
    return [*lines, f"next: {following}"] if following else lines


def _left_out(r: Result) -> list[str]:
    """What a stage could not use, of the whole or of each of its models."""
    lines: list[str] = []
    models = r.get("models")
    for part in (r, *models.values()) if isinstance(models, Mapping) else (r,):
        if part.get("refused"):
            lines.append(f"{part['refused']} rows left out, since the model's chat template refuses them:")
            lines += [f"  {row}" for row in part["refused_rows"]]
            if more := part["refused"] - len(part["refused_rows"]):
                lines.append(f"  and {more} more")
        if part.get("answers_cut") or part.get("prompts_shortened"):
            lines.append(
                f"{part['answers_cut']} of {part['answers']} answers were longer than the model reads "
                f"({part['reads_tokens']} tokens of prompt and answer), and cut; {part['prompts_shortened']} prompts "
                f"lost their beginning; {part['same_after_cut']} pairs were the same then, and not learnt from"
            )
    return lines


def _files(outcome: Outcome, root: Path) -> list[Path]:
    if isinstance(outcome.result.get("model"), str) and outcome.stage in ("sft", "align"):
        return [root / outcome.result["model"]]
    if outcome.stage == "reward":
        return [root / model["model"] for model in outcome.result["models"].values()]
    if outcome.stage == "report":
        return [root / path for path in outcome.result.values()]
    if outcome.stage == "evaluate" and outcome.run:
        return [root / "runs" / outcome.run / "result.json"]
    return []


# -- figures ---------------------------------------------------------------------------------------------------------


def _init(r: Result) -> list[str]:
    where = " (a hub id: loaded on first use)" if r["hub"] else ""
    return [f"model: {r['model']}{where}", f"settings: {r['config']}"]


def _import(r: Result) -> list[str]:
    return [line for file in r.get("files") or [r] for line in _imported(file)]


def _imported(r: Result) -> list[str]:
    kinds = ("prompts", "demonstrations", "items", "completions", "rankings")
    new = ", ".join(f"{r[kind]} {kind}" for kind in kinds if r[kind])
    lines = [f"{r['file']} ({r['format']}): {'new: ' + new if new else 'nothing new, all of it is there already'}"]
    if r["rejected"]:
        lines.append(f"{r['rejected']} rows could not be used:")
        lines += [f"  {reason}" for reason in r["reasons"][:10]]
    return lines


def _remove(r: Result) -> list[str]:
    kinds = ("prompts", "demonstrations", "items", "rankings", "rollouts")
    going = ", ".join(f"{r[kind]} {kind}" for kind in kinds if r[kind])
    lines = [f"{'removed' if r['removed'] else 'would go'}: {going or 'nothing'}"]
    if r["rows"]:
        lines.append(f"among them {', '.join(r['rows'])}")
    if r["sampled_items"] or r["rankings_by_people"]:
        lines.append(
            f"{r['sampled_items']} of the items were sampled here, {r['rankings_by_people']} rankings by people"
        )
    if r["kept"]:
        lines.append(f"{r['kept']} records stay, since another file holds them too")
    for model in r["models"]:
        how = f"through {model['through']}" if model["through"] else "directly"
        lines.append(f"learnt from them: {model['version']} ({model['kind']}), {how}")
    if not r["removed"]:
        lines.append("nothing was removed")
    elif r["models"]:
        lines.append("these models keep what they learnt; runs, exports and backups keep their copies")
    return lines


def _sft(r: Result) -> list[str]:
    lines = [f"{r['steps']} steps on {r['demonstrations']} demonstrations ({r['too_long']} too long)"]
    if "heldout_loss" in r:
        lines.append(f"held-out loss {r['heldout_loss']:.3f} nats a token (perplexity {r['heldout_perplexity']:.2f})")
    return lines


def _sample(r: Result) -> list[str]:
    round = f"round {r['round']}" + (", which starts here" if r.get("starts_round") else "")
    lines = [f"{round}, policy {r['policy']}: {r['completions']} completions of {r['prompts']} prompts"]
    if r["ended"] is not None:
        lines.append(
            f"{r['ended']:.0%} ended by themselves, {r['mean_tokens']:.0f} tokens on average, "
            f"{r['near_duplicates']} near-duplicates"
        )
    return lines


def _crowd(r: Result) -> list[str]:
    return [
        f"{r['rankings']} simulated rankings of {r['items']} items by {r['annotators']} annotators, criterion "
        f'"{r["criterion"]}", hidden quality "{r["scorer"]}", {r["with_ties"]:.0%} with ties'
    ]


def _reward(r: Result) -> list[str]:
    lines = []
    for criterion, model in r["models"].items():
        lines.append(f'"{criterion}": {model["rankings"]} rankings of {model["lists"]} lists')
        if model["heldout"]:
            lines += accuracy_lines(model["heldout"])
        else:
            lines.append("  no held-out rankings to measure it on: import more prompts, or raise [data] heldout")
    return lines


def _evaluate_reward(r: Result) -> list[str]:
    lines = [f"{r['model']} on {r['items']} items of {r['file']}"]
    if r["rejected"]:
        lines.append(f"{r['rejected']} rows could not be used, first: {r['reasons'][0]}")
    for criterion, report in r["criteria"].items():
        lines += [f'"{criterion}"', *accuracy_lines(report)]
    return lines


def accuracy_lines(report: Result) -> list[str]:
    """The table of a PairReport (as JSON)."""
    if report["accuracy"] is None:
        return ["  no pair that people decided"]
    lines = [
        f"  accuracy     {_interval(report['accuracy'], report['low'], report['high'])}  "
        f"on {report['pairs']} pairs of {report['prompts']} prompts",
        f"  longer wins  {_share(report['longer_wins']['share'])}  (the baseline to beat)",
        f"  calibration  error {_share(report['ece'])}, log loss {report['log_loss']:.3f} nats (chance 0.693)",
    ]
    for bin in report["by_margin"]:
        if bin["pairs"]:
            most = f"to {bin['high']:g}" if bin["high"] is not None else "or more"
            margin = f"margin {bin['low']:g} {most} ranks"
            lines.append(f"  {margin:24} {_share(bin['accuracy'])}  on {bin['pairs']} pairs")
    if report["ties"]:
        lines.append(f"  {report['ties']} ties: score gap {report['tie_gap']:.2f}, on others {report['pair_gap']:.2f}")
    return lines


def _align(r: Result) -> list[str]:
    lines = [f"{r['algorithm']}, round {r['round']}: {r['steps']} steps"]
    if "best_step" in r:
        lines[0] += f" ({r['stopped']}); kept step {r['best_step']}"
    if r.get("reward") is not None:
        lines.append(
            f"held-out reward {r['reward_before']:+.3f} -> {r['reward']:+.3f}, KL {r['kl']:.2f} nats from the reference"
        )
    elif r.get("kl") is not None:
        lines.append(f"KL {r['kl']:.2f} nats a sequence from the reference, {r['length']:.1f} tokens an answer")
    if "heldout_accuracy" in r:
        lines.append(f"implicit reward orders {r['heldout_accuracy']:.1%} of held-out pairs as people do")
    if r.get("collapses"):
        at = ", ".join(str(c["step"]) for c in r["collapses"])
        lines.append(f"COLLAPSED at step {at}, which is not kept: {'; '.join(r['collapses'][-1]['signs'])}")
    if r.get("best_step") == 0:
        lines.append(f"NO NEW POLICY: no step was better than the start, so the policy stays {r.get('policy')}")
    elif r.get("collapsed"):
        lines.append(f"COLLAPSED: {'; '.join(r['collapsed'])}")
    lines += [f"warning: {warning}" for warning in r.get("warnings", ())]
    return lines + _standing(r)


def _standing(r: Result) -> list[str]:
    """The round's runs, where there are several."""
    if len(r.get("runs", ())) < 2:
        return []
    chosen = f"policy is of {r['chosen']} ([run] choose = {r['choose']})" if r["chosen"] else "policy is unchanged"
    lines = [f"{len(r['runs'])} runs in this round, whose {chosen}; on validation prompts:"]
    for run in r["runs"]:
        if run["unchanged"]:
            figures = "no new policy"
        elif run["win_rate"] is None:
            figures = "not judged" if run["kl"] is None else f"not judged, KL {run['kl']:.2f}"
        else:
            figures = f"win rate {run['win_rate']:.1%}, reward {run['reward']:+.3f}, KL {run['kl']:.2f}"
        mark = "*" if run["chosen"] else " "
        lines.append(
            f"  {mark} {run['run']} {run['algorithm'] or ''}: {figures}{', collapsed' * bool(run['collapsed'])}"
        )
    return lines


def _evaluate(r: Result) -> list[str]:
    if r.get("unchanged"):
        return [f"nothing to compare: round {r['round']} left the policy as it was, which is {r['policy']}"]
    each = r.get("samples_per_prompt", 1)
    lines = [f"{r['policy']} against {r['reference']} on {r['prompts']} held-out prompts, {each} answers each"]
    if r.get("collapsed"):
        lines.append(f"THE POLICY HAS COLLAPSED: {'; '.join(r['collapsed'])}. What it wins says nothing.")
    if r.get("independent") is False:
        lines.append("NOT INDEPENDENT: the same prompts chose the policy. Import more, or raise [data] heldout.")
    for mode in ("sampled", "greedy"):
        m = r[mode]
        lines.append(f"{mode}: win rate {_mean(m['win_rate'], '.1%')}, reward gain {_mean(m['reward_gain'], '+.3f')}")
        if "judge_win_rate" in m:
            win, gain = _mean(m["judge_win_rate"], ".1%"), _mean(m["judge_gain"], "+.3f")
            lines.append(f"  independent judge: win rate {win}, gain {gain}")
        lines.append(
            f"  KL {m['policy']['kl']:.2f} nats, {m['policy']['length']:.0f} tokens (reference "
            f"{m['reference']['length']:.0f}), ended {m['policy']['ended']:.0%}"
        )
    win, gain = (r["sampled"][name].get("detectable") for name in ("win_rate", "reward_gain"))
    if win is not None and gain is not None:
        lines.append(
            f"so many prompts show a win rate {win:.1%} off one half, or a reward gain of {gain:.3f}, four times in "
            "five; what is smaller is likely to be missed"
        )
    return lines


def _demo(r: Result) -> list[str]:
    """What came out, by the hidden true quality that training never saw."""
    names = {
        "demonstrations": "the demonstrations",
        "sft": "imitation of as many more of them",
        "best_of_n": "best of n by the reward model",
        "rlhf": "the loop",
    }
    win = {"mean": r["win_rate"], "low": r["win_rate_low"], "high": r["win_rate_high"]}
    return [
        f"the loop against imitation with the same labelling: wins {_mean(win, '.1%')} on {r['prompts']} prompts",
        *(f"  true quality {r['quality'][name]:+.3f}  {meaning}" for name, meaning in names.items()),
        f"KL {r['kl']:.2f} nats, reward model accuracy {_share(r['reward_accuracy'])}, {r['seconds']:.0f} s",
        f"files: {r['report']}",
    ]


def _status(r: Result) -> list[str]:
    data, people, running = r["data"], r["people"], r["running"]
    real = data["effective"] - data["simulated"]
    lines = [
        f"data: {data['prompts']} prompts, {data['demonstrations']} demonstrations, {data['items']} lists; "
        f"{real} rankings by people, {data['simulated']} simulated",
        *(line for round in r["rounds"] for line in _round(round)),
    ]
    if people["lists"]:
        lines.append(
            f'people ("{people["criterion"]}"): {people["done"]} of {people["wanted"]} rankings, {people["at_work"]} '
            "lists in work"
        )
    lines += [f"  {p['name']} ({p['role']}): {p['done']}, {p['last_24_hours']} today" for p in people["people"]]
    work = running["work"]
    lines.append(f"running: process {work['pid']} ({work['command']})" if work else "running: nothing")
    if running["server"]:
        lines.append(f"people rank at {running['server']}")
    if not work and r["unfinished"]:
        lines.append(f"stopped half-way: {', '.join(r['unfinished'])}; the same command goes on with it")
    return lines


def _round(r: Result) -> list[str]:
    parts = [f"{r['lists']} lists, {r['ranked']} ranked"]
    parts += ["reward model"] * r["reward_model"]
    if r["align_runs"]:
        parts.append(f"policy of {r['policy']}" if r["policy"] else "aligned, no new policy")
    if r["evaluated"]:
        parts.append(f"win rate {_mean(r['win_rate'], '.1%')}" if r["win_rate"] else "evaluated")
    return [f"round {r['round']}: {', '.join(parts)}"]


def _run(r: Result) -> list[str]:
    lines = []
    for stage in r["stages"]:
        name = f"{stage['stage']} {stage['run'] or ''}".strip()
        lines.append(f"{name:28} {'already done' if stage['skipped'] else 'done'}")
    return lines


def _export(r: Result) -> list[str]:
    if "rows" in r:
        lines = [f"{r['rows']} rows of {r['what']} in {r['to']} ({r['bytes']} bytes)", f"sha256 {r['sha256']}"]
        if r["mended"]:
            lines.append(f"{r['mended']} rows held surrogates, which no file can: halves of pairs became U+FFFD")
        return lines
    lines = [
        f"{m['version']}{' (' + m['criterion'] + ')' if m['criterion'] else ''} in {m['folder']}" for m in r["models"]
    ]
    return [*lines, *([f"uploaded to {r['pushed']}"] if "pushed" in r else [])]


def _plain(r: Result) -> list[str]:
    return [f"{name}: {value}" for name, value in r.items() if isinstance(value, str | int | float)]


_LINES: dict[str, Callable[[Result], list[str]]] = {
    "init": _init,
    "import": _import,
    "remove": _remove,
    "sft": _sft,
    "sample": _sample,
    "crowd": _crowd,
    "reward": _reward,
    "evaluate reward": _evaluate_reward,
    "align": _align,
    "evaluate": _evaluate,
    "report": lambda r: [],
    "demo": _demo,
    "status": _status,
    "run": _run,
    "export": _export,
}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.1%}" if low is None or high is None else f"{value:.1%} (95 % interval {low:.1%} to {high:.1%})"


def _mean(m: Mapping[str, float], form: str) -> str:
    return f"{m['mean']:{form}} [{m['low']:{form}}, {m['high']:{form}}]"
