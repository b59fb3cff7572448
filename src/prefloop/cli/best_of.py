"""best-of: the best of n answers, or their majority."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.common import Common, Verb, common, in_project


def _scorers() -> dict[str, str]:
    from prefloop.rewards.rules import NAMED

    return {
        "reward": "the newest reward models of the project, which is what is taken where nothing else is named",
        **{name: meaning for name, (meaning, _) in NAMED.items()},
        '"file.py:function"': "your own function of (prompt, answer), which returns a number; higher is better",
        '"https://host/path"': "an HTTP service (docs/api.md)",
    }


@click.command("best-of", cls=Verb, sections=("best_of",), names={"Scorers": _scorers})
@click.option("--n", type=int, metavar="N", help="Answers of each prompt (default: 16).")
@click.option("--scorer", metavar="NAME", help="What chooses: a name below.")
@click.option(
    "--majority",
    metavar="PATTERN",
    help="Vote over the final answers that this regular expression or file.py:function finds.",
)
@click.option("--policy", default="policy", metavar="NAME", help="A run, version, folder or hub id (default: newest).")
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts (default: the held-out ones)."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON lines with the chosen answers.")
@click.option("--lists", type=click.Path(path_type=Path), metavar="FILE", help="JSON lines with all n, ranked.")
@click.option("--overwrite", is_flag=True, help="Replace these files.")
@common
def best_of(
    asked: Common,
    n: int | None,
    scorer: str | None,
    majority: str | None,
    policy: str,
    prompts: Path | None,
    out: Path | None,
    lists: Path | None,
    overwrite: bool,
) -> None:
    """Answer each prompt n times, and keep the best answer or the majority's. Nothing is trained.

    It is the cheapest way to more reward: no training, and little distance from the policy, at n times the cost of an
    answer. Reads a policy and prompts. Without --majority the answer with the highest reward is kept. With it, the
    final answers are counted (self-consistency); with --scorer beside it, they are weighted by exp(reward). Prints the
    KL of that choice from the policy, ln n - (n-1)/n nats, which is an upper bound where rewards tie, and what 1, 2, 4,
    ... n answers would have scored, by the same samples, with 95 % intervals over prompts; [evaluate] scorer is shown
    beside it as a judge. Writes runs/best-of-NNN/answers.jsonl (prompt, completion: learn them with prefloop sft),
    lists.jsonl (all n, ranked by the scorer) and best-of.svg; prefloop import reads both files. The same command goes
    on after an interruption.

    \b
    Example:  prefloop best-of --n 16 --prompts questions.jsonl --out answers.jsonl
              prefloop best-of --scorer quality.py:score --policy reference
              prefloop best-of --n 32 --majority 'answer is (-?[0-9]+)'
    """
    in_project(
        asked,
        lambda project: project.best_of(
            n,
            scorer=scorer,
            majority=majority,
            policy=policy,
            prompts=prompts,
            out=out,
            lists=lists,
            overwrite=overwrite,
        ),
        computes=True,
    )
