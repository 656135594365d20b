"""How long does the head motion of a 50-minute recording take to load, and a clip's window of it?

    python benchmarks/imu.py

Writes a recording in each of the layouts that data.read_imu() reads, 594,000 samples at 198 Hz, then reads it. Medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import data

MINUTES, REPEATS = 50, 5


def write(path: Path, header: str, columns: list[np.ndarray]) -> Path:
    np.savetxt(path, np.column_stack(columns), "%.8g", delimiter=",", header=header, comments="")
    return path


def main() -> None:
    rng = np.random.default_rng(0)
    stamps = np.arange(MINUTES * 60 * 198) / 198
    accel, gyro = rng.normal([0, 0, 9.8], 1, (len(stamps), 3)), rng.normal(0, 0.5, (len(stamps), 3))
    print(f"numpy {np.__version__}; {MINUTES} minutes, {len(stamps):,} samples of each sensor, medians of {REPEATS}")
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
            seconds = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                imu = data.read_imu(source)
                seconds.append(time.perf_counter() - began)
            print(f"load {name:<26} {statistics.median(seconds):8.2f} s")
    seconds = []
    for start in rng.uniform(0, 2990, 1000):
        began = time.perf_counter()
        imu.window(float(start))
        seconds.append(time.perf_counter() - began)
    print(f"window of 422 samples           {1000 * statistics.median(seconds):8.3f} ms")


if __name__ == "__main__":
    main()
