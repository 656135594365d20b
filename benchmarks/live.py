"""Measure the two programs of a device, `frame` and `motion`, or with --stream the answers of a `Stream` on them.

    pip install ".[export]"                                  # formats whose packages are missing are left out
    OMP_NUM_THREADS=1 python benchmarks/live.py              # the paper's student, random weights: 200 runs of each
    OMP_NUM_THREADS=1 python benchmarks/live.py --stream     # instead, answers in real time, 100 s per compiled pair
    OMP_NUM_THREADS=1 python benchmarks/live.py --hours 24   # instead, a day of a stream, faster than real time
    OMP_NUM_THREADS=1 python benchmarks/live.py --hours 24 --precisions fp32    # the same on a compiled pair

`frame` takes one picture and `motion` one clip. Eager is a `torch.export` program, whose operators run one by one;
compiled is AOTInductor's. Times are wall-clock times of single runs on one core, so that they include what the machine
does beside them. A load is the median of three, in a process that has loaded another program before.

With --stream, a thread gives samples at 198 Hz in chunks, as a phone does, and a picture whenever the stream asks for
one. The time of an answer is `Answer.delay`: from the arrival of the sample that made it due. The networks' time is
that of the programs, measured in the same run; the rest is waking the thread, resampling, scaling of the picture, and
the softmax. The rows "without a pause" give the same in one thread, as fast as it goes: nothing sleeps or is woken.

--hours feeds the demo's student (random weights) as fast as it can: 200 samples a second, an answer each 0.5 s, and a
picture each 2 s. Memory is that of the process after one hour, and the largest after that. Processor time does not
count other programs on the machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, Output, Stream
from egodistill.commands import demo, options
from egodistill.deploy import export, exported
from egodistill.engine import runtime
from egodistill.support import tables

FORMS = {"eager": "export", "compiled": "aoti"}
WARM_UP, LOADS = 10, 3
CHUNK = 0.05  # seconds of samples that arrive together
PICTURE = (720, 1280, 3)
PERCENTILES = ("p50 (ms)", "p95 (ms)", "p99 (ms)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "checkpoint", nargs="?", help="a trained student with IMU (default: the paper's, random weights)"
    )
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument(
        "--precisions", nargs="+", choices=export.EXPORT_PRECISIONS, help="default: all, bf16 only if it is fast"
    )
    parser.add_argument("--repeats", type=options.positive_int, default=200, help="timed runs of each program")
    parser.add_argument("--stream", action="store_true", help="instead measure the answers of a stream")
    parser.add_argument("--answers", type=options.positive_int, default=200, help="--stream: answers of each pair")
    parser.add_argument("--every", type=float, default=0.5, help="--stream: seconds between answers")
    parser.add_argument("--period", type=float, default=2.0, help="--stream: seconds between pictures")
    parser.add_argument("--hours", type=float, help="only simulate a stream of so many hours")
    tables.markdown_option(parser)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if a.hours:
        table = simulated(a.hours, a.precisions or [])
        section = f"benchmarks/live.py --hours{', compiled' * bool(a.precisions)}"
        tables.report(table, section, a.markdown, sys.argv)
        return
    fast, reason = runtime.bf16_speed(torch.device("cpu"))
    precisions = a.precisions or [name for name in export.EXPORT_PRECISIONS if name != "bf16" or fast]
    print(f"precisions {', '.join(precisions)}: {reason}")
    model = EgoDistill.load(a.checkpoint) if a.checkpoint else EgoDistill(62, image_weights=None).eval()
    machine = f"{tables.short_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(model, Path(folder), ["compiled"] if a.stream else a.forms, precisions)
        if not a.stream:
            rows = [row for (form, path) in pairs for row in program_rows(model, form, path, a.repeats)]
            table = tables.Table(["program", "form", "precision", *PERCENTILES, "MB", "load (s)"], rows)
            tables.report(table, "benchmarks/live.py", a.markdown, sys.argv, machine=machine)
        else:
            rows = [row for _, path in pairs for row in answer_rows(path, a.answers, a.every, a.period)]
            header = ["answers", "precision", "number", *PERCENTILES]
            header += [f"networks {name}" for name in PERCENTILES] + ["stream p50 (ms)", "dropped (%)"]
            tables.report(
                tables.Table(header, rows), "benchmarks/live.py --stream", a.markdown, sys.argv, machine=machine
            )


def write_pairs(model: EgoDistill, folder: Path, forms: list[str], precisions: list[str]) -> list[tuple[str, Path]]:
    """Return form and path of each pair that could be exported, for one picture and one clip."""
    pairs = []
    for form in forms:
        for precision in precisions:
            path = folder / f"{form}-{precision}.pt2"
            try:
                export.export_pair(model, path, format=FORMS[form], precision=precision, batch_size=1)
            except export.ExportError as error:
                print(f"left out {path.stem}: {error}")
            else:
                pairs.append((form, path))
    return pairs


def program_rows(model: EgoDistill, form: str, path: Path, repeats: int) -> list[list[str]]:
    """Return a row for each program of a pair: run time, size and load time."""
    rows = []
    example = export.model_inputs(model, 1)
    for file, part in zip(exported.pair_files(path), (export.FrameProgram, export.MotionProgram), strict=True):
        with torch.no_grad():
            inputs = tuple(x[:1] for x in part.take(model, *example))
        program = exported.Program(file, part.name)
        loads = wall_times(lambda file=file, part=part: exported.Program(file, part.name), LOADS)
        for _ in range(WARM_UP):
            program(*inputs)
        times = wall_times(lambda program=program, inputs=inputs: program(*inputs), repeats)
        size, load = file.stat().st_size / 1e6, statistics.median(loads)
        precision = program.description["precision"]
        rows.append([part.name, form, precision, *percentiles(times), f"{size:.1f}", f"{load:.2f}"])
        print(rows[-1], file=sys.stderr)
    return rows


def wall_times(work: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of `count` runs."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def percentiles(seconds: list[float]) -> list[str]:
    """Return median, 95th and 99th percentile in milliseconds as text."""
    return [f"{1e3 * value:.2f}" for value in np.percentile(seconds, (50, 95, 99))] if seconds else ["-"] * 3


class TimedPair(exported.Pair):
    """A pair that notes for each answer the seconds of its programs, and whether it had a new picture."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers: list[tuple[bool, float]] = []
        self.pictures, self.seconds = 0, 0.0

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        start = time.perf_counter()
        features = super().encode_frames(frames, count)
        self.seconds += time.perf_counter() - start
        self.pictures += 1
        return features

    def fuse(self, image: Tensor, imu: Tensor | None) -> Output:
        start = time.perf_counter()
        output = super().fuse(image, imu)
        self.seconds += time.perf_counter() - start
        self.answers.append((self.pictures > 0, self.seconds))
        self.pictures, self.seconds = 0, 0.0
        return output


def answer_rows(path: Path, count: int, every: float, period: float) -> list[list[str]]:
    """Return rows for the answers with a new picture and for those with head motion alone, in real time and without."""
    pair = TimedPair(path)
    spec = pair.clip_spec
    frames = torch.zeros(1, spec.frames, 3, spec.size, spec.size, dtype=torch.uint8)
    for _ in range(WARM_UP):
        pair(frames, torch.zeros(1, spec.imu_samples, 6))
    rows = []
    for note in ("", ", without a pause"):
        pair.answers.clear()
        with Stream(pair, every=every, frames="newest", period=period) as stream:
            seconds = spec.seconds + count * every
            delays = delays_at_once(stream, seconds) if note else delays_in_real_time(stream, seconds)
            stats = stream.stats
        dropped = f"{100 * stats.dropped / max(stats.due, 1):.2f}"
        for name, new in (("picture and motion", True), ("motion", False)):
            chosen = [k for k, (pictured, _) in enumerate(pair.answers) if pictured == new]
            own = [1e3 * (delays[k] - pair.answers[k][1]) for k in chosen]
            times = (percentiles([delays[k] for k in chosen]), percentiles([pair.answers[k][1] for k in chosen]))
            cells = [*times[0], *times[1], f"{statistics.median(own):.2f}" if own else "-", dropped]
            rows.append([name + note, pair.precision, str(len(chosen)), *cells])
            print(rows[-1], file=sys.stderr)
    return rows


def delays_in_real_time(stream: Stream, seconds: float) -> list[float]:
    """Return the delay of each answer of a stream that another thread feeds in real time."""
    delays: list[float] = []
    feeder = threading.Thread(target=lambda: list(feed(stream, seconds)), daemon=True)
    feeder.start()
    while feeder.is_alive() or stream.stats.pending:
        if stream.wait(0.1):
            delays += [answer.delay for answer in stream.results() if answer.problem is None]
    return delays


def delays_at_once(stream: Stream, seconds: float) -> list[float]:
    """Return the delay of each answer of a stream that this thread feeds as fast as it goes."""
    return [
        answer.delay
        for _ in feed(stream, seconds, pause=False)
        if stream.wait(0)
        for answer in stream.results()
        if answer.problem is None
    ]


def simulated(hours: float, precisions: list[str]) -> tables.Table:
    """Return a table of a long stream on the demo's student, or on compiled pairs of it: time, memory and counters."""
    model: Any = demo.DEMO.recipe.student.build(20, frame_size=demo.DEMO.pixels).eval()
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(model, Path(folder), ["compiled"], precisions)
        models = [(f"compiled, {path.stem.rpartition('-')[2]}", export.load_pair(path)) for _, path in pairs]
        rows = [[name, *long_stream(one, hours)] for name, one in models or [("eager", model)]]
    header = ["student", "hours", "minutes", "processor minutes", "answers", "dropped", "pictures", "MB after an hour"]
    return tables.Table([*header, "largest growth after it (MB)"], rows)


def long_stream(model: Any, hours: float) -> list[str]:
    """Feed a stream faster than real time; return its cells. Raise RuntimeError if its counters do not add up."""
    rng = np.random.default_rng(0)
    readings = rng.normal([0, 0, 9.8, 0, 0, 0], 1, (100, 6))
    pictures = rng.integers(0, 256, (8, *PICTURE), dtype=np.uint8)
    sizes, start, used = [], time.perf_counter(), time.process_time()
    with Stream(model, every=0.5, frames="newest", period=2.0) as stream:
        for half_second in range(round(7200 * hours)):
            times = half_second / 2 + np.arange(100) / 200
            stream.accept_imu(times, readings)
            if stream.wants_frame(now := float(times[-1])):
                stream.accept_frame(now, pictures[half_second % 8])
            stream.results()
            if half_second % 7200 == 7199:
                sizes.append(resident_megabytes())
        s = stream.stats
    minutes, used = ((now - then) / 60 for now, then in ((time.perf_counter(), start), (time.process_time(), used)))
    sums = {
        s.samples: s.used + s.late + s.double + s.invalid + s.held,
        s.frames: s.encoded + s.refused + s.replaced + s.waiting,
        s.due: s.given + s.problems + s.dropped + s.pending,
        s.requests: s.answered + s.given_up + s.outstanding,
    }
    if any(whole != parts for whole, parts in sums.items()):
        raise RuntimeError(f"the counters do not add up: {s}")
    growth = f"{max(sizes) - sizes[0]:+.1f}" if sizes else ""
    cells = [f"{hours:g}", f"{minutes:.1f}", f"{used:.1f}", f"{s.given:,}", f"{s.dropped}", f"{s.encoded:,}"]
    return [*cells, f"{sizes[0]:.0f}" if sizes else "", growth]


def resident_megabytes() -> float:
    """Return the memory of this process. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def feed(stream: Stream, seconds: float, pause: bool = True) -> Iterator[None]:
    """Give a stream samples, in chunks, and the pictures that it asks for; in real time, unless without a pause."""
    rng = np.random.default_rng(0)
    rate = stream.spec.imu_rate
    picture = rng.integers(0, 256, PICTURE, dtype=np.uint8)
    start, done = time.monotonic(), 0
    while done / rate < seconds:
        now = done / rate + CHUNK
        if pause:
            time.sleep(max(0.0, start + now - time.monotonic()))
            now = time.monotonic() - start
        times = np.arange(done, int(now * rate)) / rate
        if len(times):
            if stream.wants_frame(float(times[-1])):
                stream.accept_frame(float(times[-1]), picture)
            stream.accept_imu(times, rng.normal([0, 0, 9.8, 0, 0, 0], 1, (len(times), 6)))
            done += len(times)
        yield


if __name__ == "__main__":
    main()
