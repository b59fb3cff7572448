"""Holds the reference in another number type (`[align] frozen_dtype`), and gives back what rounding it does to the KL.

Rounded weights are another distribution. A policy that has not moved would seem to be some way off, and pay for it by
the token: longer answers would cost more, for nothing they do. So the mean error a token is measured once, before the
first update, and given back to everything that the reference says. What is left is the spread around that mean.
"""

from __future__ import annotations

from prefloop.batch import Rows
from prefloop.engine.base import Engine
from prefloop.ops.masked import masked_sum


def round_reference(engine: Engine, dtype: str, rows: Rows | None) -> tuple[float, float]:
    """Convert it, and return how much less it then says of the samples `rows`: (nats a token, nats a sequence).

    Both are 0 where there are no rows, because it was measured before.
    """
    exact = None if rows is None else engine.forward("reference", rows, as_learner=True)
    engine.cast("reference", dtype)
    if rows is None or exact is None:
        return 0.0, 0.0
    lost = masked_sum(exact - engine.forward("reference", rows, as_learner=True), rows.action)
    return float(lost / rows.action.sum()), float(lost / len(rows))
