"""The result of `prefloop best-of` for people: how it was chosen, its distance, and what more answers bring."""

from __future__ import annotations

from prefloop import results
from prefloop.cli.show_text import mean

_BY = {"best": "best of {n} by {scorer}", "majority": "majority of {n}", "weighted": "majority of {n} by {scorer}"}


def best_of_lines(r: results.BestOf) -> list[str]:
    """Lines to print."""
    head = _BY[r.by].format(n=r.n, scorer=r.scorer)
    lines = [f"{head}, policy {r.policy}: {r.prompts} of {r.asked} prompts answered", _distance(r)]
    if r.share is not None and r.unmatched is not None:
        lines.append(f"the answer that won has {r.share:.0%} of the votes; {r.unmatched:.0%} of all have no final one")
        if r.unanswered:
            lines.append(f"{r.unanswered} prompts have no answer, since none of theirs has a final one")
    lines.append(f"{r.distinct:.1f} of {r.n} answers differ; {r.ended:.0%} of the chosen ended by themselves")
    lines += _table(r.curve)
    if r.unscored:
        lines += ["prompts whose answers could not be scored:", *(f"  {row}" for row in r.unscored)]
    return lines


def _distance(r: results.BestOf) -> str:
    if r.by != "best":
        return f"KL from the policy at most {r.kl:.3f} nats (ln n, which bounds every choice among n)"
    if r.kl_estimate is None:
        return f"KL from the policy {r.kl:.3f} nats (no two answers of a prompt have the same reward)"
    return (
        f"KL from the policy at most {r.kl:.3f} nats, an upper bound: on {r.tied:.0%} of the prompts rewards tie, and "
        f"the estimate is {r.kl_estimate:.3f}"
    )


def _table(curve: tuple[results.BestAt, ...]) -> list[str]:
    """One line for each n. The last columns are there where they say something."""
    if not curve:
        return []
    ties, judged = curve[-1].kl_estimate is not None, curve[-1].judge is not None
    head = f"{'n':>6}  {'KL <=' if ties else 'KL':>7}" + (f"  {'about':>7}" if ties else "")
    lines = [(head + f"  {'best reward':<26}" + ("  judge" if judged else "")).rstrip()]
    for at in curve:
        row = f"{at.n:>6}  {at.kl:>7.3f}" + (f"  {at.kl_estimate:>7.3f}" if at.kl_estimate is not None else "")
        lines.append(
            (row + f"  {mean(at.reward, '+.3f'):<26}" + (f"  {mean(at.judge, '+.3f')}" if at.judge else "")).rstrip()
        )
    return lines
