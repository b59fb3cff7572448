"""The verbs of the loop: sft, sample, crowd, reward, align, report, run."""

from __future__ import annotations

import click

from prefloop.cli.common import Common, Verb, anew, common, in_project, profiled

_round = click.option("--round", type=click.IntRange(min=0), metavar="N", help="Which round (default: the newest).")


@click.command("sft", cls=Verb, sections=("sft", "model", "data.heldout", "track"))
@profiled
@anew
@common
def sft(asked: Common, profile: bool, new: bool) -> None:
    """Fine-tune the base model on demonstrations.

    Reads the demonstrations of the training prompts; those of held-out prompts are only used to measure. Writes
    runs/sft-NNN/model, an ordinary Hugging Face folder, which becomes the reference of every round. Leave this out if
    your model already answers well.

    \b
    Example:  prefloop import demonstrations.jsonl
              prefloop sft --set sft.epochs=2
    Next:     prefloop sample
    """
    in_project(asked, lambda project: project.sft(), profile=profile, new=new, computes=True)


@click.command("sample", cls=Verb, sections=("sample",))
@click.option(
    "--round",
    type=click.IntRange(min=0),
    metavar="N",
    help="Which round (default: the newest; once that is aligned, the next one, which this starts).",
)
@anew
@common
def sample(asked: Common, round: int | None, new: bool) -> None:
    """Draw K completions of each prompt, to be ranked.

    Reads the prompts of the store and the policy at the start of the round, which is the reference in round 0 and later
    the policy that align made in the round before. Writes an item for each prompt into the store, with token ids,
    log-probabilities and the version of the policy. A completion that nearly equals another of its list is drawn again.

    \b
    Example:  prefloop sample --set sample.k=4 --set sample.prompts=500
    Next:     prefloop annotate, where people rank; or prefloop crowd; or rank elsewhere (export rankings, import)
    """
    in_project(asked, lambda project: project.sample(round), new=new, computes=True)


def _scorers() -> dict[str, str]:
    from prefloop.rewards.rules import NAMED

    return {name: meaning for name, (meaning, _) in NAMED.items()}


@click.command("crowd", cls=Verb, sections=("crowd",), names={"Hidden qualities by name": _scorers})
@common
def crowd(asked: Common) -> None:
    """Let simulated annotators rank the sampled lists.

    Reads every sampled item without a ranking, and scores it by a hidden true quality that you choose: [crowd] scorer.
    Writes rankings with ties and noise, by careful, careless and biased annotators, and marks them as simulated. Use it
    for trials and experiments. Real people rank with prefloop annotate, or their rankings are imported.

    \b
    Example:  prefloop crowd --set crowd.scorer=positive
              prefloop crowd --set crowd.scorer=quality.py:score
    Next:     prefloop reward
    """
    in_project(asked, lambda project: project.crowd())


def _objectives() -> dict[str, str]:
    from prefloop.known_algorithms import names

    return {name: f"docs/algorithms/{name}.md" for name in names("reward")}


@click.command("reward", cls=Verb, sections=("reward", "data.heldout", "track"), names={"Objectives": _objectives})
@_round
@click.option(
    "--annotators",
    type=click.Choice(["all", "weighted", "majority"]),
    help="Whose rankings count how much: the same as --set reward.annotators=NAME.",
)
@profiled
@anew
@common
def reward(asked: Common, round: int | None, annotators: str | None, profile: bool, new: bool) -> None:
    """Train a reward model for each criterion, from whole rankings.

    Reads all rankings up to this round; lists may have any length and any ties. Writes runs/reward-NNN/model, an
    AutoModelForSequenceClassification with one label that plain transformers can load, and measures it on held-out
    prompts: accuracy with its interval, by margin, and compared with length, and calibration. With --annotators
    weighted, a ranking counts more if its author agrees with what others see (docs/annotators.md).

    \b
    Example:  prefloop reward --set reward.criteria='["helpful"]'
              prefloop reward --annotators weighted
    Next:     prefloop align
    """
    overrides = [f'reward.annotators="{annotators}"'] if annotators else []
    in_project(asked, lambda project: project.reward(round), overrides, profile, new, computes=True)


@click.command("prioritise", cls=Verb, sections=("annotate.criterion", "annotate.random_share"))
@common
def prioritise(asked: Common) -> None:
    """Let people rank first the lists that the reward model is unsure of.

    Reads the reward models of the criterion that people rank by, and the lists that nobody has been given yet. Writes
    how informative each list would be: with several reward models this is their disagreement, with one its own
    uncertainty. The server hands out the most informative list first, but at least [annotate] random_share of the items
    stay random, so that there are rankings for an unbiased evaluation. `run` does this before it waits for people.

    \b
    Example:  prefloop sample && prefloop prioritise
    Next:     prefloop annotate
    """
    in_project(asked, lambda project: project.prioritise())


def _algorithms() -> dict[str, str]:
    from prefloop.known_algorithms import learns_from, names

    data = {"labels": "answers that people call good or bad", "best": "the best answers of rankings"}
    return {name: "online: learns from its own samples, which reward models score" for name in names("online")} | {
        name: f"offline: learns from {data.get(learns_from(name), 'the rankings themselves')}"
        for name in names("offline")
    }


@click.command("align", cls=Verb, sections=("align", "behaviour", "track"), names={"Algorithms": _algorithms})
@_round
@click.option("--algorithm", metavar="NAME", help="The same as --set align.algorithm=NAME.")
@profiled
@anew
@common
def align(asked: Common, round: int | None, algorithm: str | None, profile: bool, new: bool) -> None:
    """Optimise the policy for what people prefer.

    Reads the policy at the start of the round, the round's reward models (an offline algorithm: the rankings) and the
    training prompts. Writes runs/align-NNN/model: the policy with the best held-out reward that is within the KL budget
    and has not collapsed (offline: the newest that has not). If no step is better than the start, it writes no
    model. If a round has several runs, [run] choose says which of them counts. You may stop it at any moment: the same
    command continues from the last checkpoint, with the same result. An algorithm has its options in its own section:
    --set algorithms.ppo.kl=0.1

    \b
    Example:  prefloop align --algorithm rloo --set align.rollout.k=4
    Next:     prefloop evaluate
    """

    overrides = [f'align.algorithm="{algorithm}"'] if algorithm else []
    in_project(asked, lambda project: project.align(round=round), overrides, profile, new, computes=True)


@click.command("report", cls=Verb)
@common
def report(asked: Common) -> None:
    """Write a page with all results.

    Reads runs/ and the store. Writes report.html, which needs no network, and report.json with the same figures: data,
    agreement, reward models, training curves, the comparison with the reference, and samples before and after.

    \b
    Example:  prefloop report
    Next:     prefloop sample, for the next round; or prefloop export policy --to FOLDER
    """
    in_project(asked, lambda project: project.report())


@click.command("run", cls=Verb, sections=("run", "annotate.quota"))
@anew
@common
def run(asked: Common, new: bool) -> None:
    """Run the whole loop; finished stages are skipped.

    Imports the files of [run] imports, then runs the stages of [run] stages, round after round. A stage is skipped if
    its inputs and settings have not changed, so the same command continues after an interruption, and repeating it does
    nothing. sft is left out if there are no demonstrations. With annotate instead of crowd among the stages, it says
    where people rank, waits until they have ranked, and continues.

    \b
    Example:  prefloop run --set run.rounds=2
    Next:     open report.html
    """
    in_project(asked, lambda project: project.run(), new=new, computes=True)
