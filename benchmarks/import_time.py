"""Measures how long `import prefloop` takes, and what it loads, in fresh processes with the files in the page cache.

    python benchmarks/import_time.py

It prints JSON: the median and the best of 20 imports in milliseconds, the same with the class of a project, and whether
torch was loaded.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

TIMES = 20
PROGRAM = """
import sys, time
began = time.perf_counter()
import prefloop
imported = time.perf_counter()
prefloop.Project
print(imported - began, time.perf_counter() - began, 'torch' in sys.modules)
"""


def main() -> None:
    rows = []
    for _ in range(TIMES):
        said = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        ).stdout.split()
        rows.append((float(said[0]), float(said[1]), said[2] == "True"))
    result = {}
    for place, name in enumerate(("import prefloop", "and prefloop.Project")):
        values = [1000 * row[place] for row in rows]
        result[name] = {"median_ms": round(statistics.median(values), 1), "best_ms": round(min(values), 1)}
    print(json.dumps(result | {"torch": any(row[2] for row in rows)}))


if __name__ == "__main__":
    main()
