"""Runs `prefloop sft`: supervised fine-tuning on demonstrations, before anyone ranks."""

from __future__ import annotations

from contextlib import closing

from prefloop.algorithms.sft import Sft
from prefloop.engine import Training
from prefloop.engine import make as make_engine
from prefloop.engine.base import Term
from prefloop.errors import NothingToDoError
from prefloop.models.load import weights_hash
from prefloop.models.policy import Policy
from prefloop.project.left_out import LeftOut
from prefloop.project.project import Project, derive, load_policy
from prefloop.results import Tuned
from prefloop.training.demonstrations import encode_demonstrations, heldout_loss, preferred, rows_of
from prefloop.training.fit import Order, fit
from prefloop.training.learning_rates import beside_usual, rate
from prefloop.training.loop import Schedule
from prefloop.types import Item

EVAL_LIMIT = 256


def _ranked(project: Project, criterion: str) -> list[Item]:
    """Return imported lists of training prompts with a ranking by a criterion.

    Raises NothingToDoError where there is none.

    Lists that were sampled here are left out. They come from the model that this stage made, and a ranking of them must
    not make it train again.
    """
    heldout = project.config.data.heldout
    items = project.store.items(split="train", heldout=heldout, source="import", criterion=criterion, ranked=True)
    if not (found := list(items)):
        raise NothingToDoError(
            f'[sft] preferred = "{criterion}", but no imported list of a training prompt was ranked by it. '
            f"Criteria in the store: {', '.join(project.store.criteria()) or 'none'}."
        )
    return found


def sft(project: Project) -> Tuned:
    """Train on demonstrations of training prompts, and on best-ranked completions where set."""
    settings, seed = project.config.sft, project.config.project.seed
    heldout = project.config.data.heldout
    train = project.store.demonstrations(split="train", heldout=heldout)[: settings.limit]
    ranked = _ranked(project, settings.preferred) if settings.preferred else []
    if not train and not ranked:
        raise NothingToDoError("there are no demonstrations yet: import a file with prompt and completion")
    base = project.base()
    snapshot = project.snapshot("demonstrations", [d.id for d in train])
    inputs = {"model": base.weights, "demonstrations": snapshot}
    if ranked:
        inputs["preferred"] = project.snapshot("rankings", [r.id for item in ranked for r in item.rankings])
        train = [*train, *preferred(ranked)]
    if not train:
        raise NothingToDoError(f'[sft] preferred = "{settings.preferred}": every list ties, so that no answer is best')
    fingerprint = project.fingerprint("sft", settings, inputs)
    if done := project.done(Tuned, fingerprint):
        return done
    with project.lock():
        run = project.begin("sft", fingerprint, inputs)
        model, tokenization = load_policy(project, base, learns=True)
        model.train(False)
        left_out = LeftOut(project)
        train = left_out.accepted([tokenization], train, "demonstrations", learns=True)
        snapshot = left_out.used(snapshot)
        held_out = project.store.demonstrations(split="heldout", heldout=heldout)[:EVAL_LIMIT]
        held_out = left_out.accepted([tokenization], held_out, "held-out demonstrations", some=False, learns=True)
        encoded, too_long = encode_demonstrations(tokenization, train, settings.max_tokens)
        if too_long:
            project.say(f"warning: {too_long} demonstrations are longer than {settings.max_tokens} tokens and left out")
        if not encoded:
            raise NothingToDoError("every demonstration is longer than [sft] max_tokens")
        held, held_too_long = encode_demonstrations(tokenization, held_out, settings.max_tokens)
        order = Order(len(encoded), settings.batch, settings.epochs, derive(seed, "sft"))
        policy = Policy(model)
        lr = rate(project, settings.lr, "sft", model)
        run.note("learning_rates", {"policy": beside_usual("sft", lr, model)})
        training = Training(settings, order.steps, {"policy": lr})
        schedule = Schedule(order.steps, settings.eval_every, settings.checkpoint_every)
        with closing(make_engine({"policy": policy}, tokenization, seed, project.placement, training)) as engine:
            held_loss = fit(
                project,
                run,
                engine,
                lambda step: [Term(rows_of([encoded[i] for i in order.at(step)]), Sft())],
                schedule,
                evaluate=lambda step: heldout_loss(engine, held),
                label="sft",
            )
            engine.save("policy", run.path / "model")
        result = Tuned(
            run=run.name,
            steps=order.steps,
            demonstrations=len(encoded),
            too_long=too_long,
            heldout_too_long=held_too_long,
            left_out=left_out.counted(),
            heldout_loss=held_loss.get("heldout_loss"),
            heldout_perplexity=held_loss.get("heldout_perplexity"),
            model=project.relative(run.path / "model"),
        )
        project.register(run, "policy", base, weights_hash(model), snapshot, {"round": 0})
        run.finish(result.figures())
        return result
