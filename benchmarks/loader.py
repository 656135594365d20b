"""How much of a training step waits for the clip store? At the paper's sizes: 224 pixels, ResNet-18, batch 64.

    python benchmarks/loader.py                 # about two minutes on two cores
    python benchmarks/loader.py --clips 2048    # a larger store, less of it in the page cache

A world is rendered and prepared, frames enlarged to 224 pixels; then VisIMU is trained on that store for one epoch and
the loop's own account is printed: the share of the time in which it waited for a batch (aim: under 5 %). Reading alone
is timed too, as clips a second: what a faster device could be fed with. The store was just written and lies in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import EgoDistill, data, distillation, synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = synthetic.render(Path(folder, "world"), train_acts=arguments.clips, test_acts=3)
        segments = data.read_epic_kitchens(world.annotations, world.root)
        store = data.prepare(segments, Path(folder, "store"), ends=False).split("train")
        order, began = np.random.default_rng(1).permutation(len(store)), time.perf_counter()
        for k in range(0, len(store), arguments.batch_size):
            for name in store.names:
                store.read(name, order[k : k + arguments.batch_size])
        reading = len(store) / (time.perf_counter() - began)
        history = distillation.finetune(
            EgoDistill(len(store.class_names), image_weights=None),
            store,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, numpy {np.__version__}, {device}, batch {arguments.batch_size}")
    print(f"reading alone      {reading:10.0f} clips/s")
    print(f"training           {np.median([row['clips_per_second'] for row in history]):10.1f} clips/s")
    print(f"waiting for data   {100 * np.median([row['loader_share'] for row in history]):10.2f} % of the time")


if __name__ == "__main__":
    main()
