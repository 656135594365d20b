"""Measure how long a training step waits for the clip store, at the paper's size: 224 pixels, ResNet-18, batch 64.

    python benchmarks/loader.py                 # about two minutes on two cores
    python benchmarks/loader.py --clips 2048    # a larger store, less of which is in the page cache

It renders and prepares a world with frames of 224 pixels, trains VisIMU on the store for one epoch, and prints the
share of the time in which the training loop waited for a batch (aim: less than 5 %). Reading alone is timed as well, in
clips per second: the limit for a faster device. The store was just written, so it is in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, data, distillation
from egodistill.support import tables
from egodistill.world import synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = synthetic.render(Path(folder, "world"), train_acts=arguments.clips, test_acts=3)
        segments = data.read_epic_kitchens(world.annotations, world.root)
        store = data.prepare(segments, Path(folder, "store"), ends=False).split("train")
        order, start = np.random.default_rng(1).permutation(len(store)), time.perf_counter()
        for k in range(0, len(store), arguments.batch_size):
            for name in store.names:
                store.read(name, order[k : k + arguments.batch_size])
        reading = len(store) / (time.perf_counter() - start)
        history = distillation.finetune(
            EgoDistill(len(store.class_names), image_weights=None),
            store,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
        )
    training, waiting = (np.median([row[name] for row in history]) for name in ("clips_per_second", "loader_share"))
    rows = [
        ["reading alone, clips per second", f"{reading:.0f}"],
        ["training, clips per second", f"{training:.1f}"],
        ["waiting for data, % of the time", f"{100 * waiting:.2f}"],
    ]
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    tables.report(
        tables.Table(["step", "value"], rows), "benchmarks/loader.py", arguments.markdown, sys.argv, machine=machine
    )


if __name__ == "__main__":
    main()
