"""How much of a training step waits for the clip store? At the paper's sizes: 224 pixels, ResNet-18, batch 64.

    python benchmarks/loader.py                 # a minute or two on two cores
    python benchmarks/loader.py --clips 2048    # a larger store, less of it in the page cache

A store of random frames and head motion is written as `prepare()` lays it out; then VisIMU is trained on it for one
epoch and the loop's own account is printed: the share of the time in which it waited for a batch (aim: under 5 %).
Reading alone is timed too, as clips a second: what a faster device could be fed with.
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

import egodistill
from egodistill import EgoDistill


class RandomStore:
    """The reading face of data.ClipStore over memory-mapped files of random numbers."""

    class_names = ("open", "close")

    def __init__(self, folder: Path, clips: int) -> None:
        rng = np.random.default_rng(0)
        shapes = {"frames_1": ((1, 3, 224, 224), np.uint8), "imu": ((egodistill.IMU_SAMPLES, 6), np.float32)}
        self.arrays = {}
        for name, (shape, dtype) in shapes.items():
            array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (clips, *shape))
            for row in array:
                row[...] = rng.integers(0, 256, shape)
            array.flush()
            self.arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.names, self.labels, self.segments = list(shapes), np.arange(clips) % 2, np.arange(clips)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, name: str, index: np.ndarray) -> np.ndarray:
        return np.array(self.arrays[name][index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RandomStore(Path(folder), arguments.clips)
        order, began = np.random.default_rng(1).permutation(len(store)), time.perf_counter()
        for k in range(0, len(store), arguments.batch_size):
            for name in store.names:
                store.read(name, order[k : k + arguments.batch_size])
        reading = len(store) / (time.perf_counter() - began)
        history = egodistill.finetune(
            EgoDistill(2, image_weights=None), store, epochs=arguments.epochs, batch_size=arguments.batch_size,
            precision=arguments.precision,
        )  # fmt: skip
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, numpy {np.__version__}, {device}, batch {arguments.batch_size}")
    print(f"reading alone      {reading:10.0f} clips/s")
    print(f"training           {np.median([row['clips_per_second'] for row in history]):10.1f} clips/s")
    print(f"waiting for data   {100 * np.median([row['loader_share'] for row in history]):10.2f} % of the time")


if __name__ == "__main__":
    main()
