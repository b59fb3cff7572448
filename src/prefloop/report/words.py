"""What the figures say, in plain sentences that claim no more than they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefloop.diagnose.collapse import collapsed, signs
from prefloop.diagnose.reward_model import at_chance
from prefloop.report.collect import last, of_round
from prefloop.report.metrics import METRICS, explain
from prefloop.report.text import beyond, number, percent, signed, span
from prefloop.results import AlignedOnline, Evaluated, Interval, TrainedReward, read_aligned
from prefloop.results.base import from_json

if TYPE_CHECKING:
    from prefloop.labels.preference_eval import PairReport

NEXT = (  # Each entry is (stage, what its absence means, the command).
    ("sample", "Nothing has been sampled to be ranked yet.", "prefloop sample"),
    ("reward", "No reward model has been trained yet.", "prefloop reward"),
    ("align", "The policy has not been optimised yet.", "prefloop align"),
    ("evaluate", "The aligned policy has not been compared with its reference yet.", "prefloop evaluate"),
)


def next_step(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """Return what is missing first, and the command that makes it; None where the loop is complete."""
    counts = facts["store"]["counts"]
    if not counts.get("prompts") and not counts.get("items"):
        return {
            "text": "There is no data yet: bring prompts, demonstrations or rankings.",
            "command": "prefloop import FILE",
        }
    for stage, text, command in NEXT:
        if stage == "sample" and counts.get("effective"):
            continue  # Imported rankings are enough.
        if stage == "reward" and not counts.get("effective"):
            return {"text": "What was sampled has not been ranked yet.", "command": "prefloop annotate"}
        aligned = last(facts, "align")
        if stage in ("reward", "evaluate") and aligned is not None and unchanged(aligned):
            result = read_aligned(aligned["result"])
            far = result is not None and (result.collapses or "budget" in str(result.stopped))
            why = (
                "it went too far from its start. Give it a lower learning rate, or hold it closer to its reference."
                if far
                else "no step was better than its start. More rankings may help, or other settings."
            )
            return {
                "text": f"The policy is unchanged, so there is nothing to evaluate: {why}",
                "command": "prefloop align",
            }
        if stage not in facts["stages"]:
            return {"text": text, "command": command}
    return None


def simulated(facts: Mapping[str, Any]) -> str:
    """Return the banner wherever rankings are simulated; "" where people made all of them."""
    counts = facts["store"]["counts"]
    made = counts.get("simulated", 0)
    if not made:
        return ""
    share = "All" if made == counts["effective"] else f"{made:,} of"
    return (
        f"{share} {counts['effective']:,} rankings come from simulated annotators, not from people. What this page "
        "shows about preferences is about that simulation."
    )


def model_name(facts: Mapping[str, Any]) -> str:
    settings = facts["project"]["config"].get("model", {})
    if settings.get("init") == "scratch":
        return "a small model made from scratch"
    name = str(settings.get("path") or "a model").rstrip("/").split("/")[-1]
    return "the model" if name == "model" else name


def capital(text: str) -> str:
    """Begin a sentence with this text; hub ids and folders keep their case."""
    return text[:1].upper() + text[1:] if text.startswith(("a ", "the ")) else text


def algorithm_name(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    made = read_aligned(run["result"])
    name = (made and made.algorithm) or run["config"].get("align", {}).get("algorithm", "")
    return str(name).upper().replace("_", " ")


def headline(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return {sentence, verdict, tiles}: a tile is (label, figure, note)."""
    evaluated, aligned = last(facts, "evaluate"), last(facts, "align")
    reward, counts = last(facts, "reward"), facts["store"]["counts"]
    if evaluated and not (unchanged(aligned) and aligned and aligned["round"] > evaluated["round"]):
        return _evaluated(facts, evaluated, aligned)
    tiles: list[tuple[str, str, str]] = []
    sentence = "Nothing has run in this project yet."
    if aligned:
        result = read_aligned(aligned["result"])
        sentence = (
            f"{algorithm_name(aligned)} has optimised {model_name(facts)}; how good it became is not measured yet."
        )
        if aligned["status"] != "done":
            sentence = f"{algorithm_name(aligned)} is optimising {model_name(facts)} (run {aligned['status']})."
        elif unchanged(aligned):
            sentence = _stayed(facts, aligned)
        elif result and result.collapsed:
            sentence = f"The policy has collapsed: {'; '.join(result.collapsed)}."
        if isinstance(result, AlignedOnline) and result.kl is not None and result.reward_before is not None:
            tiles.append(("Held-out reward", signed(result.reward), f"from {signed(result.reward_before)}"))
            tiles.append(("KL to the reference", number(result.kl, 1), "nats a sequence"))
    elif reward:
        learned = f"A reward model has learned from {counts.get('effective', 0):,} rankings"
        sentence = f"{learned}; no policy has been optimised yet."
    elif counts.get("effective"):
        sentence = f"{counts['effective']:,} rankings are here; nothing has been trained on them yet."
    elif facts["stages"]:
        sentence = "Answers have been prepared; nobody has ranked them yet."
    elif counts.get("prompts"):
        sentence = f"{counts['prompts']:,} prompts are here; no stage has run yet."
    return {"sentence": sentence, "verdict": "", "tiles": tiles + _reward_tile(facts)}


def unchanged(aligned: Mapping[str, Any] | None) -> bool:
    """Return whether a run of `align` kept its start: it made no policy."""
    made = read_aligned(aligned["result"]) if aligned else None
    return made is not None and made.best_step == 0


def _stayed(facts: Mapping[str, Any], aligned: Mapping[str, Any]) -> str:
    result = read_aligned(aligned["result"])
    assert result is not None
    named = f" ({result.policy})" if result.policy else ""
    kept = "the unchanged reference" if not aligned["round"] else "unchanged, that of the round before"
    why = "; ".join(result.collapses[-1].signs) if result.collapses else ""
    return (
        f"{algorithm_name(aligned)} found no step better than its start in {result.steps:,} steps, so the policy of "
        f"{model_name(facts)} is {kept}{named}." + (f" It collapsed on the way: {why}." if why else "")
    )


def _evaluated(
    facts: Mapping[str, Any], evaluated: Mapping[str, Any], aligned: Mapping[str, Any] | None
) -> dict[str, Any]:
    result = Evaluated.read(evaluated["result"])
    assert result is not None and result.sampled is not None
    sampled, counts = result.sampled, facts["store"]["counts"]
    judge = sampled.judge_win_rate
    win, by = (judge, "an independent judge") if judge else (sampled.win_rate, "its own reward model")
    tiles = [("Win rate", percent(win.mean), f"95 % interval {span(win)}; by {by}; {win.n} prompts")]
    if judge:
        own = sampled.win_rate
        tiles.append(("Win rate by the reward model", percent(own.mean), f"95 % interval {span(own)}"))
    gain = sampled.reward_gain
    tiles.append(
        ("Reward gain", signed(gain.mean), f"95 % interval {span(gain, 'signed')}; 1 = the reference's spread")
    )
    tiles.append(("KL to the reference", number(sampled.policy["kl"], 1), "nats a sequence: how far it moved"))
    rounds = len(facts["stages"].get("align", ()))
    how = algorithm_name(aligned) or "the loop"
    sentence = (
        f"{capital(model_name(facts))} was aligned with {counts.get('effective', 0):,} rankings by "
        f"{counts.get('annotators', 0):,} annotators, using {how}{f', in {rounds} rounds' if rounds > 1 else ''}. "
        f"On {win.n} held-out prompts its answer beats the reference's {percent(win.mean)} of the time, as "
        f"judged by {by}."
    )
    said = verdict(win)
    found = signs(sampled.policy, sampled.reference)
    if far := next((sign.said for sign in found if sign.name == "kl" and sign.verdict == "look"), ""):
        sentence = f"{sentence[:-1]}, but {far}."
        said = said if judge else _at_a_distance(win, said)
    if found_beside := (facts.get("demo") or {}).get("win_rate"):
        beside = from_json(Interval, found_beside)
        sentence += (
            " Beside a model that learnt from as many demonstrations instead, it is preferred on "
            f"{percent(beside.mean)} ({span(beside)})."
        )
    if gone := collapsed(found):
        sentence = (
            f"The policy has collapsed: {'; '.join(gone)}. {capital(model_name(facts))} was optimised with {how}; that "
            f"its answers win {percent(win.mean)} as judged by {by} says nothing for them."
        )
        said = (
            "Do not use this policy. Read its answers below; then align again with a lower learning rate or a higher "
            "KL coefficient, from a reward model that has seen such answers ranked."
        )
    else:
        looks = [sign.said for sign in found if sign.verdict == "look" and sign.name != "kl"]
        said += _doubts(facts, result, looks, judge is not None)
        if unchanged(aligned) and aligned is not None:
            sentence = f"{_stayed(facts, aligned)} {sentence}"
    return {"sentence": sentence, "verdict": said, "tiles": tiles + _reward_tile(facts)}


def _doubts(facts: Mapping[str, Any], result: Evaluated, looks: list[str], judged: bool) -> str:
    """Return what to know before a verdict is believed; "" where there is nothing."""
    said = ""
    if result.independent is False:
        said += " It is not independent: the same prompts chose the policy, so it looks better than it is."
    if looks:
        said += f" Before you believe it, read the answers: {'; '.join(looks)}."
    run = of_round(facts, "reward", result.round)
    trained = TrainedReward.read(run["result"]) if run else None
    if not judged and run and trained:
        doubt = at_chance(trained.heldout, run["run"])
        said += f" It is judged by a model that may not know: {doubt}" if doubt else ""
    return said


def _at_a_distance(win: Interval, said: str) -> str:
    """Return what is won by the reward model's own judgement, far from the answers that it has learnt from."""
    if beyond(win, 0.5) != 1:
        return said
    return (
        f"Its win rate lies above one half beyond chance ({span(win)}), which is no proof that it is better: so "
        "far from the reference a reward model has seen no answers ranked. Read them, let people rank some, or take an "
        "earlier step."
    )


def verdict(win: Interval) -> str:
    """Return what a win rate's interval allows to say, and what so many prompts could have shown."""
    sure, interval = beyond(win, 0.5), span(win)
    if sure is None:
        return f"Too few prompts to tell: {win.n}, with an interval of {interval or 'any width'}. Hold more out."
    if sure == 1:
        return f"Better than the reference beyond chance: the interval ({interval}) lies above one half."
    if sure == -1:
        return f"Worse than the reference beyond chance: the interval ({interval}) lies below one half."
    seen = win.detectable
    power = (
        f"So many prompts show a win rate {percent(seen)[:-2]} points off one half four times in five; less is likely "
        "to be missed"
        if seen
        else "More prompts would narrow it"
    )
    return f"No clear difference: the interval ({interval}) includes one half. {power}."


def _reward_tile(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    run = last(facts, "reward")
    trained = TrainedReward.read(run["result"]) if run else None
    report = trained.heldout if trained else None
    if not report or report.accuracy is None:
        return []
    note = f"95 % interval {span(report)}; chance is 50 %" if span(report) else "chance is 50 %"
    return [("Reward model, held-out pairs", percent(report.accuracy), note)]


def reward_model(trained: TrainedReward, agreement: Mapping[str, Any] | None) -> list[str]:
    """Return a reward model's report in sentences."""
    report = trained.heldout
    if not report or report.accuracy is None:
        return ["No held-out prompt has a ranked pair, so this reward model has not been measured."]
    said = [
        f"It orders {percent(report.accuracy)} of {report.pairs:,} held-out pairs ({report.prompts:,} "
        f"prompts) as people did" + (f", 95 % interval {span(report)}." if span(report) else ".")
    ]
    if report.low is not None and report.low <= 0.5:
        said.append("The interval includes chance: it cannot be relied on to tell better from worse.")
    longer = report.longer_wins.share
    if longer is not None:
        better = report.accuracy > longer
        said.append(
            f"Always preferring the longer text would be right on {percent(longer)}"
            + ("." if better else ": that simple rule does as well or better, so the model has learned little.")
        )
    won, lost = report.longer_won, report.shorter_won
    if won.share is not None and lost.share is not None:
        said.append(
            f"It is right on {percent(won.share)} where people preferred the longer text ({won.pairs:,}) and on "
            f"{percent(lost.share)} where they preferred the shorter ({lost.pairs:,})"
            + ("; the gap says that it favours length." if won.share - lost.share > 0.15 else ".")
        )
    train = trained.train_accuracy
    if train is not None:
        gap = train - report.accuracy
        said.append(
            f"On its training lists it is right on {percent(train)}"
            + ("; the gap says that it has memorised some of them." if gap > 0.1 else ".")
        )
    if report.ties:
        said.append(
            f"{report.ties:,} tied pairs are left out; their scores differ by {number(report.tie_gap)} on "
            f"average, those of ordered pairs by {number(report.pair_gap)}."
        )
    return said + _ceiling(report, agreement)


def _ceiling(report: PairReport, agreement: Mapping[str, Any] | None) -> list[str]:
    if not agreement or agreement.get("share") is None:
        return ["No list was ranked by two annotators, so how well people agree with each other is not known."]
    own = report.vote_accuracy.share
    return [
        f"Two annotators agree on {percent(agreement['share'])} of {agreement['pairs']:,} pairs; against single "
        f"judgements the reward model is right on {percent(own)}. Agreement is about the most that can be reached."
    ]


def metric_rows(run: Mapping[str, Any], diagnosis: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return one row a metric of a run, what is unusual first: name, title, unit, first, last, low, high, ..., flag.

    flag: what the findings of the run say of this metric; None where they say nothing
    """
    rows = []
    symptoms = [s for finding in (diagnosis or {}).get("findings", ()) for s in finding["symptoms"]]
    said = {s["signal"]: s["said"] for s in reversed(symptoms)}
    for name, column in run["metrics"].items():
        values = [float(value) for value in column if value is not None]
        if name == "step" or not values:
            continue
        metric = explain(name)
        rows.append(
            {
                "name": name,
                "title": (metric.title if metric else name) + (", held-out" if name.startswith("eval_") else ""),
                "unit": metric.unit if metric else "",
                "first": values[0],
                "last": values[-1],
                "low": min(values),
                "high": max(values),
                "meaning": metric.meaning if metric else "",
                "healthy": metric.healthy if metric else "",
                "source": metric.source if metric else "",
                "flag": said.get(name),
            }
        )
    order = {metric.name: place for place, metric in enumerate(METRICS)}
    return sorted(rows, key=lambda row: (not row["flag"], order.get(str(row["name"]).removeprefix("eval_"), 99)))
