"""frontier: what one criterion costs another."""

from __future__ import annotations

import click

from prefloop.cli.common import Common, Verb, anew, common, in_project


@click.command("frontier", cls=Verb, sections=("frontier", "align.objective"))
@click.option("--round", type=click.IntRange(min=0), metavar="N", help="Which round (default: the newest).")
@anew
@common
def frontier(asked: Common, round: int | None, new: bool) -> None:
    """Trade one criterion for another, and draw what that costs.

    For each weight of the second criterion, or each bound on it, aligns the policy of the round and evaluates it, as
    runs of the project; what is done already is skipped, so the same command goes on after an interruption. Writes
    frontier.svg, the front of both criteria with 95 % intervals over held-out prompts, and frontier.json with its
    figures. Says which point keeps the bounds of [align.objective] subject_to. The runs change no policy of the round
    that [run] choose picks by name.

    \b
    Example:  prefloop frontier --set frontier.weights=[0,0.5,1]
              prefloop frontier --set frontier.bounds=[0,0.5,1]
    Next:     prefloop report
    """
    in_project(asked, lambda project: project.frontier(round), new=new, computes=True)
