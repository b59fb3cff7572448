"""`prefloop`: finds the verb, runs it, and turns every way it can end into an exit code and a message."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

import prefloop
from prefloop.engine.process import set_environment
from prefloop.engine.torchrun import exit_code, has_ended, restarts
from prefloop.errors import PrefloopError, RankError
from prefloop.known_algorithms import names

_ALGORITHMS = ", ".join(name.upper() for name in names("online") + names("offline"))

# Each verb has (module:command, one line). They are written out so that the top help imports none of them.
VERBS: dict[str, tuple[str, str]] = {
    "init": ("prefloop.cli.data:init", "Make a project: a folder with a commented prefloop.toml."),
    "import": ("prefloop.cli.data:import_", "Read prompts, demonstrations, rankings or pairs into the store."),
    "sft": ("prefloop.cli.loop:sft", "Fine-tune the model on demonstrations."),
    "sample": ("prefloop.cli.loop:sample", "Draw several completions of each prompt, to be ranked."),
    "crowd": ("prefloop.cli.loop:crowd", "Let simulated annotators rank the sampled lists."),
    "annotate": ("prefloop.cli.annotate:annotate", "Start the server on which people rank in their browsers."),
    "prioritise": (
        "prefloop.cli.loop:prioritise",
        "Let people rank first the lists that the reward model is unsure of.",
    ),
    "agreement": ("prefloop.cli.agreement:agreement", "Show how far people agree, and whose rankings to look at."),
    "reward": ("prefloop.cli.loop:reward", "Train a reward model for each criterion, from whole rankings."),
    "align": ("prefloop.cli.loop:align", f"Optimise the policy: {_ALGORITHMS}."),
    "evaluate": ("prefloop.cli.evaluating:evaluate", "Compare the aligned policy with the reference."),
    "frontier": ("prefloop.cli.frontier:frontier", "Trade one criterion for another, and draw what that costs."),
    "compare": ("prefloop.cli.comparing:compare", "Compare two policies, or a policy and texts, on any prompts."),
    "best-of": ("prefloop.cli.best_of:best_of", "Answer prompts by the best of n, or by majority, without training."),
    "diagnose": ("prefloop.cli.diagnosing:diagnose", "Say what went wrong in a run, why, and what to do next."),
    "watch": ("prefloop.cli.watch:watch", "Follow runs in the browser: curves, findings, answers."),
    "rollout": ("prefloop.cli.rollout:rollout", "Start a server that samples for a trainer, here or elsewhere."),
    "report": ("prefloop.cli.loop:report", "Write a page with all results."),
    "status": ("prefloop.cli.checking:status", "Show where the project stands, what is running, and what comes next."),
    "run": ("prefloop.cli.loop:run", "Run the whole loop; finished stages are skipped."),
    "remove": ("prefloop.cli.removing:remove", "Remove rows, and name the models that learned from them."),
    "export": ("prefloop.cli.data:export", "Write models, rankings or pairs to files."),
    "backup": ("prefloop.cli.backup:backup", "Back up the project while people work, or restore a backup."),
    "demo": ("prefloop.cli.demo:demo", "See the whole loop work on a built-in scenario."),
    "case": ("prefloop.cli.cases:case", "See a failure happen, its diagnosis, and the remedy at work."),
    "plan": ("prefloop.cli.planning:plan", "Say what stages will need before they start: memory, steps, hours."),
    "doctor": ("prefloop.cli.checking:doctor", "Check the machine, the project and the model."),
}

INTRODUCTION = """Align a language model with what people prefer, end to end.

\b
The loop, in order:
    init       makes a project folder
    import     reads prompts, demonstrations or rankings
    sft        trains a policy on the demonstrations      (if you have some)
    sample     draws K completions of each prompt
    annotate   lets people rank them in their browsers    (or import rankings)
    crowd      lets simulated people rank them            (to try the loop without people)
    reward     trains a model of what people prefer
    align      trains a policy that this model prefers    (then sample again, for the next round)
    evaluate   compares the policy with the reference, on prompts that nothing was trained on
    report     writes a page with all results

`status` shows where the project stands. `run` runs the stages that prefloop.toml lists. `demo` shows the loop in
minutes, on built-in data.
`prefloop COMMAND --help` says what a command reads and writes, and lists its settings.
"""


class LazyGroup(click.Group):
    """Knows its verbs by name; imports the module of one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name = VERBS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Commands: {', '.join(VERBS)}."
            raise click.UsageError(f'there is no command "{args[0]}". {hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.command(cls=LazyGroup, help=INTRODUCTION, context_settings={"max_content_width": 100})
@click.version_option(prefloop.__version__, prog_name="prefloop")
def cli() -> None:
    pass


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    set_environment()
    # What torch and transformers make stays: there is little to be gained by looking through it while they are
    # imported.
    gc.set_threshold(50_000, 20, 100)
    if has_ended():  # The command was one of several ranks, of which one died after the end.
        sys.exit(0)
    sys.exit(exit_code(run(sys.argv[1:] if argv is None else argv)))


def run(argv: Sequence[str]) -> int:
    """One command; returns its exit code. Nothing escapes but what ends the interpreter itself."""
    as_json = "--json" in argv and os.environ.get("RANK", "0") == "0"  # Other ranks have the same to say.
    try:
        code = cli.main(args=list(argv), prog_name="prefloop", standalone_mode=False, obj=tuple(argv))
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "prefloop"
        return _end(as_json, "UsageError", f"{error.format_message()}\nSee: {where} --help", error.exit_code)
    except RankError as error:
        return _end(as_json and not restarts(), "RankError", str(error), error.exit_code)
    except PrefloopError as error:
        return _end(as_json, type(error).__name__, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _end(
            as_json and not restarts(), "Interrupted", "interrupted; the same command goes on where it stopped", 130, ""
        )
    except MemoryError:
        return _end(as_json, "MemoryError", OUT_OF_MEMORY, 1)
    except OSError as error:
        return _end_os_error(as_json, error)
    except Exception as error:  # noqa: BLE001 -- the outermost frame: everything ends as a message and a code
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            return _end(as_json, "MemoryError", OUT_OF_MEMORY, 1)
        return _end_unexpected(as_json, error)


OUT_OF_MEMORY = (
    "out of memory. Lower token_budget in the stage's section of prefloop.toml (it changes speed, not results), then "
    "batch or max_tokens; or use a smaller model. The last checkpoint is kept: the same command goes on from there."
)
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up", errno.EFBIG: "a size limit"}
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _end(as_json: bool, kind: str, message: str, code: int, prefix: str = "error: ") -> int:
    click.echo(f"{prefix}{message}", err=True)
    if as_json:
        click.echo(json.dumps({"error": {"type": kind, "message": message}}))
    return code


def _end_os_error(as_json: bool, error: OSError) -> int:
    place = error.filename or "the project folder"
    if error.errno in _FULL:
        text = (
            f"cannot write {place}: {_FULL[error.errno]} ({error.strerror}). The store, finished runs and the last "
            "checkpoint are kept whole: free some space, and the same command goes on from there."
        )
        return _end(as_json, "DiskFull", text, 1)
    if error.errno in _REFUSED:
        text = f"{place}: {error.strerror}. Check that you own the folder and may write there."
        return _end(as_json, "OSError", text, 1)
    return _end_unexpected(as_json, error)


def _end_unexpected(as_json: bool, error: Exception) -> int:
    traceback.print_exception(error)
    message = f"{type(error).__name__}: {error}"
    advice = (
        "this is a bug in prefloop. Please report it with the lines above and the output of: prefloop doctor\n"
        f"https://github.com/prefloop/prefloop/issues  (prefloop {prefloop.__version__})"
    )
    return _end(as_json, "InternalError", f"{message}\n{advice}", 70)


if __name__ == "__main__":
    main()
