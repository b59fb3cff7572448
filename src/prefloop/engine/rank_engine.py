"""Does one rank's part of each verb of an engine. All ranks are asked for the same verbs; rank 0 has the results.

A model that learns is in pieces (`shard`). The sampler, from the first sample on, and models that do not learn are
whole on every rank: sampling and scoring then need no other rank, and prompts and rows are dealt. Models that learn
adapters are whole, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from prefloop.algorithms.base import Role
from prefloop.batch import Rows
from prefloop.config_section import SCORED, TOKEN_BUDGET
from prefloop.engine.base import Sampled, Sampling, Training
from prefloop.engine.checkpoint import Stored, publish
from prefloop.engine.local import LocalEngine, assembled
from prefloop.engine.outline import Outline
from prefloop.engine.processes import Channel, Ranks, dealt, named_when_lost
from prefloop.engine.rank_learner import WholeLearner, share_index
from prefloop.engine.shard import ShardedLearner, no_warning_of_views, put, shard
from prefloop.engine.sharded_checkpoint import cut, read_pieces, save_sharded
from prefloop.kernels.plain import whole
from prefloop.models.load import weights_hash
from prefloop.models.save import save_pretrained
from prefloop.models.tokenization import Tokenization

FOLLOWED: tuple[Role, ...] = ("policy", "reward")  # Of these, where they are in pieces, rank 0 has a whole one, too.


class Recipe(NamedTuple):
    """Says all that a rank needs to make its part of an engine, but for the weights.

    Both outlines are of models by role, which may share tensors.

    pieces: of the models that learn, where they are cut; None where none learns, or adapters do
    whole:  of those that every rank holds as a whole: what does not learn, and all beside adapters
    packed: see `shard.shard`
    """

    pieces: Outline | None
    whole: Outline
    packed: Mapping[Role, bool]
    tokenization: Tokenization
    seed: int
    training: Training | None
    own_sampler: bool
    offload: bool


class RankEngine(LocalEngine):
    def __init__(
        self,
        ranks: Ranks,
        recipe: Recipe,
        given: Mapping[Role, Any] | None = None,
        tensors: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ):
        """Take part in making an engine.

        given, tensors: the models, and the tensors of both outlines by their numbers, on rank 0
        """
        self.ranks, self.pieces, training = ranks, recipe.pieces, recipe.training
        self.channel = ranks.sampling if recipe.own_sampler else ranks.main
        models: dict[Role, Any] = {}
        if recipe.pieces is not None:
            models, pieces = shard(recipe.pieces, ranks, recipe.packed)
            _fill(ranks, recipe.pieces, None if tensors is None else tensors[0], pieces)
        self.in_pieces = frozenset(models)
        if given is None or tensors is None:
            self.given, mine = recipe.whole.build(
                lambda spec: torch.empty(spec.shape, dtype=spec.dtype, device=ranks.device)
            )
            _fill(ranks, recipe.whole, None, mine)
        else:
            # These are whole models, which the stage may also hold.
            self.given = {role: one for role, one in given.items() if role in FOLLOWED or role not in models}
            _fill(ranks, recipe.whole, tensors[1], [])
        models = {**self.given, **models}
        learner, budget = None, TOKEN_BUDGET
        if training is not None:
            trained = {role: models[role] for role in training.lr}
            kind = ShardedLearner if self.in_pieces else WholeLearner
            learner = kind(ranks, trained, training.settings, training.steps, training.lr, training.average)
            budget = training.settings.usual_budget
        own_sampler = recipe.own_sampler and not self.in_pieces
        super().__init__(
            models, recipe.tokenization, recipe.seed, budget, learner, ranks.device, own_sampler, recipe.offload
        )
        self.own_sampler, self.moved, self.has_sampler = recipe.own_sampler, False, not self.in_pieces
        # These whole models follow the pieces in `sync`.
        self.followers: dict[Role, Any] = {role: self.given.get(role) for role in FOLLOWED if role in self.in_pieces}
        if "policy" in self.followers:
            if self.own_sampler:
                self._add_sampler()
            elif given is not None:
                self.sampled = given["policy"].model

    def with_policy(self, role: Role) -> Self:
        other = super().with_policy(role)
        other.given = {**self.given, "policy": self.given[role]}  # This is what a server would be given.
        return other

    @property
    def _whole_policy(self) -> Any:
        return self.given["policy"]

    # -- what rows and prompts are dealt for ---------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        if self.learner is not None and not self.has_sampler:
            self._add_sampler()
        elif self.moved and self.learner is not None and not self.own_sampler:
            self.sync()
        lists = [list(places) for _, places in groupby(range(len(prompts)), key=lambda n: tuple(prompts[n]))]
        share = dealt([len(prompts[places[0]]) * len(places) for places in lists], self.ranks.world)[self.ranks.rank]
        mine = [n for place in share for n in lists[place]]

        def draw() -> list[tuple[int, Sampled]]:
            drawn = super(RankEngine, self).generate([prompts[n] for n in mine], [keys[n] for n in mine], sampling)
            return list(zip(mine, drawn, strict=True))

        found = dict(one for some in self._agreed(draw if mine else list, self.channel) for one in some)
        return [found[n] for n in range(len(prompts))]

    def _forward(self, role: Role, batch: Rows, how: Mapping[str, Any]) -> Tensor:
        rows = batch.rows()
        shares = _parts_of(rows, SCORED * self.token_budget, self.ranks.world)
        mine = shares[self.ranks.rank]
        if self.learner is None or role not in self.in_pieces:
            parts = self._agreed(lambda: [(index, self._scored(role, rows, index, how)) for index in mine])
        else:
            # Each rank gathers layers with all the others, so one that has fewer parts runs some row once more.
            idle = max(map(len, shares)) - len(mine)
            computed = [(index, self._scored(role, rows, index, how)) for index in mine]
            for _ in range(idle):
                self._scored(role, rows, torch.arange(1), how)
            parts = self.ranks.main.gathered(computed)
        return assembled(rows, (part for some in parts for part in some))

    def _scored(self, role: Role, rows: Rows, index: Tensor, how: Mapping[str, Any]) -> Tensor:
        with no_warning_of_views():
            return self._part(role, rows.select(index).to(self.device), how).cpu()

    def _agreed(self, compute: Callable[[], list[Any]], channel: Channel | None = None) -> list[list[Any]]:
        """Return what all ranks computed, where none needed another for it. An error of one is raised on all."""
        mine: Any
        try:
            mine = compute()
        except Exception as error:  # noqa: BLE001 -- the others would wait for this rank
            mine = error
        every = (channel or self.ranks.main).gathered(mine)
        for theirs in every:
            if isinstance(theirs, Exception):
                raise theirs
        return every

    # -- weights -------------------------------------------------------------------------------------------------------

    def _add_sampler(self) -> None:
        """Give every rank a whole policy, of which rank 0 has one to save. Training alone needs no more than that."""
        if self.ranks.rank or self.own_sampler:
            self.followers["policy"] = self._built("policy")
        self._follow("policy", self.followers["policy"])
        self.has_sampler, self.moved, self.sampled = True, False, self.followers["policy"].model

    @torch.no_grad()
    def _built(self, role: Role) -> Any:
        """Return a whole model like that in pieces, whose weights are yet to come."""
        assert self.pieces is not None
        models, _ = self.pieces.build(lambda spec: torch.empty(spec.shape, dtype=spec.dtype))
        model = models[role].to(self.device).eval()
        for mine, theirs in zip(model.buffers(), self.models[role].buffers(), strict=True):
            mine.copy_(theirs)
        return model

    @torch.no_grad()
    def _follow(self, role: Role, model: Any) -> None:
        """Copy the weights that the pieces hold into a whole model, where this rank has one. All ranks take part."""
        targets = {} if model is None else dict(model.named_parameters())
        with named_when_lost():
            for name, piece in self._learner().weights[role].items():
                full = whole(piece.detach())
                if name in targets:
                    targets[name].copy_(full)

    def sync(self) -> None:
        """Give whole models the weights of the pieces, and the sampler its own."""
        if not self.in_pieces:
            super().sync()
        elif self.learner is not None:
            for role, model in self.followers.items():
                self._follow(role, model)
        if self.own_sampler:
            self.ranks.main.meet()  # The next order to sample comes by another channel.
        self.moved = False

    def step(self, *terms: Any) -> Mapping[str, float]:
        self.moved = True
        with named_when_lost():
            return super().step(*terms)

    def gradients(self, *terms: Any) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        with named_when_lost():
            return super().gradients(*terms)

    def fit_budget(self, found: int | None = None) -> int | None:
        """Settle on what fits into the memory of every rank."""
        mine = super().fit_budget(found)
        every = self.ranks.main.gathered(mine)
        return mine if mine is None else super().fit_budget(min(every))

    def swap(self) -> None:
        """Exchange own and averaged weights."""
        if self.learner is not None and self.learner.averaged:
            self.learner.swap()
            self.moved = True
            if "reward" in self.followers:  # A stage measures by the whole model.
                self._follow("reward", self.followers["reward"])

    def refresh(self, keep: float = 0.0) -> None:
        with named_when_lost():
            super().refresh(keep)

    def _newest(self, role: Role) -> Any:
        """Return the whole model with the weights of now, on rank 0."""
        if self.learner is not None and role in self.in_pieces:
            model = None if self.ranks.rank else self.given.get(role) or self._built(role)
            self._follow(role, model)
            return model
        return self.given.get(role)

    def weights_hash(self, role: Role) -> str:
        model = self._newest(role)
        return "" if self.ranks.rank else weights_hash(model.model)

    def save(self, role: Role, folder: Path, adapter_alone: bool = False) -> None:
        model = self._newest(role)
        if self.ranks.rank == 0:
            publish(folder, lambda tmp: save_pretrained(model.model, self.tokenization, tmp, adapter_alone))

    # -- state ---------------------------------------------------------------------------------------------------------

    def whole_file(self, file: str) -> dict[str, Tensor]:
        """Return the whole tensors of a file of the state, on the CPU."""
        held = super().state().tensors[file]
        pieces = {name: x.to_local().cpu() for name, x in held.items() if isinstance(x, DTensor)}
        every = self.ranks.main.gathered(pieces)
        return {n: torch.cat([some[n] for some in every]) if n in pieces else x.cpu() for n, x in held.items()}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        weights = self._learner().weights
        if isinstance(tensors, Stored):
            mine = read_pieces(self.ranks, tensors, weights)
        else:
            mine = {file: cut(file, some, weights) for file, some in tensors.items()}
        self.moved = True
        super().restore(mine, values)

    def save_checkpoint(self, root: Path, step: int, state: Mapping[str, Any]) -> None:
        save_sharded(self.ranks, root, step, super().state().tensors, state)

    def computed_by(self) -> Mapping[str, Any]:
        return {**super().computed_by(), "ranks": self.ranks.world}

    def close(self) -> None:
        self.given, self.followers = {}, {}
        super().close()


def _parts_of(rows: Rows, budget: int, world: int) -> list[list[Tensor]]:
    """Return the places of the rows in the parts that each rank computes. Lists are dealt as a whole."""
    return [[index[some] for some in rows.select(index).split_index(budget)] for index in share_index(rows, world)]


@torch.no_grad()
def _fill(ranks: Ranks, outline: Outline, sources: Sequence[Tensor] | None, targets: Sequence[Tensor]) -> None:
    """Send every tensor of rank 0's to all ranks, one after the other, and put it where it belongs."""
    with named_when_lost():
        for spec in outline.specs:
            x = torch.empty(spec.shape, dtype=spec.dtype, device=ranks.device)
            if sources is not None:
                x.copy_(sources[spec.number])
            if x.numel():
                dist.broadcast(x.view(-1).view(torch.uint8), 0)  # Not every type of number can be sent.
            if targets:
                put(targets[spec.number], x)
