"""The sections of the page as plain values: what each table, list and picture holds. There is no HTML here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.report import figures, words
from prefloop.report.collect import last
from prefloop.report.text import number, percent, seconds, signed, span, whole
from prefloop.results import (
    Aligned,
    AlignedOffline,
    AlignedOnline,
    Evaluated,
    TrainedReward,
    Tuned,
    read_aligned,
)

ROUND_HEAD = (
    "Round",
    "Completions",
    "Rankings",
    "Simulated",
    "Reward model",
    "Policy steps",
    "Held-out reward",
    "KL",
    "Win rate",
    "95 % interval",
)
FIGURES = (  # Each entry is (key of evaluate's result, title, how to write it).
    ("reward", "Reward", signed),
    ("judge", "Independent judge", number),
    ("kl", "KL to the reference, nats a sequence", number),
    ("entropy", "Entropy, nats a token", number),
    ("length", "Length, tokens", lambda v: number(v, 1)),
    ("ended", "Finished answers", percent),
    ("distinct_1", "Different words", percent),
    ("distinct_2", "Different word pairs", percent),
    ("distinct_3", "Different word triples", percent),
    ("repetition", "Repetition inside an answer", percent),
    ("commonest", "Answers that are one and the same", percent),
    ("length_reward_correlation", "Correlation of length and reward", signed),
)
NO_CHANGE = "–"


def loop_steps(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the boxes of the picture, in the order of the loop; only those that hold something."""
    counts, prompts = facts["store"]["counts"], facts["store"]["prompts"]
    steps = []
    if counts.get("prompts"):
        note = f"{prompts['heldout']:,} held out" if prompts else ""
        steps.append(_step("Prompts", counts["prompts"], note))
    if counts.get("demonstrations"):
        steps.append(_step("Demonstrations", counts["demonstrations"], "to imitate"))
    if counts.get("completions"):
        steps.append(_step("Completions", counts["completions"], f"in {counts['items']:,} lists to rank"))
    if counts.get("effective"):
        by = f"{counts['annotators']:,} annotators"
        made = counts["simulated"]
        kind = "all simulated" if made == counts["effective"] else f"{made:,} simulated" if made else "by people"
        steps.append(_step("Rankings", counts["effective"], f"{kind}; {by}"))
    models = facts["stages"].get("reward", ())
    if models:
        steps.append(_step("Reward models", len(models), ", ".join(dict.fromkeys(str(m["criterion"]) for m in models))))
    aligned = facts["stages"].get("align", ())
    if aligned:
        total = sum(made.steps or 0 for run in aligned if (made := read_aligned(run["result"])))
        note = f"{counts['rollouts']:,} completions tried" if counts.get("rollouts") else ""
        steps.append(_step(f"{words.algorithm_name(aligned[-1])} steps", total, note))
    evaluated = last(facts, "evaluate")
    found = Evaluated.read(evaluated["result"]) if evaluated else None
    if found:
        steps.append(_step("Evaluated on", found.prompts, "held-out prompts"))
    return steps


def _step(title: str, count: float | None, note: str) -> dict[str, str]:
    return {"title": title, "count": whole(count), "note": note}


def loop_note(facts: Mapping[str, Any]) -> str:
    done = len(facts["stages"].get("align", ()))
    criteria = ", ".join(f"{name} ({n:,})" for name, n in facts["store"]["counts"].get("criteria", {}).items())
    said = f"Rounds: {done}. " if done else ""
    said += f"Rankings by criterion: {criteria}. " if criteria else ""
    return said + ("↺ The next round starts from the new policy, on all rankings so far." if done else "")


def rounds(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return one row a round, of whatever that round has been through."""
    stages, store = facts["stages"], {r["round"]: r for r in facts["store"]["rounds"]}
    numbers = sorted({run["round"] for name in ("align", "evaluate", "reward") for run in stages.get(name, ())})
    rows = []
    for n in numbers:
        found = store.get(n, {})
        trained = [TrainedReward.read(r["result"]) for r in stages.get("reward", ()) if r["round"] == n]
        aligned = next((read_aligned(r["result"]) for r in stages.get("align", ()) if r["round"] == n), None)
        result = next((Evaluated.read(r["result"]) for r in stages.get("evaluate", ()) if r["round"] == n), None)
        sampled = result.sampled if result else None
        win = (sampled.judge_win_rate or sampled.win_rate) if sampled else None
        rows.append(
            [
                str(n),
                whole(found.get("completions")),
                whole(found.get("rankings")),
                whole(found.get("simulated")),
                ", ".join(percent(m.accuracy) for m in trained if m and m.heldout) or NO_CHANGE,
                whole(aligned.steps if aligned else None),
                signed(aligned.reward if aligned else None),
                number(aligned.kl if aligned else None, 1),
                percent(win.mean) if win else NO_CHANGE,
                span(win) if win else NO_CHANGE,
            ]
        )
    return rows


def samples(evaluated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Prompt, and both answers with what was scored; the higher reward marked."""
    shown = []
    found = Evaluated.read(evaluated["result"])
    for sample in (found.samples or ()) if found else ():
        answers: list[dict[str, Any]] = [
            {"name": name, "text": answer.text, "reward": answer.reward, "judge": answer.judge}
            for answer, name in ((sample.reference, "Reference (before)"), (sample.policy, "Policy (after)"))
        ]
        best = max(a["reward"] or 0.0 for a in answers)
        for answer in answers:
            answer["higher"] = answer["reward"] == best and answers[0]["reward"] != answers[1]["reward"]
        shown.append({"prompt": sample.prompt, "answers": answers})
    return shown


def diagnosed(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the findings are, by run, the newest run first; None where no rule could be asked.

    {found: [{run, stage, findings, problems}], healthy: names of the runs in which nothing was found}
    """
    of = facts["diagnosis"]
    order = [run["run"] for run in reversed(facts["runs"]) if run["run"] in of]
    found = [of[name] for name in order if of[name]["findings"] or of[name]["problems"]]
    healthy = [name for name in order if not of[name]["findings"]]
    return {"found": found, "healthy": healthy} if order else None


def policy(run: Mapping[str, Any], diagnosis: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return one align run: sentences, charts, findings, every metric with its healthy range."""
    result, settings = read_aligned(run["result"]), run["config"].get("align", {})
    said = []
    if run["status"] != "done":
        reason = f": {run['reason']}" if run["reason"] else ""
        said.append(f"This run is {run['status']}{reason}. Its curves go as far as it got.")
    if isinstance(result, AlignedOnline) and result.reward_before is not None:
        rollout, budget = settings.get("rollout", {}), settings.get("evaluation", {}).get("kl_budget", 0)
        objective = "reward less the price of unfinished answers" if rollout.get("missing_eos") != "off" else "reward"
        said.append(
            f"{words.algorithm_name(run)} ran {result.steps:,} steps and kept step {result.best_step:,}, the "
            f"best on held-out prompts within the KL budget of {budget:g} nats: {objective} "
            f"{signed(result.reward)} (before: {signed(result.reward_before)}), "
            f"KL {number(result.kl, 1)} nats."
        )
        said.append(f"Why it stopped: {result.stopped}.")
    elif isinstance(result, AlignedOffline):
        said.append(
            f"{words.algorithm_name(run)} learned from {result.lists:,} ranked lists in {result.steps:,} steps."
        )
        if result.heldout_accuracy is not None:
            said.append(f"It orders {percent(result.heldout_accuracy)} of held-out pairs as people did.")
        if result.kl is not None:
            said.append(
                f"Of step {result.best_step:,}, the newest whose answers have not collapsed, KL is "
                f"{number(result.kl, 1)} nats a sequence."
            )
        if result.collapsed:
            said.append(f"The policy has collapsed: {'; '.join(result.collapsed)}.")
    if result and result.best_step is not None:
        said += _what_chose(result)
    curve = figures.reward_against_kl(run)
    return {
        "run": run["run"],
        "round": run["round"],
        "said": said,
        "figures": ([curve] if curve else []) + figures.learning_curves(run),
        "metrics": words.metric_rows(run, diagnosis),
        "findings": [finding["title"] for finding in (diagnosis or {}).get("findings", ())],
    }


def _what_chose(result: Aligned) -> list[str]:
    """No new policy; steps that had collapsed; prompts that cannot judge."""
    said = []
    if result.best_step == 0:
        kept = f", {result.policy}" if result.policy else ""
        said.append(f"No step was better than the start: there is no new policy, it stays what it was{kept}.")
    for at in result.collapses or ():
        said.append(f"At step {at.step:,} the policy had collapsed, so that step is not kept: {'; '.join(at.signs)}.")
    if result.validation and result.validation.held_out is False:
        said.append("No prompt was held out, so training prompts chose: the best step looks better than it is.")
    said += [f"Before it started: {warning}" for warning in result.warnings or ()]
    return said


def rewards(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the reward models of the newest round first and open, older rounds folded."""
    runs: Sequence[Mapping[str, Any]] = facts["stages"].get("reward", ())
    newest = max((run["round"] for run in runs), default=0)
    shown = []
    for run in sorted(runs, key=lambda r: -r["round"]):
        agreement = facts["store"]["agreement"].get(run["criterion"])
        result = TrainedReward.read(run["result"])
        title = f"{run['criterion']}" + (f", round {run['round']}" if newest else "")
        said = words.reward_model(result, agreement) if result else [f"Run {run['run']} is {run['status']}."]
        if result:
            simulated = f", {result.simulated:,} of them simulated" if result.simulated else ""
            said.insert(0, f"Learned from {result.rankings:,} rankings of {result.lists:,} lists{simulated}.")
            scale = result.normalisation
            said.append(
                f"Raw scores of fresh reference samples have mean {signed(scale.mean)} and standard deviation "
                f"{number(scale.std)}; rewards are shifted and scaled by these."
            )
        figure = figures.reward_model_figures(run, agreement)
        shown.append({"title": title, "said": said, "figures": figure, "old": run["round"] < newest})
    return shown


def sft(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the supervised stage."""
    result = Tuned.read(run["result"])
    said = [f"Run {run['run']} is {run['status']}."] if not result else []
    if result:
        said.append(
            f"{result.steps:,} steps on {result.demonstrations:,} demonstrations "
            f"({result.too_long:,} more were too long)."
        )
    if result and result.heldout_loss is not None:
        said.append(
            f"Held-out loss {number(result.heldout_loss, 3)} nats a token, "
            f"perplexity {number(result.heldout_perplexity)}."
        )
    curve = figures.supervised_curve(run)
    return {"said": said, "figures": [curve] if curve else []}


def evaluation(facts: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return both policies' figures, sampled and greedy, and the win rates with their intervals."""
    result = Evaluated.read(run["result"])
    assert result is not None and result.sampled is not None
    said = f"{result.policy} against {result.reference} on {result.prompts:,} held-out prompts" + (
        ", which also chose it: not an independent measure."
        if result.independent is False
        else " that nothing was chosen on."
    )
    each = result.samples_per_prompt or 1
    if each > 1:
        said += f" {each} sampled answers a prompt by each, with the same random numbers; greedily one."
    aligned = last(facts, "align")
    if aligned and aligned["run"] != result.policy:
        said += f" Note: {aligned['run']} is newer than the policy evaluated here; run prefloop evaluate."
    modes = {mode: made for mode, made in (("sampled", result.sampled), ("greedy", result.greedy)) if made}
    wins = []
    for mode, made in modes.items():
        for win, name in (
            (made.win_rate, "win rate by reward model"),
            (made.judge_win_rate, "win rate by independent judge"),
        ):
            if win:
                seen = f"{percent(win.detectable)[:-2]} points" if win.detectable else NO_CHANGE
                wins.append([f"{mode.capitalize()}: {name}", percent(win.mean), span(win), seen])
        for gain, name in ((made.reward_gain, "reward gain"), (made.judge_gain, "gain by independent judge")):
            if gain:
                seen = number(gain.detectable) if gain.detectable else NO_CHANGE
                wins.append([f"{mode.capitalize()}: {name}", signed(gain.mean), span(gain, "signed"), seen])
    parts = [k for k in result.sampled.policy if k.startswith("reward_") and k != "reward_std"]
    several = [(k, f"Reward for {k.removeprefix('reward_')}", signed) for k in parts] if len(parts) > 1 else []
    rows = []
    for key, title, write in (*FIGURES, *several):
        if key in result.sampled.policy:
            both = [each for made in modes.values() for each in (made.reference, made.policy)]
            rows.append([title, *(write(each.get(key)) for each in both)])
    head = ["Figure", *(f"{who}, {m}" for m in modes for who in ("Reference", "Policy"))]
    return {
        "said": said,
        "wins_head": ["Comparison", "Mean", "95 % interval", "Smallest seen"],
        "wins": wins,
        "head": head,
        "rows": rows,
    }


def provenance(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Time, models and their snapshots, imports, seed, versions, settings."""
    runs, project = facts["runs"], facts["project"]
    most = max((run["seconds"] or 0.0 for run in runs), default=0.0)
    shown = []
    for run in runs:
        parts = sorted(run["timings"].items(), key=lambda pair: -pair[1])
        total = sum(value for _, value in parts)
        shown.append(
            {
                "run": run["run"],
                "status": run["status"] + (" (resumed)" if run["resumed"] else ""),
                "time": seconds(run["seconds"]),
                "width": f"{12 * (run['seconds'] or 0.0) / most if most else 0:.2f}",
                "parts": ", ".join(f"{name} {percent(value / total)}" for name, value in parts if total),
            }
        )
    # fmt: skip
    models = [
        [
            m["version"],
            m["kind"] + (f" ({m['criterion']})" if m["criterion"] else ""),
            m["parent"] or NO_CHANGE,
            m["snapshot"] or NO_CHANGE,
            m["weights"] or NO_CHANGE,
        ]
        for m in facts["store"]["models"]
    ]
    # fmt: skip
    imports = [
        [
            i["name"],
            i["format"],
            ", ".join(f"{v:,} {k}" for k, v in i["counts"].items() if v) or "nothing new",
            whole(i["rejected"]),
            i["sha256"][:16],
        ]
        for i in facts["store"]["imports"]
    ]
    named = [["seed", str(project["seed"])], ["git commit", project["git"] or "not in a repository"]]
    named += [[name, version or "not installed"] for name, version in project["versions"].items()]
    config = json.dumps(project["config"], indent=1, ensure_ascii=False)
    return {"runs": shown, "models": models, "imports": imports, "facts": named, "config": config}
