"""evaluate: the aligned policy, or with `evaluate reward` any reward model on any file."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, VerbGroup, common, emit, in_project


@click.group("evaluate", cls=VerbGroup, sections=("evaluate", "behaviour"), invoke_without_command=True)
@click.option("--round", type=click.IntRange(min=0), metavar="N", help="Which round (default: the newest aligned).")
@click.option("--run", metavar="NAME", help="Which run of align (default: what [run] choose picks of the round).")
@common
@click.pass_context
def evaluate(ctx: click.Context, asked: Common, round: int | None, run: str | None) -> None:
    """Compare the aligned policy with the reference.

    Reads both policies, the round's reward models, and held-out prompts that were not used to train or choose anything.
    Writes runs/evaluate-NNN/result.json with win rate and reward gain, their 95 % intervals over prompts, the smallest
    effect that this number of prompts could have shown, KL, lengths, variety, signs of collapse, samples side by
    side, and the checks of [behaviour]: what improved, held, regressed, or could not be told. If a round has several
    align runs, it takes the one that [run] choose picks, or the one that you name. Set [evaluate] scorer to add a judge
    that the policy was not optimised for. The sub-command reward measures any reward model on any file of rankings or
    pairs.

    \b
    Example:  prefloop evaluate --set evaluate.prompts=500
              prefloop evaluate --run align-002
              prefloop evaluate reward --model ./reward --data test.jsonl
    Next:     prefloop report
    """
    if ctx.invoked_subcommand is None:
        in_project(asked, lambda project: project.evaluate(round, run), computes=True)


@evaluate.command("reward", cls=Verb)
@click.option("--model", required=True, metavar="PATH_OR_HUB_ID", help="A reward model with one label.")
@click.option("--data", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Rankings or pairs.")
@click.option("--as", "format", metavar="FORMAT", help="What the file is, where it cannot be told from the records.")
@common
def evaluate_reward(asked: Common, model: str, data: Path, format: str | None) -> None:
    """Measure any reward model on any rankings or pairs, without a project.

    Prints the accuracy for each criterion with its 95 % interval over prompts, the accuracy by margin, the score
    difference on ties, and the accuracy of "the longer answer is better".

    \b
    Example:  prefloop evaluate reward --model ./reward --data pairs.jsonl
    """
    from prefloop.stages.evaluate_reward import evaluate_reward as stage

    with redirect_stdout(sys.stderr):
        outcome = stage(model, data, format)
    emit(asked, outcome)
