"""Into a project and out of it: init, import, export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from prefloop.cli.common import Common, Verb, common, emit, in_project

WHAT = ("policy", "reward", "rankings", "pairs", "kto", "demonstrations", "prompts")


@click.command("init", cls=Verb, sections=("project", "model"))
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--model", metavar="PATH_OR_HUB_ID", help="A causal language model: Hugging Face folder or hub id.")
@click.option("--scratch", is_flag=True, help="A small new model and tokenizer instead, trained from your own data.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --scratch: a text file the tokenizer learns from; may be repeated.",
)
@common
def init(asked: Common, folder: Path, model: str | None, scratch: bool, texts: tuple[Path, ...]) -> None:
    """Make a project: a folder with a commented prefloop.toml.

    Checks that the model folder has weights as safetensors, a tokenizer and a config, without loading them. Settings
    given with --set are written into prefloop.toml. An existing prefloop.toml is never overwritten. DIR is relative to
    -C.

    \b
    Example:  prefloop init support --model ./my-model
              prefloop init toy --scratch --set model.layers=2
    Next:     cd into it, then prefloop import FILE
    """

    from prefloop.api.project import initialise

    outcome = initialise(asked.root / folder, model, scratch=scratch, texts=texts, settings=asked.overrides)
    emit(asked, outcome, f"cd {outcome.project} && prefloop import FILE")


def _formats() -> dict[str, str]:
    from prefloop.exchange import FORMATS

    return FORMATS


@click.command("import", cls=Verb, sections=("data",), names={"Formats": _formats})
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--as", "format", metavar="FORMAT", help="What the files are, where it cannot be told from the records.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="FIELD",
    help="Go on although nobody reads this field, and keep it as metadata; may be repeated.",
)
@common
def import_(asked: Common, files: tuple[str, ...], format: str | None, ignore: tuple[str, ...]) -> None:
    """Read prompts, demonstrations, rankings or pairs into the store.

    FILE may be JSON lines, a JSON array or Parquet, also compressed (gzip, xz, bzip2); its format is recognised from
    the first records. A row that can't be used is named with its line and the reason; the others are imported. If a
    field that the format does not read looks like a label, a score or another answer, nothing is imported, because bad
    answers could be learned as good ones: name the format with --as, or continue with --ignore. Importing a file twice
    adds nothing. A hash decides once and for all whether a prompt is for training or held out. FILE may also be
    hf://owner/name or hf://owner/name:split, a data set of the Hugging Face hub, which needs pip install
    'prefloop[hub]'.

    \b
    Example:  prefloop import prompts.jsonl demonstrations.jsonl.gz
              prefloop import pairs.parquet --as pairs
              prefloop import hf://trl-lib/ultrafeedback_binarized:train
    Next:     prefloop sft, sample, annotate or reward, by what the files held; the last line says which
    """
    in_project(asked, lambda project: project.import_files(files, format, ignore))


@click.command("export", cls=Verb)
@click.argument("what", type=click.Choice(WHAT), metavar="|".join(WHAT))
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="PATH", help="A folder or file to make.")
@click.option("--criterion", metavar="NAME", help="Only this criterion (reward, rankings, pairs, kto).")
@click.option("--round", type=click.IntRange(min=0), metavar="N", help="Models of this round (default: the newest).")
@click.option("--run", metavar="NAME", help="The policy of this run (default: what [run] choose picks of the round).")
@click.option(
    "--pairing",
    type=click.Choice(["all", "adjacent", "extremes"]),
    default="all",
    show_default=True,
    help="Which tiers make pairs.",
)
@click.option(
    "--probability",
    type=click.Choice(["votes", "model"]),
    default="votes",
    show_default=True,
    help="The soft label of pairs: from the votes alone, or from the model of how reliable each annotator is.",
)
@click.option("--push", metavar="OWNER/NAME", help="Upload the model to this repository of the Hugging Face hub, too.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@common
def export(
    asked: Common,
    what: str,
    to: Path,
    criterion: str | None,
    round: int | None,
    run: str | None,
    pairing: str,
    probability: Literal["votes", "model"],
    push: str | None,
    overwrite: bool,
) -> None:
    """Write models, rankings or pairs to files.

    policy and reward are Hugging Face folders for plain transformers, with a model card (README.md); reward makes a
    folder for each criterion. --push uploads the folder, into a private repository if it is new; log in with: hf auth
    login. Without --push nothing is uploaded.

    rankings holds everything, edits too, and can be imported again. pairs and kto are for other trainers, and leave out
    rankings of excluded people and discarded items. demonstrations and prompts are what was imported. The end of the
    file name decides the type: .jsonl, .jsonl.gz, .jsonl.xz, .parquet, or .csv for spreadsheets, in which no cell can
    run as a formula. A file or folder appears when it is complete, and replaces another only with --overwrite. The
    SHA-256 of a file is printed.

    \b
    Example:  prefloop export policy --to ./aligned
              prefloop export policy --to ./other --run align-002 --push me/my-model
              prefloop export pairs --to pairs.parquet --criterion helpful
    """
    in_project(
        asked,
        lambda project: project.export(
            what, to, criterion, round, overwrite, pairing=pairing, probability=probability, run=run, push=push
        ),
    )
