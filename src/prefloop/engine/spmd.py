"""Lets rank 0 run a stage, while the others obey its engine's verbs, each on its part of the rows and of the models.

    rank 0:   engine = make(...)         tells the others to make theirs
              engine.step(term)          tells them to take the same step, and takes it
    others:   serve(ranks)               waits for a verb, does it, waits for the next

Stages, algorithms and rewards are on rank 0 only. `rank_engine.RankEngine` is what a rank does of each verb.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.algorithms.base import Role
from prefloop.batch import Rows
from prefloop.engine.base import Sampled, Sampling, State, Term, Training
from prefloop.engine.checkpoint import Pieces
from prefloop.engine.outline import outline_of
from prefloop.engine.processes import Channel, Ranks, end_process
from prefloop.engine.rank_engine import FOLLOWED, RankEngine, Recipe
from prefloop.errors import PrefloopError, RankError
from prefloop.models.lora import has_adapter
from prefloop.models.packed import supports_packed
from prefloop.models.tokenization import Tokenization

_numbers = count()


class Order(NamedTuple):
    """Is a verb of an engine, for all ranks. "make" has a recipe as its argument.

    role: which model stands for the policy, if it is another one
    seed: of dropout, for a step; each rank makes its own of it
    """

    engine: int
    verb: str
    args: tuple[Any, ...]
    role: Role | None = None
    seed: int | None = None


class GroupEngine:
    """Keeps the promises of `engine.base.Engine`, on rank 0, by all ranks together."""

    trusts_sampler = True

    def __init__(self, ranks: Ranks, number: int, engine: RankEngine, role: Role | None = None):
        self.ranks, self.number, self.engine, self.role = ranks, number, engine, role

    @classmethod
    def make(
        cls,
        ranks: Ranks,
        models: Mapping[Role, nn.Module],
        tokenization: Tokenization,
        seed: int,
        training: Training | None = None,
        own_sampler: bool = False,
        offload: bool = False,
    ) -> GroupEngine:
        """Make an engine on all ranks, of models that are on this one. The arguments are those of `factory.make`."""
        given: Mapping[Role, Any] = models
        learnt = {role: given[role] for role in training.lr} if training else {}
        # Beside adapters everything is frozen, and stays one trunk for all roles: nothing is cut.
        cut = learnt if not any(has_adapter(model) for model in learnt.values()) else {}
        if cut and training:
            training.settings.refuse_pieces()
        held = {role: model for role, model in given.items() if role not in cut}
        for model in (*held.values(), *(cut[role] for role in cut if role in FOLLOWED)):
            model.to(ranks.device)  # The stage and the sampler compute by these as a whole.
        pieces, whole = outline_of(cut), outline_of(held)
        recipe = Recipe(
            pieces[0] if cut else None,
            whole[0],
            {role: supports_packed(model.model) for role, model in cut.items()},
            replace(tokenization),  # without what it has remembered
            seed,
            training,
            own_sampler,
            offload,
        )
        number = next(_numbers)
        ranks.main.tell(Order(number, "make", (recipe,)))
        made = cls(ranks, number, RankEngine(ranks, recipe, models, (pieces[1], whole[1])))
        if own_sampler:
            ranks.main.meet()  # An order to sample comes by another channel, and must find the engine.
        return made

    def all(self, verb: str, *args: Any, channel: Channel | None = None, seed: int | None = None) -> Any:
        """Tell the other ranks to do a verb, and do it."""
        (channel or self.ranks.main).tell(Order(self.number, verb, args, self.role, seed))
        return getattr(self.engine, verb)(*args)

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        found: list[Sampled] = self.all("generate", prompts, keys, sampling, channel=self.engine.channel)
        return found

    def stop_sampling(self) -> None:
        """Do nothing: ranks that sample do not wait for others."""

    def forward(self, role: Role, batch: Rows, as_learner: bool = False, temperature: float | None = None) -> Tensor:
        found: Tensor = self.all("forward", role, batch, as_learner, temperature)
        return found

    def drawable(self, batch: Rows, sampling: Sampling) -> tuple[Tensor, Tensor]:
        return self.engine.drawable(batch, sampling)  # Few rows are looked at, and this rank has the whole policy.

    def with_policy(self, role: Role) -> GroupEngine:
        return GroupEngine(self.ranks, self.number, self.engine.with_policy(role), role)

    def step(self, *terms: Term) -> Mapping[str, float]:
        found: Mapping[str, float] = self.all("step", *terms, seed=torch.initial_seed())
        return found

    def gradients(self, *terms: Term) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        found: tuple[Mapping[str, float], Mapping[str, Tensor]]
        found = self.all("gradients", *terms, seed=torch.initial_seed())
        return found

    def fit_budget(self, found: int | None = None) -> int | None:
        fitting: int | None = self.all("fit_budget", found)
        return fitting

    def refresh(self, keep: float = 0.0) -> None:
        self.all("refresh", keep)

    def sync(self) -> None:
        self.all("sync")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        self.all("swap")
        try:
            yield
        finally:
            self.all("swap")

    def cast(self, role: Role, dtype: str) -> None:
        self.all("cast", role, dtype)

    def state(self) -> State:
        mine = self.engine.state()
        return State(_Gathered(self, tuple(mine.tensors)), mine.values) if self.engine.in_pieces else mine

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        self.all("restore", tensors, values)

    def computed_by(self) -> Mapping[str, Any]:
        return self.engine.computed_by()

    def weights_hash(self, role: Role) -> str:
        found: str = self.all("weights_hash", role)
        return found

    def save(self, role: Role, folder: Path, adapter_alone: bool = False) -> None:
        self.all("save", role, folder, adapter_alone)

    def close(self) -> None:
        self.all("close")


class _Gathered(Pieces):
    """Is an engine's state by file. A file is gathered when it is asked for, and none where each rank saves its own."""

    def __init__(self, group: GroupEngine, files: tuple[str, ...]):
        self.group, self.files = group, files

    def __getitem__(self, file: str) -> Mapping[str, Tensor]:
        if file not in self.files:
            raise KeyError(file)
        found: Mapping[str, Tensor] = self.group.all("whole_file", file)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def save(self, root: Path, step: int, state: Mapping[str, Any]) -> None:
        self.group.all("save_checkpoint", root.absolute(), step, state)


def serve(ranks: Ranks) -> None:
    """Obey rank 0 until it ends the group. Raises RankError where it dies."""
    engines: dict[int, RankEngine] = {}
    beside = threading.Thread(target=_beside, args=(ranks, engines), name="sampling", daemon=True)
    beside.start()
    _obey(ranks, ranks.main, engines)
    beside.join()


def dismiss(ranks: Ranks) -> None:
    """Tell the other ranks that the work is done."""
    for channel in (ranks.main, ranks.sampling):
        channel.tell(None)


def _beside(ranks: Ranks, engines: dict[int, RankEngine]) -> None:
    """Obey in a thread of its own what rank 0 asks of samplers, since the learner may be at work in the other one."""
    if ranks.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # The learner has the others.
    try:
        _obey(ranks, ranks.sampling, engines)
    except BaseException as error:  # noqa: BLE001 -- a thread that ends alone would leave the group waiting for it
        end_process(ranks, error)


def _obey(ranks: Ranks, channel: Channel, engines: dict[int, RankEngine]) -> None:
    while (order := channel.hear()) is not None:
        try:
            _do(ranks, order, engines)
        except (PrefloopError, AssertionError, KeyError) as error:
            if isinstance(error, RankError):
                raise
            if isinstance(error.__cause__, MemoryError | RuntimeError | OSError):
                end_process(ranks, error)  # It happened here only, and the others wait for this rank.
            # What all ranks refuse, rank 0 refuses too, and its stage decides how to go on.


def _do(ranks: Ranks, order: Order, engines: dict[int, RankEngine]) -> None:
    if order.seed is not None:
        torch.manual_seed((order.seed + ranks.rank * 0x9E3779B97F4A7C15) % (1 << 63))
    if order.verb == "make":
        recipe: Recipe = order.args[0]
        engines[order.engine] = RankEngine(ranks, recipe)
        if recipe.own_sampler:
            ranks.main.meet()
        return
    if order.engine not in engines:
        raise RankError(f"rank {ranks.rank} is asked for {order.verb} of engine {order.engine}, and has no such engine")
    engine = engines.pop(order.engine) if order.verb == "close" else engines[order.engine]
    getattr(engine if order.role is None else engine.with_policy(order.role), order.verb)(*order.args)
