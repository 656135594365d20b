"""Measure how long a training step waits for the clip store, at the paper's size: 224 pixels, ResNet-18, batch 64.

    python benchmarks/loader.py                 # about two minutes on two cores
    python benchmarks/loader.py --clips 2048    # a larger store, less of which is in the page cache

It renders and prepares a world with frames of 224 pixels, trains VisIMU on the store for one epoch, and prints the
share of the time in which the training loop waited for a batch (aim: less than 5 %). Reading frames alone is timed as
well, in clips per second of the reading thread's processor time (medians of eleven rounds): the limit for a faster
device. The first reading of a clip compares its checksum. The store was just written, so it is in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import thread_time

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, batches, data, distillation
from egodistill.support import tables
from egodistill.world import synthetic


def reading_rate(store: data.ClipStore, size: int) -> float:
    """Return how many clips the reading thread can read in a second of its processor time."""
    times, device = [0.0], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = torch.randperm(len(store), generator=torch.Generator().manual_seed(1))
    for _ in batches.read_batches(
        store, ["frames_1"], rows, size, device, change=lambda _: times.append(thread_time())
    ):
        pass
    return len(store) / times[-1]


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
        rates = []
        for _ in range(11):
            again = data.ClipStore(store.path).split("train")
            rates.append([reading_rate(again, arguments.batch_size) for _ in range(2)])
        first, later = np.median(rates, 0)
        history = distillation.finetune(
            EgoDistill(len(store.class_names), image_weights=None),
            store,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            precision=arguments.precision,
        )
    training, waiting = (np.median([row[name] for row in history]) for name in ("clips_per_second", "loader_share"))
    rows = [
        ["reading frames for the first time, clips per second", f"{first:.0f}"],
        ["reading frames later, clips per second", f"{later:.0f}"],
        ["training, clips per second", f"{training:.1f}"],
        ["waiting for data, % of the time", f"{100 * waiting:.2f}"],
    ]
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    tables.report(
        tables.Table(["step", "value"], rows), "benchmarks/loader.py", arguments.markdown, sys.argv, machine=machine
    )


if __name__ == "__main__":
    main()
