"""Compares two policies' answers by checks: paired by prompt, with intervals, and corrected for many questions.

Another evaluation would have other prompts, so that a prompt counts once, with the mean of its answers. A change is
tested by flipping the signs of the prompts' differences (Fisher 1935, Pitman 1937), which is exact for shares and for
few prompts. P-values are corrected by Benjamini and Hochberg (1995): those of bounds, which decide, and the others,
which inform, are two families, so that a bound does not get harder to break because more is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from prefloop.behaviour.chosen import Chosen
from prefloop.behaviour.registry import MARGINS, Check, Failed, Pair, Unfit, Value
from prefloop.intervals import FEWEST_GROUPS, mean_interval
from prefloop.results import BehaviourReport, CheckResult, Interval
from prefloop.results.base import from_json
from prefloop.results.behaviour import Verdict

LEVEL = 0.05
FEWEST = 2  # One prompt has no spread, and no interval.
ALL = "all"
MOST_VALUES = 20  # of a field that cuts prompts into slices; a field with more is a name and no slice
MOST_REASONS = 5  # why a check failed, each named once
MOST_FAILED = 0.1  # of the answers of a side: where a check fails on more, nobody knows whether its bound is kept
_FLIPS = 4999
_NONE_SEEN = 3.0  # The rule of three: where n prompts show no change, 3/n of all may still have one (95 %).


@dataclass(frozen=True)
class Answers:
    """Both policies' answers to a set of prompts: [prompt][answer]. slices: {name: which prompts are in it}.

    name: of the set.  A slice that holds all prompts is called by it.
    """

    ours: Sequence[Sequence[Pair]]
    theirs: Sequence[Sequence[Pair]]
    name: str = ALL
    slices: Mapping[str, Sequence[int]] = field(default_factory=dict)


def compare(chosen: Chosen, sets: Sequence[Answers], resamples: int = 2000, seed: int = 0) -> BehaviourReport:
    """Return what improved, held, regressed, or could not be told."""
    rows: list[CheckResult] = []
    problems: list[str] = []
    unchecked: list[str] = []
    idle: dict[str, list[str]] = {}  # {check with a bound: the sets that it says nothing of}
    unfit: dict[str, list[str]] = {}  # {check: why it does not count answers}
    prompts: dict[str, int] = {}
    for answers in sets:
        slices = {answers.name: range(len(answers.ours)), **answers.slices}
        prompts |= {name: len(places) for name, places in slices.items()}
        for check in chosen.checks:
            sides = _measured(check, answers.ours), _measured(check, answers.theirs)
            ours, theirs = (side.means for side in sides)
            problems += _told(check, answers.name, sides)
            unfit.setdefault(check.name, []).extend(sides[1].unfit)
            bound = chosen.bounds.get(check.name)
            found = [
                row
                for name, places in slices.items()
                if (row := _row(check, name, ours[list(places)], theirs[list(places)], bound, resamples, seed))
            ]
            rows += found
            if bound is None:
                continue
            if why := _why_unchecked(sides, bool(found)):
                unchecked.append(f'the bound on "{check.name}" could not be checked on "{answers.name}": {why}')
            elif not found:
                idle.setdefault(check.name, []).append(answers.name)
    for name, on in idle.items():
        if len(on) == len(sets):
            where = " and ".join(f'"{one}"' for one in on)
            why = next((f": {s}" for s in unfit.get(name, ())), "")
            said = f'the bound on "{name}" could not be checked: it gives no number for prompts of {where}{why}'
            (unchecked if chosen.named else problems).append(said)
    return BehaviourReport(
        checks=tuple(_judged(rows)), prompts=prompts, problems=tuple(problems), unchecked=tuple(unchecked)
    )


def slices_of(
    metadata: Sequence[Mapping[str, object]], fields: Sequence[str]
) -> tuple[dict[str, list[int]], list[str]]:
    """Return {"field = value": the places with it}, for metadata of each prompt, and what could not be cut."""
    slices: dict[str, list[int]] = {}
    problems = []
    for name in fields:
        places: dict[str, list[int]] = {}
        for place, found in enumerate(metadata):
            if name in found:
                places.setdefault(f"{name} = {found[name]}", []).append(place)
        if not places:
            problems.append(f'no prompt has the metadata field "{name}" of [behaviour] slices')
        elif len(places) > MOST_VALUES:
            problems.append(
                f'"{name}" of [behaviour] slices has {len(places)} values; the {MOST_VALUES} most frequent count'
            )
        slices |= dict(sorted(places.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_VALUES])
    return slices, problems


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """What a check said of one policy's answers. means: [N], of each prompt, NaN where there is no number.

    failed, unfit: answers without a number, with why.  asked: how many answers there are
    """

    means: NDArray[np.float64]
    failed: list[tuple[Pair, str]]
    unfit: list[str]
    asked: int

    @property
    def known(self) -> int:
        return int((~np.isnan(self.means)).sum())


def _measured(check: Check, answers: Sequence[Sequence[Pair]]) -> _Side:
    """Measure one policy's answers.

    A check gets one answer of each prompt at once, so that a figure does not depend on how many there are.
    """
    failed: list[tuple[Pair, str]] = []
    unfit: list[str] = []
    draws = []
    for some in zip(*answers, strict=True):
        try:
            values: Sequence[Value] = check.measure(some)
        except Exception as error:  # noqa: BLE001 -- one check that fails must not end an evaluation
            values = [Failed(f"{type(error).__name__}: {error}")] * len(some)
        failed += [(pair, v.reason) for pair, v in zip(some, values, strict=True) if isinstance(v, Failed)]
        unfit += [v.reason for v in values if isinstance(v, Unfit)]
        draws.append([np.nan if v is None or isinstance(v, Failed | Unfit) else float(v) for v in values])
    table = np.array(draws, dtype=float)
    known = ~np.isnan(table)
    sums, counts = np.where(known, table, 0.0).sum(0), known.sum(0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return _Side(means, failed, unfit, table.size)


def _why_unchecked(sides: tuple[_Side, _Side], has_rows: bool) -> str:
    """Say why nobody knows whether a bound is kept; "" where it is known, or where the check does not apply."""
    ours, theirs = sides
    for who, side in (("the reference's", theirs), ("the policy's", ours)):
        if len(side.failed) > MOST_FAILED * side.asked:
            return f"the check failed on {len(side.failed)} of {side.asked} of {who} answers"
    if len(ours.unfit) - len(theirs.unfit) > MOST_FAILED * ours.asked:
        more = f"{len(ours.unfit)} of {ours.asked} of the policy's answers, and {len(theirs.unfit)} of the reference's"
        return f"it does not count {more}: {ours.unfit[0]}"
    if has_rows or theirs.known < FEWEST:
        return ""
    return f"it gives a number for {theirs.known} of the reference's prompts, and for {ours.known} of the policy's"


def _told(check: Check, name: str, sides: tuple[_Side, _Side]) -> list[str]:
    lines = []
    if unfit := [why for side in sides for why in side.unfit]:
        asked = sum(side.asked for side in sides)
        lines.append(f'"{check.name}" does not count {len(unfit)} of {asked} answers on "{name}": {unfit[0]}')
    failed = [row for side in sides for row in side.failed]
    reasons = Counter(why for _, why in failed)
    for why, count in reasons.most_common(MOST_REASONS):
        pair = next(pair for pair, reason in failed if reason == why)
        at = f"{count} times, first on prompt {pair.id} ({_short(pair.prompt)}), answer {_short(pair.answer)}"
        lines.append(f'the check "{check.name}" failed on "{name}" {at}: {why}')
    return lines


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= 40 else f"{plain[:39]}…")


# -- judging ---------------------------------------------------------------------------------------------------------


def _row(
    check: Check,
    name: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    bound: float | None,
    resamples: int,
    seed: int,
) -> CheckResult | None:
    """One check on one slice, not yet judged; None where fewer than two prompts have numbers on both sides."""
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    if both.sum() < FEWEST:
        return None
    ours, theirs = ours[both], theirs[both]
    gaps = ours - theirs
    relative = check.relative and bool(theirs.mean())  # Of nothing there is no share.
    if relative:
        gaps = gaps / abs(theirs.mean())
    change = from_json(Interval, mean_interval(gaps, resamples, seed))
    if check.unit == "share" and change.low == change.high:
        reach = min(1.0, _NONE_SEEN / len(gaps))
        change = replace(change, low=max(-1.0, change.mean - reach), high=min(1.0, change.mean + reach))
    return CheckResult(
        check=check.name,
        slice=name,
        unit=check.unit,
        worse=check.worse,
        relative=relative,
        policy=float(ours.mean()),
        reference=float(theirs.mean()),
        change=change,
        p=_chance(gaps, seed),
        verdict="unclear",
        max_drop=bound,
    )


def _chance(gaps: NDArray[np.float64], seed: int) -> float:
    """P that differences without a direction have a mean as far from 0 (two-sided).

    scipy's permutation_test gives the same, and takes twenty times as long: `align` asks at every evaluation.
    """
    told = gaps[gaps != 0]
    if len(told) == 0:
        return 1.0
    signs = _signs(len(told), seed)
    as_far = int((abs(signs @ told) >= abs(told.sum()) * (1 - 1e-9)).sum())
    return as_far / len(signs) if len(signs) < _FLIPS else (1 + as_far) / (1 + len(signs))


@lru_cache(maxsize=8)
def _signs(n: int, seed: int) -> NDArray[np.float64]:
    """All ways to flip n signs, or where these are many, some of them."""
    if 2**n < _FLIPS:
        return np.array(list(product((-1.0, 1.0), repeat=n)))
    return np.random.default_rng(seed).choice([-1.0, 1.0], (_FLIPS, n))


def _judged(rows: Sequence[CheckResult]) -> list[CheckResult]:
    """The rows with corrected p-values and verdicts."""
    from scipy.stats import false_discovery_control

    found = {n: row for n, row in enumerate(rows)}
    for family in (True, False):
        places = [n for n, row in found.items() if (row.max_drop is not None) is family]
        if places:
            corrected = false_discovery_control([rows[n].p for n in places], method="bh")
            for n, p in zip(places, corrected, strict=True):
                found[n] = _with_verdict(replace(found[n], p=float(p)))
    return [found[n] for n in range(len(rows))]


def _with_verdict(row: CheckResult) -> CheckResult:
    """The row judged: by whether it changed for sure, and otherwise by how far it may have."""
    drop, at_most = _drop(row)
    told, enough = row.p < LEVEL, row.change.n >= FEWEST_GROUPS
    limit = row.max_drop if row.max_drop is not None else MARGINS[row.unit]
    verdict: Verdict
    if told and drop < 0:
        verdict = "improved"
    elif told and row.max_drop is None:
        verdict = "changed" if row.worse == "either" else "regressed"
    elif enough and at_most <= limit:
        verdict = "held"
    elif told:
        verdict = "regressed"
    else:
        verdict = "unclear"
    return replace(row, verdict=verdict, broken=told and row.max_drop is not None and drop > row.max_drop)


def _drop(row: CheckResult) -> tuple[float, float]:
    """How much worse it got, and how much worse it may have got at most by the interval."""
    change = row.change
    if row.worse == "either":
        return abs(change.mean), max(abs(change.low), abs(change.high))
    return (-change.mean, -change.low) if row.worse == "lower" else (change.mean, change.high)
