"""Measures a step of AdamW with moments in float32 and in 8 bits on a CPU: seconds, and what stays in memory and peaks.

    python benchmarks/optimisers.py [MILLIONS]

The weights are those of a random Llama of about that many millions, with a vocabulary of 32,000 words. Each optimiser
runs in a process of its own, with one thread. "the library's" is bitsandbytes' own optimiser.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 3
WIDTH, WORDS = 768, 32000


def weights(millions: int) -> list[Any]:
    import torch

    layer = [(WIDTH, WIDTH)] * 4 + [(2048, WIDTH)] * 3 + [(WIDTH,)] * 2
    size = sum(torch.Size(shape).numel() for shape in layer)
    shapes = [(WORDS, WIDTH), *layer * max(1, (millions * 10**6 - WORDS * WIDTH) // size)]
    torch.manual_seed(0)
    return [torch.empty(shape).normal_(0, 0.02).requires_grad_() for shape in shapes]


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def measure(name: str, millions: int) -> None:
    import torch

    from prefloop.engine.adamw_8bit import AdamW8bit
    from prefloop.models.without_hub import needs_bitsandbytes

    torch.set_num_threads(1)
    library = needs_bitsandbytes("this benchmark").optim.AdamW8bit  # All load it, so that only the state differs.
    makes: dict[str, Any] = {"adamw": torch.optim.AdamW, "adamw_8bit": AdamW8bit, "the library's": library}
    own = weights(millions)
    optimiser = makes[name](own, lr=1e-4, eps=1e-5, weight_decay=0.0, **({"fused": True} if name == "adamw" else {}))
    for weight in own:
        weight.grad = torch.empty_like(weight).normal_(0, 1e-3)
    before, seconds = resident(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    count = sum(weight.numel() for weight in own) / 1e6
    steps = f"first {seconds[0]:.2f} s, later {min(seconds[1:]):.2f} s"
    print(f"{name:<14} {count:.0f} M weights: {steps}, state {resident() - before:.2f} GB, peak {peak - before:.2f} GB")


def main() -> None:
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name in ("adamw", "adamw_8bit", "the library's"):
        child = os.fork()
        if not child:
            measure(name, millions)
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
