"""Measure how long the IMU of a 50-minute recording takes to load, and the window of one clip.

    python benchmarks/imu.py

It writes a recording (594,000 samples at 198 Hz) in each of the layouts that `data.read_imu()` supports, and reads it.
Times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import data
from egodistill.support import tables

MINUTES, REPEATS = 50, 5


def write(path: Path, header: str, columns: list[np.ndarray]) -> Path:
    np.savetxt(path, np.column_stack(columns), "%.8g", delimiter=",", header=header, comments="")
    return path


def median_time(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median run time in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    stamps = np.arange(MINUTES * 60 * 198) / 198
    accel, gyro = rng.normal([0, 0, 9.8], 1, (len(stamps), 3)), rng.normal(0, 0.5, (len(stamps), 3))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        milliseconds = np.round(stamps * 1000, 4)
        pair = (
            write(Path(folder, "accl.csv"), "Milliseconds,AcclX,AcclY,AcclZ", [milliseconds, *accel.T]),
            write(Path(folder, "gyro.csv"), "Milliseconds,GyroX,GyroY,GyroZ", [milliseconds, *gyro.T]),
        )
        ego4d = "component_idx,component_timestamp_ms,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"
        single = write(
            Path(folder, "e.csv"), ego4d, [np.zeros(len(stamps)), milliseconds, milliseconds, *gyro.T, *accel.T]
        )
        for name, source in (("EPIC-KITCHENS, two files", pair), ("Ego4D, one file", single)):
            rows.append([f"load {name}", f"{1000 * median_time(lambda source=source: data.read_imu(source)):.0f}"])
        imu, starts = data.read_imu(pair), iter(rng.uniform(0, 60 * MINUTES - 10, 1000).tolist())
    rows.append(["window of 422 samples", f"{1000 * median_time(lambda: imu.window(next(starts)), 1000):.3f}"])
    print(f"{MINUTES} minutes, {len(stamps):,} samples of each sensor; numpy {np.__version__}")
    table = tables.Table(["step", "ms"], rows)
    tables.report(table, "benchmarks/imu.py", arguments.markdown, sys.argv)


if __name__ == "__main__":
    main()
