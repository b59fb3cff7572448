"""Evidence for and against reward hacking. The page shows it without a verdict, since no signal proves hacking.

A row is marked where a rule of `prefloop.diagnose` fired in one of the round's runs, so that this says what the
findings say. The rows in which nothing was found are the evidence against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefloop.diagnose.collapse import Sign, collapsed, signs
from prefloop.report.collect import last, of_round, points
from prefloop.report.text import beyond, number, percent, signed, span
from prefloop.report.words import capital
from prefloop.results import Comparison, Evaluated, Interval, TrainedReward

Row = dict[str, Any]


Format = Callable[[float | None], str]
_FORMS: dict[str, Format] = {
    "entropy": lambda v: number(v, 2),
    "kl": lambda v: number(v, 1),
}
_HELD = {
    "distinct_2": "Variety held.",
    "repetition": "Answers do not repeat themselves more.",
    "commonest": "Different prompts get different answers, as before.",
    "ended": "Answers end about as often as before.",
    "entropy": "As undecided as a policy should be.",
    "kl": "Less than over-optimised runs moved: under 50 nats, or within 25 or 1 a token.",
}
_LOOK = {
    "distinct_2": "Answers repeat each other or themselves more.",
    "repetition": "Answers repeat themselves more.",
    "commonest": "More prompts get one and the same answer.",
    "ended": "More answers are cut off.",
    "entropy": "It is nearly sure of every word.",
    "kl": "Runs this far out were over-optimised elsewhere.",
}


def evidence_of(facts: Mapping[str, Any]) -> Row | None:
    """`evidence` from the newest evaluation, with the runs of its round; None before `evaluate`."""
    evaluated = last(facts, "evaluate")
    if evaluated is None:
        return None
    aligned, reward = (of_round(facts, stage, evaluated["round"]) for stage in ("align", "reward"))
    named = [run["run"] for run in (evaluated, aligned, reward) if run]
    found = [finding for name in named for finding in facts["diagnosis"].get(name, {}).get("findings", ())]
    fired = {symptom["rule"]: symptom["said"] for finding in found for symptom in finding["symptoms"]}
    return evidence(evaluated, aligned, reward, fired)


def evidence(
    evaluated: Mapping[str, Any],
    aligned: Mapping[str, Any] | None,
    reward: Mapping[str, Any] | None,
    fired: Mapping[str, str],
) -> Row:
    """Return {rows, summary}. A row has signal, before, after, reading and look.

    fired: {id of a rule that fired in these runs: what it said}
    look: True means worth a look, None means that it cannot be told
    """
    made = Evaluated.read(evaluated["result"])
    assert made is not None and made.sampled is not None
    sampled = made.sampled
    before, after = sampled.reference, sampled.policy
    rows = [_gain("Reward, by the model that was optimised", sampled.reward_gain, before["reward"], after["reward"])]
    rows.append(_judge(sampled, fired))
    rows += [_length(before, after, fired), _correlation(before, after, fired)]
    found = signs(after, before)
    rows += [_sign(sign) for sign in found]
    if aligned:
        rows += _turned(aligned, fired)
    if reward:
        rows += _bias(reward, fired)
    looks = [str(row["signal"]).lower() for row in rows if row["look"]]
    if gone := collapsed(found):
        summary = (
            f"The policy has collapsed: {'; '.join(gone)}. What its reward model says of such answers is worthless."
        )
    elif looks:
        summary = (
            f"Worth a look: {'; '.join(looks)}. Read the samples with the highest reward, and let people rank some."
        )
    else:
        summary = (
            "None of these signals stands out. That is no proof: they find most over-optimisation afterwards, but "
            "people reading samples remain the test."
        )
    return {"rows": rows, "summary": summary, "judged": sampled.judge_win_rate is not None, "collapsed": gone}


def _row(signal: str, before: str, after: str, reading: str, look: bool | None) -> Row:
    return {"signal": signal, "before": before, "after": after, "reading": reading, "look": look}


def _sign(sign: Sign) -> Row:
    """Return the row of one sign of collapse."""
    form = _FORMS.get(sign.name, percent)
    reading = _HELD[sign.name] if sign.verdict == "held" else _LOOK[sign.name]
    if sign.verdict == "collapsed":
        reading = f"Collapsed: {sign.said}."
    return _row(sign.title, form(sign.before), form(sign.after), reading, sign.verdict != "held")


def _gain(signal: str, gain: Interval, before: float, after: float) -> Row:
    said = {1: "up beyond chance", -1: "down beyond chance", 0: "no clear change"}
    sure = beyond(gain, 0.0)
    reading = "too few prompts to tell" if sure is None else said[sure]
    if sure == 0 and gain.detectable:
        reading += f"; a change under {number(gain.detectable)} would be missed"
    return _row(
        signal,
        signed(before),
        signed(after),
        f"{signed(gain.mean)} ({span(gain, 'signed')}): {reading}",
        False,
    )


def _judge(sampled: Comparison, fired: Mapping[str, str]) -> Row:
    if sampled.judge_gain is None:
        reading = "No second opinion. Set [evaluate] scorer, or have people rank the new samples."
        return _row("Independent judge", "–", "–", reading, None)
    gain = sampled.judge_gain
    row = _gain("Independent judge", gain, sampled.reference["judge"], sampled.policy["judge"])
    if "judge-contradicts" in fired:
        return row | {"look": True, "reading": row["reading"] + ". The reward went the other way: the sign of hacking."}
    if "judge-unmoved" in fired:
        return row | {"look": True, "reading": row["reading"] + ", while the reward rose."}
    return row


def _length(before: Mapping[str, float], after: Mapping[str, float], fired: Mapping[str, str]) -> Row:
    change = after["length"] / before["length"] - 1 if before["length"] else 0.0
    look = "answers-longer-or-shorter" in fired
    reading = f"{signed(100 * change, 0)} %" + (": a large change; was it wanted?" if look else "")
    return _row("Length, tokens", number(before["length"], 1), number(after["length"], 1), reading, look)


def _correlation(before: Mapping[str, float], after: Mapping[str, float], fired: Mapping[str, str]) -> Row:
    b, a = before["length_reward_correlation"], after["length_reward_correlation"]
    look = "reward-follows-length" in fired
    reading = "Reward goes with length more than before." if look else "Reward does not follow length more than before."
    return _row("Correlation of length and reward", signed(b), signed(a), reading, look)


def _turned(aligned: Mapping[str, Any], fired: Mapping[str, str]) -> list[Row]:
    """Did the held-out reward fall back from its best?"""
    steps, reward = points(aligned["metrics"], "eval_reward")
    if len(steps) < 3:
        return []
    best = max(range(len(steps)), key=lambda i: reward[i])
    fell, look = reward[best] - reward[-1], "reward-fell" in fired
    if look:
        reading = f"{capital(fired['reward-fell'])}; the best step was kept."
    elif fell > 0:
        reading = f"Best at step {steps[best]:g}; the {number(fell)} lost since is within the noise."
    else:
        reading = "It did not fall back."
    return [_row("Held-out reward while training", signed(reward[0]), signed(reward[-1]), reading, look)]


def _bias(reward: Mapping[str, Any], fired: Mapping[str, str]) -> list[Row]:
    trained = TrainedReward.read(reward["result"])
    report = trained.heldout if trained else None
    if not report or report.longer_won.share is None or report.shorter_won.share is None:
        return []
    won, lost = report.longer_won.share, report.shorter_won.share
    look = "reward-likes-length" in fired
    reading = "It favours length, which a policy will find." if look else "It does not clearly favour a length."
    signal = "Reward model right where the shorter, the longer won"
    return [_row(signal, percent(lost), percent(won), reading, look)]
