"""Says which tokens a sampler may draw, and what it may say of them: a sampler elsewhere is checked by it.

    low, high = drawable(logits, tokens, Sampling(6, top_p=0.9), coarse=False)

Of a token that may not be drawn, the least is infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.engine.base import Sampling

# Another sampler's logits and sums of probabilities are as close as this: in float32, and else (bfloat16 has 8 bits).
CLOSE, CLOSE_COARSE = 1e-3, 2**-5  # nats; of the largest logit
MASS, MASS_COARSE = 1e-3, 0.05


def drawable(logits: Tensor, tokens: Tensor, sampling: Sampling, coarse: bool) -> tuple[Tensor, Tensor]:
    """Return the least and the most [M] that a sampler says of tokens: their log-probability under what it draws from.

    logits: [M,V]
    tokens: [M]
    coarse: whether they were computed in less than float32

    At temperature 0 only the most likely token may be drawn, or one as likely within rounding; what is said of it is
    at temperature 1. With top-p, the last token of the nucleus may be in it or not by rounding.
    """
    logits = logits.float()
    own = logits.gather(1, tokens[:, None])
    close = CLOSE_COARSE * logits.abs().amax(1, keepdim=True) if coarse else CLOSE
    logp = torch.log_softmax(logits / (sampling.temperature or 1.0), dim=-1)
    said = logp.gather(1, tokens[:, None]).squeeze(1)
    if sampling.temperature == 0:
        low, wrong = said, (own < logits.amax(1, keepdim=True) - close).squeeze(1)
        return low.masked_fill(wrong, torch.inf), said
    p, mass = logp.exp(), MASS_COARSE if coarse else MASS
    likelier = p.masked_fill(logits <= own + close, 0.0).sum(1)
    ordered = p.sort(dim=-1, descending=True).values
    before = ordered.cumsum(-1) - ordered

    def nucleus(top_p: float) -> Tensor:
        return ordered.masked_fill(before >= top_p, 0.0).sum(1).clamp(max=1.0)

    low = said - nucleus(sampling.top_p + mass).log()
    high = said - nucleus(max(sampling.top_p - mass, torch.finfo(torch.float32).tiny)).log()
    return low.masked_fill(likelier >= sampling.top_p + mass, torch.inf), high
