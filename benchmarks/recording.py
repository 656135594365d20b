"""Measure the time from a 50-minute recording to labels: the teacher that sees all of it, and the student.

    python benchmarks/recording.py                               # twenty minutes on two cores
    python benchmarks/recording.py --minutes 2 --teacher-seconds 5 --num-frames 1     # to try it

The recording is 1080p at 30 fps, H.264 with a key frame every second, as phones write it, with a table of its IMU. It
is one rendered piece of `--piece-seconds` whose packets are repeated, so that it takes minutes to make; every
repetition is the same work for a decoder. The working copy (`recordings.transcode` of the piece) is repeated in the
same way. Both networks have random weights and the paper's size.

Student: `predict()`, which decodes the next clips while the model works on these. The columns "decoding alone" and
"model alone" are the time of each part by itself, measured on a tenth of the recording and extrapolated. Both use all
cores, so on few cores the total is nearly their sum, and the larger one is the bottleneck. Teacher: 16 of the 64 frames
of each clip through MotionFormer, as released and in this library's form, measured on the first `--teacher-seconds` and
extrapolated. Memory is the peak of a process that only predicts, on the whole recording and on a tenth of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, batches, data, predict, recordings, tables, teachers

WIDTH, HEIGHT, RATE = 1920, 1080, 30


def render(path: Path, seconds: float) -> None:
    """Render a textured wall, with a shaking camera and sensor noise."""
    rng = np.random.default_rng(0)
    margin = 240
    small = rng.integers(0, 256, (1 + (HEIGHT + margin) // 24, 1 + (WIDTH + margin) // 24, 3), np.uint8)
    wall = small.repeat(24, 0).repeat(24, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "g": str(RATE), "bf": "0", "sc_threshold": "0"}
        for k in range(round(seconds * RATE)):
            x, y = (round(margin / 2 * (1 + np.sin(0.11 * k * speed))) for speed in (1.0, 0.7))
            grain = rng.integers(0, 6, (HEIGHT // 4, WIDTH // 4, 1), np.uint8).repeat(4, 0).repeat(4, 1)
            picture = np.ascontiguousarray(wall[y : y + HEIGHT, x : x + WIDTH] // 2 + 60 + grain)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def repeat(piece: Path, out: Path, times: int) -> None:
    """Write a video that repeats the packets of a piece."""
    with av.open(str(piece)) as first:
        source = first.streams.video[0]
        packets = [packet for packet in first.demux(source) if packet.dts is not None]
        length = round(Fraction(source.frames, RATE) / source.time_base)
        with av.open(str(out), "w") as container:
            stream = container.add_stream_from_template(source)
            stamps = [(packet.pts, packet.dts) for packet in packets]
            for k in range(times):
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.stream, packet.pts, packet.dts = stream, pts + k * length, dts + k * length
                    packet.time_base = source.time_base
                    container.mux(packet)


def write_imu(path: Path, seconds: float) -> None:
    time_ = np.arange(0, seconds, 1 / 198)
    values = np.random.default_rng(1).normal(0, 0.3, (len(time_), 6))
    values[:, 2] += 9.8
    header = "time,ax,ay,az,gx,gy,gz"
    np.savetxt(path, np.column_stack([time_, values]), fmt="%.5f", delimiter=",", header=header, comments="")


def timed(work) -> float:
    """Return the run time in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def predict_all(student: EgoDistill, video: Path, imu: Path, exact: bool, precision: str) -> int:
    return sum(1 for clip in predict(student, video, imu, exact=exact, precision=precision) if clip.classes)


def decode(student: EgoDistill, video: Path, minutes: float, exact: bool) -> None:
    """Decode the frames of all clips, in the groups of `predict()`."""
    starts = np.arange(0, minutes * 60 - student.clip_seconds, student.clip_seconds)
    for k in range(0, len(starts), 16):
        times = [t for start in starts[k : k + 16] for t in data.clip_times(start, student.num_frames)]
        data.read_frames(video, times, size=student.frame_size, exact=exact)


@torch.inference_mode()
def run_student(student: EgoDistill, clips: int, precision: str) -> None:
    batch = batches.example_inputs(student, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(-(-clips // 16)):
            student(*batch)


@torch.inference_mode()
def run_teacher(teacher: teachers.Teacher, video: Path, seconds: float) -> None:
    """Run the teacher on all clips of the first seconds, four clips at a time."""
    starts = np.arange(0, seconds - data.CLIP_SECONDS + 1e-6, data.CLIP_SECONDS)
    for k in range(0, len(starts), 4):
        part = starts[k : k + 4]
        times = [t for start in part for t in data.clip_times(start, 16)]
        frames = torch.from_numpy(data.read_frames(video, times, size=224, crop=True))
        teacher(frames.unflatten(0, (len(part), 16)))


def peak_memory(video: Path, imu: Path) -> float:
    """Return the peak memory in MB of a process that classifies a recording."""
    command = [sys.executable, __file__, "--one", json.dumps([str(video), str(imu)])]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--piece-seconds", type=int, default=20)
    parser.add_argument("--teacher-seconds", type=float, default=20)
    parser.add_argument("--num-frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the student")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the files of a child process, as JSON
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    if arguments.one:
        video, imu = json.loads(arguments.one)
        predict_all(EgoDistill(8, image_weights=None), Path(video), Path(imu), True, "fp32")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
        return

    print(f"{arguments.minutes:g} minutes of 1080p30, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        piece, small, imu = (Path(folder, name) for name in ("piece.mp4", "small.mp4", "imu.csv"))
        times = max(1, round(arguments.minutes * 60 / arguments.piece_seconds))
        minutes = times * arguments.piece_seconds / 60
        render(piece, arguments.piece_seconds)
        copying = timed(lambda: recordings.transcode(piece, small)) * times
        whole, copy, tenth = (Path(folder, name) for name in ("whole.mp4", "copy.mp4", "tenth.mp4"))
        repeat(piece, whole, times)
        repeat(small, copy, times)
        repeat(piece, tenth, max(1, times // 10))
        write_imu(imu, minutes * 60)
        sizes = [f"{file.stat().st_size / 1e6:.0f} MB" for file in (whole, copy)]
        print(f"recording {sizes[0]}, working copy {sizes[1]} (made once, in {copying:.0f} s)")

        rows, released, precision = [], 0.0, arguments.precision
        for name, fast in (("MotionFormer as released", False), ("MotionFormer, this library's form", True)):
            teacher = teachers.load("motionformer_16x4", None, 8, fast=fast, progress=False).eval()
            seen = arguments.teacher_seconds // data.CLIP_SECONDS * data.CLIP_SECONDS
            seconds = timed(lambda teacher=teacher, seen=seen: run_teacher(teacher, whole, seen)) * minutes * 60 / seen
            released = released or seconds
            rows.append([name, f"{seconds:.0f} (from {seen:.0f} s)", "", "", f"{released / seconds:.1f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
        for count in arguments.num_frames:
            student = EgoDistill(8, num_frames=count, image_weights=None).eval()
            predict_all(student, tenth, imu, True, precision)  # warms up
            for name, video, exact in (
                ("exact frames", whole, True),
                ("key frames", whole, False),
                ("working copy", copy, True),
            ):
                alone = 10 * timed(lambda s=student, v=video, e=exact: decode(s, v, minutes / 10, e))
                seconds = timed(lambda s=student, v=video, e=exact: predict_all(s, v, imu, e, precision))
                model = 10 * timed(lambda s=student: run_student(s, int(minutes * 6 / data.CLIP_SECONDS), precision))
                times = (f"{seconds:.1f}", f"{alone:.1f}", f"{model:.1f}")
                rows.append([f"EgoDistill, N = {count}, {name}", *times, f"{released / seconds:.0f}"])
                print(" | ".join(rows[-1]), file=sys.stderr)
        header = ["model", "seconds", "decoding alone", "model alone", "times the teacher's speed"]
        tables.report(tables.Table(header, rows), "benchmarks/recording.py", arguments.markdown, sys.argv)
        print(
            f"peak memory: {peak_memory(whole, imu):.0f} MB; on a tenth of the recording: "
            f"{peak_memory(tenth, imu):.0f} MB"
        )


if __name__ == "__main__":
    main()
