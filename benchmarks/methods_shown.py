"""Means over seeds of what `methods.py` measured: the table, the published comparisons, and the picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prefloop.intervals import mean_interval
from prefloop.known_algorithms import has_critic, is_offline
from prefloop.report.charts import INK, SERIES, chart, document, label

BEST_OF = "best_of_n"
VARIANTS = {"rloo_k2": ("rloo", 2)}  # the published comparison of k = 4 with k = 2: {name: (algorithm, k)}
NAMES = {"judge": "true quality", "reward": "held-out reward"}
RULES = "attributes as asked"  # what examples/e2e_checker.py counts, which nothing learns from
SLOWER = 1.1  # A method may take so many times the CPU time of its parts.


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}-*/methods/*.json"))]


def figures(row: dict[str, Any], base: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Return what a method came to: of one that left the policy as it was, what the policy was."""
    if "policy" in row:
        return dict(row["policy"])
    start = base[row["seed"]]["curve"][0]
    return {"kl": 0.0, "reward": start["reward"], "judge": start["judge"]}


def over_seeds(values: Sequence[float]) -> dict[str, float] | None:
    """Return mean and 95 % interval over seeds, by Student's t where there are few."""
    if not values:
        return None
    if len(values) == 1:
        return {"mean": values[0], "low": values[0], "high": values[0], "n": 1}
    found = mean_interval(values, 2000, 0)
    return {name: found[name] for name in ("mean", "low", "high", "n")}


def commits(found: Sequence[dict[str, Any]]) -> str:
    """Say which code the rows are of."""
    known = sorted({str(row["commit"])[:9] for row in found})
    kind = "commit " if len(known) == 1 else "commits "
    return kind + ", ".join(f"`{commit}`" for commit in known)


def summarise(found: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    """Return means over seeds of every method, and the comparisons that were published, as they fall here."""
    base = {row["seed"]: row for row in found if row["method"] == BEST_OF}
    by_method: dict[str, dict[int, dict[str, Any]]] = {}
    for row in found:
        by_method.setdefault(row["method"], {})[row["seed"]] = row
    table = {}
    for method, seeds in by_method.items():
        if method == BEST_OF:
            continue
        made = [figures(row, base) for row in seeds.values()]
        algorithm = VARIANTS.get(method, (method, 0))[0]
        part = "dpo" if is_offline(algorithm) else "" if has_critic(algorithm) else "grpo"
        whole = {seed: row["cpu_s"] for seed, row in seeds.items() if not row["resumed"]}
        of_part = {seed: row["cpu_s"] for seed, row in by_method.get(part, {}).items() if not row["resumed"]}
        ratios = [whole[seed] / of_part[seed] for seed in whole.keys() & of_part.keys()]
        table[method] = {
            "judge": over_seeds([m["judge"] for m in made]),
            "reward": over_seeds([m["reward"] for m in made]),
            "kl": over_seeds([m["kl"] for m in made]),
            "seeds": sorted(seeds),
            "unchanged": sum("policy" not in row for row in seeds.values()),
            "collapsed": sum(bool(row.get("collapsed")) for row in seeds.values()),
            "completions": fmean(row["completions"] for row in seeds.values()),
            "cpu_s": fmean(whole.values()) if whole else None,
            "peak_mib": max(row["peak_mib"] for row in seeds.values()),
            "cpu_of_part": {"part": part, "ratio": fmean(ratios)} if ratios else None,
        }
    return {"table": table, "best_of": _best_curve(list(base.values())),
            "comparisons": list(comparisons(by_method, base, figure))}  # fmt: skip


def _best_curve(base: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = zip(*(row["curve"] for row in base), strict=True)
    return [
        {"n": at[0]["n"], "kl": fmean(a["kl"] for a in at)}
        | {name: over_seeds([a[name] for a in at]) for name in ("judge", "reward")}
        for at in columns
    ]


def comparisons(by_method: dict[str, dict[int, Any]], base: dict[int, Any], figure: str) -> Iterator[dict[str, Any]]:
    """Yield paired differences over seeds, with the direction that was published."""

    def gap(ours: str, theirs: str) -> list[float]:
        a, b = by_method.get(ours, {}), by_method.get(theirs, {})
        both = sorted(a.keys() & b.keys())
        return [figures(a[s], base)[figure] - figures(b[s], base)[figure] for s in both]

    yield _verdict("rloo (k = 4) against k = 2", gap("rloo", "rloo_k2"), "k = 4 better (Ahmadian 2024, TL;DR)")
    yield _verdict("ppo against dpo", gap("ppo", "dpo"), "about equal, either way by the task (Rafailov, Ahmadian)")
    yield _verdict("rloo against ppo", gap("rloo", "ppo"), "rloo better (Ahmadian 2024)")
    for method in sorted(by_method.keys() - {BEST_OF}):
        at_equal = []
        for seed, row in by_method[method].items():
            made = figures(row, base)
            if seed in base and 0 < made["kl"] <= base[seed]["curve"][-1]["kl"]:
                x, y = ([at[n] for at in base[seed]["curve"]] for n in ("kl", figure))
                at_equal.append(made[figure] - float(np.interp(made["kl"], x, y)))
        if at_equal:
            yield _verdict(f"{method} against best-of-n at equal KL", at_equal, "best-of-n better (Gao 2022)")


def _verdict(what: str, gaps: Sequence[float], published: str) -> dict[str, Any]:
    found = over_seeds(gaps)
    return {"what": what, "gap": found, "published": published}


def tables(summary: dict[str, Any], figure: str) -> str:
    """Return the tables in Markdown."""
    shown = {figure: NAMES[figure]} | ({"judge": RULES} if figure != "judge" else {})
    lines = [
        f"| method | {' | '.join(shown.values())} | KL, nats | CPU s | to its part | peak MiB | seeds |",
        "|---" * (len(shown) + 6) + "|",
    ]
    for at in summary["best_of"]:
        came_to = " | ".join(_interval(at[name]) for name in shown)
        lines.append(f"| best of {at['n']} | {came_to} | {at['kl']:.2f} | | | | {at[figure]['n']} |")
    for method, m in sorted(summary["table"].items(), key=lambda pair: -pair[1][figure]["mean"]):
        part = m["cpu_of_part"]
        slow = f"{part['ratio']:.2f} of {part['part']}{', SLOWER' * (part['ratio'] > SLOWER)}" if part else ""
        notes = "".join(f", {m[n]} {n}" for n in ("unchanged", "collapsed") if m[n])
        came_to = " | ".join(_interval(m[name]) for name in shown)
        time = "" if m["cpu_s"] is None else f"{m['cpu_s']:.0f}"
        cost = f"{time} | {slow} | {m['peak_mib']:.0f}"
        lines.append(f"| `{method}` | {came_to} | {_interval(m['kl'], 1)} | {cost} | {len(m['seeds'])}{notes} |")
    made = [c for c in summary["comparisons"] if c["gap"]]
    lines += ["", "| comparison | difference | published |", "|---|---|---|"] if made else []
    for c in made:
        lines.append(f"| {c['what']} | {_interval(c['gap'], 3, '+')} (n = {c['gap']['n']}) | {c['published']} |")
    return "\n".join(lines)


def write_page(path: Path, world: str, text: str) -> None:
    """Put the tables of a world between its marks in a page."""
    begin, end = f"<!-- {world}: made by benchmarks/methods.py -->", f"<!-- end of {world} -->"
    page = path.read_text(encoding="utf-8")
    before, after = page.split(begin)[0], page.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _interval(m: dict[str, float], digits: int = 3, sign: str = "") -> str:
    form = f"{sign}.{digits}f"
    return f"{m['mean']:{form}}" + (f" [{m['low']:{form}}, {m['high']:{form}}]" if m["n"] > 1 else "")


def draw(summary: dict[str, Any], figure: str, name: str) -> str:
    """Return the picture: what each method came to against its KL, and the curve of best-of-n."""

    def on(axes: Any) -> None:
        best = summary["best_of"]
        axes.plot(
            [at["kl"] for at in best], [at[figure]["mean"] for at in best], color=INK, marker=".", label="best of n"
        )
        for method, m in sorted(summary["table"].items(), key=lambda pair: pair[1][figure]["mean"]):
            offline = is_offline(VARIANTS.get(method, (method, 0))[0])
            x, y, colour = m["kl"], m[figure], SERIES[1] if offline else SERIES[0]
            axes.plot((x["low"], x["high"]), (y["mean"], y["mean"]), color=colour, linewidth=0.8, alpha=0.5)
            axes.plot((x["mean"], x["mean"]), (y["low"], y["high"]), color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(x["mean"], y["mean"], color=colour, marker="s" if offline else "o", linestyle="none", zorder=3)
        for colour, marker, text in ((SERIES[0], "o", "online"), (SERIES[1], "s", "offline")):
            axes.plot([], [], color=colour, marker=marker, linestyle="none", label=text)
        far = max([at["kl"] for at in best] + [m["kl"]["high"] for m in summary["table"].values()])
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        ticks = [x for x in (0, 0.25, 1, 2, 4, 8, 16, 32, 64, 128) if x <= far]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_xlim(0, 1.15 * far)
        axes.legend(loc="lower center")
        points = {method: (m["kl"]["mean"], m[figure]["mean"]) for method, m in summary["table"].items()}
        seen = [y for _, y in points.values()] + [at[figure]["mean"] for at in best]
        span = max(seen) - min(seen)
        axes.set_ylim(min(seen) - 0.1 * span, max(seen) + 0.15 * span)  # Wide intervals of few seeds are cut.
        _name_beside(axes, points)
        label(
            axes,
            f"Every method under an equal budget: {name}",
            "KL from the reference, nats (root scale)",
            NAMES[figure],
        )

    alt = "; ".join(f"{n}: {m[figure]['mean']:.3f} at {m['kl']['mean']:.1f} nats" for n, m in summary["table"].items())
    return document(chart("methods", alt, on, 9.2, 5.6))


def _name_beside(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names of points in a column on the right, the highest first, each with a line to its point."""
    by_height = sorted(points.items(), key=lambda pair: -pair[1][1])
    for (name, point), place in zip(by_height, np.linspace(1, 0, len(by_height)), strict=True):
        axes.annotate(
            name,
            point,
            xytext=(1.02, place),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.3, "alpha": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
