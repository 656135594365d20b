"""Simulate a camera that sleeps, is slow to start and loses pictures, and count the answers without a frame.

    python benchmarks/sleeping_camera.py                     # 1 s of start-up, 5 % lost, five wearers of ten minutes
    python benchmarks/sleeping_camera.py --delay 0.3 --lost 0.1

The head motion is that of wearers of the rendered world who go about between actions, or of a still head. Samples come
in chunks of 50 ms, and the camera is asked after each. A picture that is not lost comes `--delay` after its request.
The stream has an answer every 0.5 s, frames of at most 4 s (its defaults), and is given the delay as `camera_delay`.
The first answers, before any picture can have come, count, too. The student is tiny: which classes it gives does not
matter here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, Stream
from egodistill.commands import options
from egodistill.deploy import feeds, gates
from egodistill.imu import Imu
from egodistill.support import tables
from egodistill.world import synthetic

CHUNK = 0.05  # seconds of samples that come together
ACTIONS = 27  # of a wearer in two minutes
# {name: the options of the stream}
WAYS: dict[str, dict[str, Any]] = {
    "`Moved` (default)": {},
    "`Turned(0.6)`": {"gate": gates.Turned(0.6)},
    "period of 2 s": {"period": 2.0},
    "period of 3 s": {"period": 3.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--delay", type=float, default=1.0, help="seconds from a request to its picture")
    parser.add_argument("--lost", type=float, default=0.05, help="share of pictures that never come")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of a recording")
    parser.add_argument("--seeds", type=options.positive_int, default=5, help="wearers, each with losses of its own")
    tables.markdown_option(parser)
    a = parser.parse_args()
    model, rows = tiny_student(), []
    for name, way in WAYS.items():
        for head, motion in (("wearers", wearer), ("still", still)):
            runs = [run(model, motion(60 * a.minutes, seed), a.delay, a.lost, seed, **way) for seed in range(a.seeds)]
            rows.append([name, head, *cells(runs)])
            print(rows[-1], file=sys.stderr)
    header = ["request by", "head", "answers", "without a frame (%)", "worst seed (%)", "requests a minute"]
    tables.report(tables.Table([*header, "camera on (%)"], rows), "benchmarks/sleeping_camera.py", a.markdown, sys.argv)


def tiny_student() -> EgoDistill:
    """Return a student that costs next to nothing."""
    sizes: dict[str, Any] = {"feature_dim": 8, "image_encoder": "resnet10x4", "frame_size": 32, "hidden": 16}
    return EgoDistill(4, image_weights=None, imu_width=4, **sizes).eval()


def wearer(seconds: float, seed: int) -> Imu:
    """Return the head motion of a wearer of the rendered world, without rendering."""
    acts = int(np.ceil(seconds / 120 + 1)) * ACTIONS
    plan = synthetic.RenderedRecording(f"P{seed + 1:02d}_201", acts, 0, untrimmed=True).draw()
    (accel_time, accel), (gyro_time, gyro) = plan.head.readings(
        min(seconds, plan.duration), np.random.default_rng(seed)
    )
    return Imu(accel_time, accel, gyro_time, gyro)


def still(seconds: float, seed: int) -> Imu:
    """Return the readings of a head that does not move."""
    times = np.arange(0, seconds, 1 / 200)
    readings = np.random.default_rng(seed).normal([0, 0, 9.8, 0, 0, 0], 0.02, (len(times), 6))
    return Imu(times, readings[:, :3], times, readings[:, 3:])


def run(model: Any, motion: Imu, delay: float, lost: float, seed: int, **way: Any) -> dict[str, float]:
    """Return what a stream did with a recording and the pictures that it requested."""
    rng, pictures = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    coming: list[float] = []
    without, now = 0, 0.0
    with Stream(model, frames="newest", camera_delay=delay, precision="fp32", **way) as stream:
        for times, readings in feeds.recorded_samples(motion, CHUNK):
            now = float(times[-1])
            for moment in arrived(coming, now):
                stream.accept_frame(moment, pictures.integers(0, 256, (32, 32, 3), np.uint8))
            stream.accept_imu(times, readings)
            without += sum(not answer.frame_age for answer in stream.results())
            if stream.wants_frame(now) and rng.random() >= lost:
                coming.append(now + delay)
        stats = stream.stats
    return {
        "answers": stats.due,
        "without": without,
        "requests": stats.requests,
        "on": stats.camera_on,
        "seconds": now,
    }


def arrived(coming: list[float], now: float) -> Iterable[float]:
    """Take the times that have come from a list in order of time, and yield them."""
    while coming and coming[0] <= now:
        yield coming.pop(0)


def cells(runs: list[dict[str, float]]) -> list[str]:
    """Return the cells of a row: sums over runs, and means of shares."""
    without = [100 * run["without"] / run["answers"] for run in runs]
    minutes = sum(run["seconds"] for run in runs) / 60
    return [
        f"{sum(run['answers'] for run in runs):,}",
        f"{statistics.mean(without):.1f}",
        f"{max(without):.1f}",
        f"{sum(run['requests'] for run in runs) / minutes:.1f}",
        f"{100 * sum(run['on'] for run in runs) / (60 * minutes):.0f}",
    ]


if __name__ == "__main__":
    main()
