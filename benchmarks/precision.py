"""What bf16 changes in trained networks: top-1 in fp32 and in bf16, and the share of segments with the same label.

    python benchmarks/precision.py egodistill-demo/store egodistill-demo     # all networks of a demo and its `compare`

Looks at every file of weights below the second folder that classifies clips (ablations and stage 1 are left out).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import checkpoints, data, evaluate, video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", help="clip store with a split test")
    parser.add_argument("folder", help="where `demo` or `compare` put their networks")
    arguments = parser.parse_args()
    test = data.ClipStore(arguments.store).split("test")
    choices = tuple(f"-{name}" for name in video.SAMPLING)
    moved, kept = [], []
    for file in sorted(Path(arguments.folder).glob("seed-*/*.pt")):
        if file.stem.startswith(("stage-1", "start")) or "-without-" in file.stem or file.stem.endswith(choices):
            continue
        model = checkpoints.load_model(file)
        exact, fast = (evaluate(model, test, precision=name, progress=False) for name in ("fp32", "bf16"))
        moved.append(100 * abs(fast.top1 - exact.top1))
        kept.append(100 * float((fast.scores.argmax(1) == exact.scores.argmax(1)).float().mean()))
        name = f"{file.parent.name}/{file.stem}"
        print(f"{name:40} fp32 {100 * exact.top1:.2f}  bf16 {100 * fast.top1:.2f}  same {kept[-1]:.1f} %", flush=True)
    print(f"{len(moved)} networks: top-1 moves by {max(moved):.2f} points at most, {min(kept):.1f} % of labels stay")


if __name__ == "__main__":
    main()
