"""Measure what a table and an unchanged store cost, however many clips they have.

    python benchmarks/store_scale.py                            # 10,000 clips: a quarter of a minute
    python benchmarks/store_scale.py --clips 100000             # two minutes
    python benchmarks/store_scale.py --clips 6200000 --read     # the table of a thousand hours, four minutes
    python benchmarks/store_scale.py --parts 2 --of VIDEOS      # a folder of videos: the whole, and its parts at once

It writes a table with 64 clips for each recording of head motion, reads it, and prepares its store: at first, again
with nothing changed, and with one label changed. Times are processor time of one process; with --parts, wall-clock time
of processes with one worker each, which need a core each, medians of three rounds. Give some minutes of video.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import data
from egodistill.support import tables

CLIPS, SECONDS, RATE = 64, 2.2, 25  # of a recording; of a clip; Hz
FRAMES = "--no-imu --stride 0.1 --num-frames 16 --frame-size 48"  # for --parts: much to decode, little to write
HEADER = "component_idx,component_timestamp_ms,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"


def write_table(folder: Path, clips: int, *, samples: bool = True) -> Path:
    """Write a table of clips, with recordings that differ in their first sample; without `samples`, of empty files."""
    count = int(CLIPS * SECONDS * RATE) + 1
    times = [1000 * k // RATE for k in range(count)] if samples else []
    moves = "".join(f"\n0,{time},{time},0.1,0.2,0.3,0.5,1.0,9.8" for time in times)
    with open(folder / "segments.csv", "w", encoding="utf-8") as table:
        table.write("video,imu,start,stop,label,split\n")
        for number in range(clips):
            recording, place = divmod(number, CLIPS)
            if place == 0:
                (folder / f"{recording}.csv").write_text(HEADER + moves.replace("0.1", f"0.{recording}1", 1))
            start, split = SECONDS * place, "test" if recording % 4 == 3 else "train"
            table.write(f",{recording}.csv,{start:.3f},{start + SECONDS - 0.1:.3f},class {number % 97},{split}\n")
    return folder / "segments.csv"


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of a function in seconds, and what it returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def report_parts(videos: str, folder: Path, count: int, markdown: str | None) -> None:
    """Print how long the command takes for the whole store, and for its parts at once."""
    command = [sys.executable, "-m", "egodistill", "prepare", videos, *FRAMES.split(), "--workers", "1"]
    quiet: Any = {"env": os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}, "stdout": subprocess.DEVNULL}
    quiet["stderr"] = subprocess.DEVNULL
    shares = {"the whole": [[]], f"{count} parts at once": [["--part", f"{k + 1}/{count}"] for k in range(count)]}
    seconds: dict[str, list[float]] = {name: [] for name in shares}
    for number in range(3):
        for name, parts in shares.items():
            start, store = time.perf_counter(), ["--out", folder / f"{name} {number}"]
            running = [subprocess.Popen([*command, *store, *part], **quiet) for part in parts]
            if any(code for code in [process.wait() for process in running]):
                raise SystemExit(f"{name}: a process has failed")
            seconds[name].append(time.perf_counter() - start)
    whole, parts = map(statistics.median, seconds.values())
    rows = [[name, f"{statistics.median(found):.2f}"] for name, found in seconds.items()] + [
        ["times as fast", f"{whole / parts:.2f}"]
    ]
    tables.report(tables.Table(["prepare", "s"], rows), "benchmarks/store_scale.py", markdown, sys.argv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--read", action="store_true", help="only read the table")
    parser.add_argument("--parts", type=int, help="time this many parts instead, with --of")
    parser.add_argument("--of", metavar="FOLDER", help="videos for --parts")
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    seconds = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes about the table, and what is edited
        if arguments.parts:
            report_parts(arguments.of, Path(folder), arguments.parts, arguments.markdown)
            return
        table = write_table(Path(folder), arguments.clips, samples=not arguments.read)
        seconds["read_csv()"], segments = timed(lambda: data.read_csv(table))
        if not arguments.read:
            first = dataclasses.replace(segments[0], label=segments[1].label)
            prepare = functools.partial(
                data.prepare, num_frames=[], ends=False, imu_rate=2.0, workers=1, progress=False
            )
            edited = data.SegmentList([first, *segments[1:]], origin=segments.origin)
            for step, rows in (("the first", segments), ("again", segments), ("one label changed", edited)):
                seconds[f"prepare(), {step}"], _ = timed(functools.partial(prepare, rows, Path(folder, "store")))
    rows = [[step, f"{found:.2f}", f"{1e6 * found / arguments.clips:.1f}"] for step, found in seconds.items()]
    header = [f"step, {tables.pluralize(arguments.clips, 'clip')}", "s", "µs a clip"]
    tables.report(tables.Table(header, rows), "benchmarks/store_scale.py", arguments.markdown, sys.argv)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(f"{tables.processor()}, at most {memory:,.0f} MB")


if __name__ == "__main__":
    main()
