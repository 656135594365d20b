"""Compare trained networks in fp32 and bf16: top-1 accuracy, and the share of segments with the same label.

    python benchmarks/precision.py lab-demo/store lab-demo     # all networks of `python -m lab demo` and `compare`

It evaluates all networks below the second folder that classify clips, except ablations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import data, evaluate, video
from egodistill.engine import models
from egodistill.support import tables
from lab import benches  # noqa: F401, the classes of all networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", help="folder of a clip store with the split test")
    parser.add_argument("folder", help="output folder of `python -m lab demo` or `compare`")
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    test = data.ClipStore(arguments.store).split("test")
    choices = tuple(f"-{name}" for name in video.SAMPLING)
    rows, changes, shares = [], [], []
    for file in sorted(Path(arguments.folder).glob("seed-*/*.safetensors")):
        if file.stem.startswith(("stage-1", "start")) or "-without-" in file.stem or file.stem.endswith(choices):
            continue
        model = models.load_any(file)
        exact, fast = (evaluate(model, test, precision=name, progress=False) for name in ("fp32", "bf16"))
        same = float((fast.scores.argmax(1) == exact.scores.argmax(1)).float().mean())
        changes.append(100 * abs(fast.top1 - exact.top1))
        shares.append(100 * same)
        values = (100 * exact.top1, 100 * fast.top1, 100 * same)
        rows.append([f"{file.parent.name}/{file.stem}", *(f"{value:.2f}" for value in values)])
        print(rows[-1][0], file=sys.stderr)
    table = tables.Table(["network", "fp32 top-1 (%)", "bf16 top-1 (%)", "equal labels (%)"], rows)
    tables.report(table, "benchmarks/precision.py", arguments.markdown, sys.argv)
    print(f"{len(rows)} networks: top-1 changes by at most {max(changes):.2f} points, {min(shares):.1f} % equal labels")


if __name__ == "__main__":
    main()
