"""Measure the time from a 50-minute recording to labels: the teacher that sees all of it, and the student.

    python benchmarks/recording.py                               # twenty minutes on two cores
    python benchmarks/recording.py --minutes 2 --teacher-seconds 5 --num-frames 1     # to try it
    python benchmarks/recording.py --keyframe-every 250
    python benchmarks/recording.py --video GX010001.MP4 --imu GX010001.MP4            # a recording of your own

The recording is 1080p at 30 fps, H.264 with a key frame every `--keyframe-every` frames (30, as phones write it), with
a table of its IMU. It is one rendered piece of `--piece-seconds` whose packets are repeated, so that it takes minutes
to make; every repetition is the same work for a decoder. `--video` takes a real piece instead. The working copy
(`copies.transcode` of the piece) is repeated in the same way. Both networks have random weights and the paper's
size.

Student: `predict()`, which decodes the next clips while the model works on these. "Decoding alone" is bare decoding:
FFmpeg gets exactly the packets that the wanted frames need, from memory, one decoder per core, and nothing is scaled.
"Model alone" is the network on random clips. Both use all cores, and are measured on the clips of a tenth of the
recording, at least a minute, and extrapolated. "Limit ratio" is the run time divided by their sum. Teacher: 16 of the
64 frames of each clip through MotionFormer, as released and in this library's form, measured on the first
`--teacher-seconds` and extrapolated. Memory is the peak of a process that only predicts, on the whole recording and on
a tenth of it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill.commands import cli

cli.let_threads_sleep()  # as the commands do, before torch is imported

import torch

from egodistill import EgoDistill, data, predict, teachers
from egodistill.engine import batches
from egodistill.recordings import copies
from egodistill.recordings.clips import decode_clips
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import spec_of
from egodistill.support import files, tables

WIDTH, HEIGHT, RATE = 1920, 1080, 30


def render(path: Path, seconds: float, keyframe_every: int) -> None:
    """Render a textured wall, with a shaking camera and sensor noise."""
    rng = np.random.default_rng(0)
    margin = 240
    small = rng.integers(0, 256, (1 + (HEIGHT + margin) // 24, 1 + (WIDTH + margin) // 24, 3), np.uint8)
    wall = small.repeat(24, 0).repeat(24, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "bf": "0", "g": str(keyframe_every), "sc_threshold": "0"}
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
        length = round(source.frames / source.average_rate / source.time_base)
        with av.open(str(out), "w") as container:
            stream = container.add_stream_from_template(source)
            stamps = [(packet.pts, packet.dts) for packet in packets]
            for k in range(times):
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.stream, packet.pts, packet.dts = stream, pts + k * length, dts + k * length
                    packet.time_base = source.time_base
                    container.mux(packet)


def write_imu(path: Path, seconds: float, source: str | None, piece_seconds: float) -> None:
    """Write a table of random samples, or of those of a recording, repeated like its video."""
    time_ = np.arange(0, seconds, 1 / 198)
    values = np.random.default_rng(1).normal(0, 0.3, (len(time_), 6))
    values[:, 2] += 9.8
    if source:
        piece = data.read_imu(source).window(0.0, round(198 * piece_seconds), 198.0)
        values = np.resize(piece, values.shape)
    header = "time,ax,ay,az,gx,gy,gz"
    np.savetxt(path, np.column_stack([time_, values]), fmt="%.5f", delimiter=",", header=header, comments="")


def timed(work) -> float:
    """Return the run time in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def predict_all(student: EgoDistill, video: Path, imu: Path, precision: str, **choice) -> int:
    return sum(1 for clip in predict(student, video, imu, precision=precision, **choice) if clip.classes)


def needed_packets(video: Path, times: Sequence[float]) -> list[list[tuple[av.Packet, bool]]]:
    """Return the packets that the frames shown from these times on need, each with whether it is one of the frames.

    A run begins with a key frame and is decoded without the others.
    """
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        zero = max(0, container.start_time or 0) / 1e6
        wanted = {round((seconds + zero) / stream.time_base) for seconds in times}
        runs: list[list[tuple[av.Packet, bool]]] = []
        waiting: list[tuple[av.Packet, bool]] = []  # read since the last packet that is needed
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                waiting = []
                runs.append([])
            waiting.append((packet, packet.pts in wanted))
            if packet.pts in wanted:
                runs[-1] += waiting
                waiting = []
    return [run for run in runs if run]


def decode_bare(video: Path, runs: Sequence[list[tuple[av.Packet, bool]]]) -> None:
    """Decode runs of packets. Frames that are not wanted and to which no other refers are skipped."""
    with av.open(str(video)) as container:
        codec = container.streams.video[0].codec_context
        codec.thread_count = 1
        for run in runs:
            for packet, is_wanted in run:
                codec.skip_frame = "DEFAULT" if is_wanted or codec.name != "h264" else "NONREF"
                codec.decode(packet)
            codec.decode(None)
            codec.flush_buffers()


def decoding_seconds(student: EgoDistill, video: Path, count: int, **choice) -> float:
    """Return the time of bare decoding for the first clips of a video on all cores, in seconds per clip."""
    starts = student.clip_seconds * np.arange(count)
    spec = dataclasses.replace(spec_of(student), imu_samples=0, size=16, **choice)
    found = decode_clips(Recording(video), dict(enumerate(starts)), spec.parts())
    runs = needed_packets(video, np.concatenate([arrays["frames.times"] for _, arrays in found]))
    cores = files.available_cores()
    lengths = np.cumsum([len(run) for run in runs])
    cuts = np.searchsorted(lengths, lengths[-1] * np.arange(1, cores) / cores)
    bounds = [0, *cuts.tolist(), len(runs)]
    parts = [runs[low:high] for low, high in itertools.pairwise(bounds)]
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        return timed(lambda: list(pool.map(decode_bare, [video] * cores, parts))) / count


@torch.inference_mode()
def model_seconds(student: EgoDistill, count: int, precision: str) -> float:
    """Return the time of the network on at least this many random clips, in seconds per clip."""
    batch, passes = batches.example_inputs(student, 16), -(-count // 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return timed(lambda: [student(*batch) for _ in range(passes)]) / (16 * passes)


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
    parser.add_argument("--piece-seconds", type=int, default=25)
    parser.add_argument("--keyframe-every", type=int, default=30, help="frames from one key frame to the next")
    parser.add_argument("--video", metavar="FILE", help="repeat this recording instead of a rendered piece")
    parser.add_argument("--imu", metavar="FILE", help="its IMU samples, or a video with telemetry (default: random)")
    parser.add_argument("--teacher-seconds", type=float, default=20)
    parser.add_argument("--num-frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the student")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the files of a child process, as JSON
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    if arguments.one:
        video, imu = json.loads(arguments.one)
        predict_all(EgoDistill(8, image_weights=None), Path(video), Path(imu), "fp32")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
        return

    print(f"{arguments.minutes:g} minutes of {arguments.video or '1080p30'}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        piece, small, imu = (Path(folder, name) for name in ("piece.mp4", "small.mp4", "imu.csv"))
        if arguments.video:
            piece = Path(arguments.video)
        else:
            render(piece, arguments.piece_seconds, arguments.keyframe_every)
        piece_seconds = data.probe(piece).duration
        times = max(1, round(arguments.minutes * 60 / piece_seconds))
        minutes = times * piece_seconds / 60
        seen_clips = int(min(minutes * 60, max(minutes * 6, 60)) / data.CLIP_SECONDS)
        copying = timed(lambda: copies.transcode(piece, small)) * times
        whole, copy, tenth = (Path(folder, name) for name in ("whole.mp4", "copy.mp4", "tenth.mp4"))
        repeat(piece, whole, times)
        repeat(small, copy, times)
        repeat(piece, tenth, max(1, times // 10))
        write_imu(imu, minutes * 60, arguments.imu, piece_seconds)
        sizes = [f"{file.stat().st_size / 1e6:.0f} MB" for file in (whole, copy)]
        print(f"recording {sizes[0]}, working copy {sizes[1]} (made once, in {copying:.0f} s)")

        rows, released, precision = [], 0.0, arguments.precision
        for name, fast in (("MotionFormer as released", False), ("MotionFormer, this library's form", True)):
            teacher = teachers.load("motionformer_16x4", None, 8, fast=fast, progress=False).eval()
            seen = arguments.teacher_seconds // data.CLIP_SECONDS * data.CLIP_SECONDS
            seconds = timed(lambda teacher=teacher, seen=seen: run_teacher(teacher, whole, seen)) * minutes * 60 / seen
            released = released or seconds
            rows.append([name, f"{seconds:.0f} (from {seen:.0f} s)", "", "", "", f"{released / seconds:.1f}"])
            print(" | ".join(rows[-1]), file=sys.stderr)
        for count in arguments.num_frames:
            student = EgoDistill(8, num_frames=count, image_weights=None).eval()
            predict_all(student, tenth, imu, precision)  # warms up
            for name, video, choice in (
                ("exact frames", whole, {}),
                ("cheapest frame within 0.25 s", whole, {"tolerance": 0.25}),
                ("key frames", whole, {"exact": False}),
                ("working copy", copy, {}),
            ):
                seconds = timed(lambda s=student, v=video, c=choice: predict_all(s, v, imu, precision, **c))
                every = minutes * 60 / data.CLIP_SECONDS
                decoding = every * decoding_seconds(student, video, seen_clips, **choice)
                model = every * model_seconds(student, seen_clips, precision)
                cells = (f"{seconds:.1f}", f"{decoding:.1f}", f"{model:.1f}", f"{seconds / (decoding + model):.2f}")
                rows.append([f"EgoDistill, N = {count}, {name}", *cells, f"{released / seconds:.0f}"])
                print(" | ".join(rows[-1]), file=sys.stderr)
        header = ["model", "seconds", "decoding alone", "model alone", "limit ratio", "times the teacher's speed"]
        table = tables.Table(header, rows)
        kind = (
            Path(arguments.video).name if arguments.video else f"1080p30, a key frame every {arguments.keyframe_every}"
        )
        note = (
            f"{minutes:.1f} minutes of {kind}. Teacher of the last column: MotionFormer 16x4 as released, fp32, "
            f"4 clips at a time; student: {precision}."
        )
        print(f"{table.text()}\n{note}")
        if arguments.markdown:
            caption = f"{note} {tables.provenance(f'`{tables.command_line(sys.argv)}`')}"
            section = f"benchmarks/recording.py, {kind}, {minutes:.0f} minutes, {precision}, {tables.short_processor()}"
            tables.write_section(arguments.markdown, section, table, caption=caption)
        print(
            f"peak memory: {peak_memory(whole, imu):.0f} MB; on a tenth of the recording: "
            f"{peak_memory(tenth, imu):.0f} MB"
        )


if __name__ == "__main__":
    main()
