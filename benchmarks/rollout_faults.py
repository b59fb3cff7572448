"""Kills trainer and rollout server at many random moments: `python benchmarks/rollout_faults.py --kills 100`.

Each run of a tiny project goes on after its kills and must end with the weights and the metrics of the quiet run. The
tests make a few kills of this kind; here are as many as one likes, at other moments with another --seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from served_kills import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = main(given.kills, given.seed, Path(folder))
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["same"] else "a run that was killed came to other weights or metrics than the quiet one")
