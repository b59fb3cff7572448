"""Runs `prefloop crowd`: simulated annotators rank what was sampled. Every ranking is marked as simulated."""

from __future__ import annotations

from prefloop.errors import ConfigError, NothingToDoError
from prefloop.labels.crowd import simulate
from prefloop.project.project import Project, derive
from prefloop.results import CrowdRanked
from prefloop.rewards.rules import NAMED
from prefloop.types import digest


def crowd(project: Project) -> CrowdRanked:
    """Rank every sampled item that has no ranking for the criterion yet."""
    settings = project.config.crowd
    if not settings.scorer:
        raise ConfigError(
            "simulated annotators need a hidden true quality: set [crowd] scorer to a name "
            f'({", ".join(NAMED)}), to "file.py:function" with function(prompt, completion) -> float, '
            "or to the address of a service"
        )
    scorer = project.scorer(settings.scorer)
    everything = list(project.store.items(source="sample"))
    todo = [i for i in everything if not any(r.criterion == settings.criterion for r in i.rankings)]
    if not everything:
        raise NothingToDoError("there is nothing to rank yet: run prefloop sample first")
    inputs = {"items": digest([i.id for i in everything]), "scorer": scorer.identity}
    fingerprint = project.fingerprint("crowd", settings, inputs)
    if not todo and (done := project.done(CrowdRanked, fingerprint)):
        return done
    with project.lock():
        run = project.begin("crowd", fingerprint, inputs)
        # All items together set the scale of the noise, so that a run that goes on ranks the rest as it would have.
        pairs = [(item.prompt, c) for item in everything for c in item.completions]
        with project.progress(len(pairs), "crowd: scoring"):
            values = scorer.score([p for p, _ in pairs], [c for _, c in pairs]).total
        quality = {c.id: float(v) for (_, c), v in zip(pairs, values, strict=True)}
        rankings = simulate(everything, quality, settings, derive(project.config.project.seed, "crowd"))
        wanted = {item.id for item in todo}
        added = project.store.add_rankings(r for r in rankings if r.item_id in wanted)
        ties = sum(len(r.tiers) < sum(len(t) for t in r.tiers) for r in rankings)
        result = CrowdRanked(
            run=run.name,
            simulated=True,
            scorer=settings.scorer,
            criterion=settings.criterion,
            items=len(todo),
            rankings=added,
            annotators=len({r.annotator for r in rankings}),
            with_ties=ties / max(1, len(rankings)),
        )
        run.finish(result.figures())
        return result
