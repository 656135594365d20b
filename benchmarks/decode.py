"""Compare the speed of reading frames: `data.read_frames()` and other libraries.

    pip install torchcodec decord2 opencv-python-headless    # libraries that are missing are left out
    python benchmarks/decode.py                  # files of one minute, seven rounds; takes long
    python benchmarks/decode.py --quick          # shorter files, three rounds
    python benchmarks/decode.py --only 1080p     # only rows whose name contains this
    python benchmarks/decode.py --files *.mp4    # instead, these files beside torchcodec's exact mode

With `--files`, each round reads ten frames in their own size at random places, with one thread, and a row has the mean
difference of the pictures, of 255. Otherwise the files are rendered here: a moving texture with noise, 30 fps, H.264,
with the number of each frame as a bar code.
There are three requests per file, all at 224 x 224 RGB:

- sparse: one frame per 2 s, the whole recording in one call, one thread
- dense: a clip of 16 out of 64 frames per call, three clips per round, one thread
- whole: every fourth frame of the recording in one call, on all cores

`limit` is a minimal loop that knows in advance which packets the frames depend on, decodes only those, and makes the
same pictures. The methods take turns in each round. A cell is the median over the rounds of a method's time divided by
our time in the same round: above 1, the method is slower. With one thread, it is processor time, which other programs
do not affect; with all cores there are two rows, wall-clock time and processor time. The bar code of every picture is
read: `!3` after a number means that three frames were wrong or missing. `-` was not run.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import data
from egodistill.support import files, tables

FPS, SIZE, BITS = 30, 224, 12
SIZES = {"1080p": (1920, 1080), "256p": (456, 256)}
Method = Callable[[str, Sequence[int], int], object]  # (video, frame numbers in order, threads) -> pictures


# --- The files -----------------------------------------------------------------------------------


def render(path: Path, size: tuple[int, int], seconds: int, key_every: int, bframes: int) -> None:
    """Render a moving texture with noise, with each frame's number as twelve bars along the upper edge."""
    rng = np.random.default_rng(0)
    width, height = size
    margin = 64
    texture = np.zeros((height + margin, width + margin), np.float32)
    for grain in (4, 16, 64):  # octaves of noise, the coarser the stronger
        coarse = rng.normal(0, 12 * grain**0.25, (texture.shape[0] // grain + 1, texture.shape[1] // grain + 1))
        texture += np.kron(coarse, np.ones((grain, grain)))[: texture.shape[0], : texture.shape[1]]
    noise = rng.normal(0, 4, (height + margin, width + margin)).astype(np.float32)
    colour = rng.integers(90, 166, ((height + 15) // 16, (width + 15) // 16)).repeat(8, 0).repeat(8, 1)
    colour = colour[: height // 2, : width // 2].astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "preset": "veryfast",
            "crf": "23",
            "bf": str(bframes),
            "g": str(key_every),
            "keyint_min": str(key_every),
            "sc_threshold": "0",
        }
        for i in range(seconds * FPS):
            y, x = (round(margin / 2 * (1 + np.sin(i * speed))) for speed in (0.031, 0.047))
            ny, nx = rng.integers(0, margin, 2)
            luma = 126 + texture[y : y + height, x : x + width] + noise[ny : ny + height, nx : nx + width]
            luma = luma.clip(16, 235).astype(np.uint8)
            bars = np.array([235 if i >> bit & 1 else 16 for bit in range(BITS)], np.uint8)
            luma[: height // 8] = bars[np.arange(width) * BITS // width]
            planes = [luma, np.roll(colour, x, 1), np.roll(colour, -y, 0)]
            picture = np.concatenate([plane.ravel() for plane in planes]).reshape(height * 3 // 2, width)
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers(pictures) -> list[int]:
    """Return the frame numbers in pictures [n, 3, H, W] or [n, H, W, 3]."""
    pictures = np.asarray(pictures)
    if pictures.shape[1] == 3:
        pictures = pictures.transpose(0, 2, 3, 1)
    strip = pictures[:, 2 : SIZE // 8 - 4].mean((1, 3))
    bars = strip[:, ((np.arange(BITS) + 0.5) * SIZE / BITS).astype(int)] > 128
    return (bars << np.arange(BITS)).sum(1).tolist()


# --- The methods ---------------------------------------------------------------------------------


def timestamps(indices: Sequence[int]) -> list[float]:
    return [(k + 0.5) / FPS for k in indices]  # the middle of a frame, where rounding does not matter


def ours(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    return data.read_frames(video, timestamps(indices), SIZE, threads=threads)


def ours_nearest(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    return data.read_frames(video, timestamps(indices), SIZE, threads=threads, exact=False)


def picture_of(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(width=SIZE, height=SIZE, format="rgb24", interpolation="AREA")


def pyav_from_start(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    pictures, left = [], list(indices)[::-1]
    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = threads, "AUTO"
        for i, frame in enumerate(container.decode(stream)):
            while left and left[-1] == i:
                pictures.append(picture_of(frame))
                left.pop()
            if not left:
                break
    return np.stack(pictures)


def pyav_seek_each(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    pictures = []
    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = threads, "AUTO"
        for seconds in timestamps(indices):
            container.seek(int(seconds / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time + 1 / FPS > seconds:
                    pictures.append(picture_of(frame))
                    break
    return np.stack(pictures)


def torchcodec_frames(video: str, indices: Sequence[int], threads: int):
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    # "approximate" avoids a scan of the file; it is the fastest mode, and exact for evenly spaced frames as here.
    small = [Resize((SIZE, SIZE))]
    decoder = VideoDecoder(video, num_ffmpeg_threads=threads, seek_mode="approximate", transforms=small)
    return decoder.get_frames_played_at(timestamps(indices)).data


def decord_frames(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    import decord

    return decord.VideoReader(video, width=SIZE, height=SIZE, num_threads=threads).get_batch(list(indices)).asnumpy()


def opencv_frames(video: str, indices: Sequence[int], threads: int) -> np.ndarray:
    import cv2

    capture, pictures, position = cv2.VideoCapture(video, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads]), [], 0
    for k in indices:
        if not 0 <= k - position < FPS:  # Seek; within a clip, decoding the frames between is faster.
            capture.set(cv2.CAP_PROP_POS_FRAMES, k)
            position = k
        while position < k:
            capture.grab()
            position += 1
        found, picture = capture.read()
        position += 1
        picture = picture if found else np.zeros((SIZE, SIZE, 3), np.uint8)
        small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        pictures.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(pictures)


BASELINES: dict[str, tuple[str, Method]] = {  # {column: (required module, method)}
    "PyAV from the start": ("av", pyav_from_start),
    "PyAV, seek each": ("av", pyav_seek_each),
    "torchcodec": ("torchcodec.decoders", torchcodec_frames),
    "decord": ("decord", decord_frames),
    "OpenCV": ("cv2", opencv_frames),
}


class Limit:
    """Method that decodes as little as possible, because it knows all packets in advance."""

    def __init__(self, video: str) -> None:
        with av.open(video) as container:
            stream = container.streams.video[0]
            packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(stream) if packet.size]
        with av.open(video) as container:
            container.streams.video[0].codec_context.skip_frame = "NONREF"
            self.references = {frame.pts for frame in container.decode(video=0)}
        self.display_order = sorted(pts for pts, _ in packets)
        self.groups: list[list[int]] = []  # packets from one key frame to the next, in the order of decoding
        for pts, is_key in packets:
            if is_key:
                self.groups.append([])
            self.groups[-1].append(pts)

    def __call__(self, video: str, indices: Sequence[int], threads: int) -> np.ndarray:
        requested = {self.display_order[k] for k in indices}
        plan = []
        for group in self.groups:
            last = max((i for i, pts in enumerate(group) if pts in requested), default=None)
            if last is not None:
                plan.append(
                    (group[0], {pts for pts in group[: last + 1] if pts in self.references or pts in requested})
                )
        parts = [plan[i * len(plan) // threads : (i + 1) * len(plan) // threads] for i in range(threads)]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            run = map if threads == 1 else pool.map
            return np.concatenate(list(run(lambda part: self.decode(video, part, requested), filter(None, parts))))

    def decode(self, video: str, plan: list[tuple[int, set[int]]], requested: set[int]) -> np.ndarray:
        pictures = {}
        with av.open(video) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            codec.thread_count = 1
            for key, needed in plan:
                container.seek(key, stream=stream)
                left = len(needed)
                for packet in container.demux(stream):
                    if packet.pts not in needed:
                        continue
                    left -= 1
                    for frame in packet.decode() + ([] if left else codec.decode(None)):
                        if frame.pts in requested:
                            pictures[frame.pts] = picture_of(frame)
                    if not left:
                        break
        return np.stack([pictures[pts] for pts in sorted(pictures)])


# --- The table -----------------------------------------------------------------------------------


def usable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # missing, or broken
        return False
    return True


def requests(seconds: int, cores: int) -> dict[str, tuple[list[list[int]], int]]:
    """Return {name: (frame numbers of each call, threads)}."""
    frames, rng = seconds * FPS, np.random.default_rng(1)
    sparse = [int(k) + int(rng.integers(0, 2 * FPS)) for k in range(0, frames, 2 * FPS)]
    starts = rng.integers(0, frames - 64, 3)
    return {
        "sparse": ([sparse], 1),
        "dense": ([list(range(start, start + 64, 4)) for start in starts.tolist()], 1),
        "whole": ([list(range(0, frames, 4))], cores),
    }


def measure(methods: dict[str, Method], video: str, calls: list[list[int]], threads: int, repeats: int) -> dict:
    """Return (times, wrong frames) of each method; times are [rounds, 2], wall-clock and processor seconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    wrong = dict.fromkeys(methods, 0)
    for round_ in range(repeats):
        order = list(methods)[round_ % len(methods) :] + list(methods)[: round_ % len(methods)]
        for name in order:
            start = time.perf_counter(), time.process_time()
            found = [methods[name](video, indices, threads) for indices in calls]
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
            if not round_ and methods[name] is not ours_nearest:
                for pictures, indices in zip(found, calls, strict=True):
                    seen = numbers(pictures)
                    wrong[name] += sum(a != b for a, b in itertools.zip_longest(seen, indices))
    return {name: (np.array(times[name]), wrong[name]) for name in methods}


def on_files(paths: Sequence[str], repeats: int) -> tables.Table:
    """Return the milliseconds of ten frames, torchcodec's time divided by ours, and how much the pictures differ."""
    from torchcodec.decoders import VideoDecoder

    lines = []
    for path in paths:
        known, rng = VideoDecoder(path, seek_mode="exact").metadata, np.random.default_rng(0)
        seconds, apart = [], []
        for _ in range(repeats):
            times = rng.uniform(known.begin_stream_seconds, known.end_stream_seconds - 0.02, 10)
            begin = time.process_time()
            pictures = data.read_frames(path, times, threads=1)
            middle = time.process_time()
            decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1)
            others = decoder.get_frames_played_at(times.tolist()).data.numpy()
            seconds.append((middle - begin, time.process_time() - middle))
            apart.append(np.abs(pictures.astype(np.int16) - others).mean())
        ours, theirs = np.array(seconds).T
        cells = [f"{1000 * np.median(ours):.1f}", f"{np.median(theirs / ours):.2f}", f"{np.mean(apart):.2f}"]
        lines.append(["/".join(Path(path).parts[-2:]), *cells])
    return tables.Table(["file", "ours, ms", "torchcodec", "difference"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="files of 10 s (256p: 20 s) and 3 rounds instead of 60 s and 7"
    )
    parser.add_argument("--folder", help="folder to keep the rendered files in, and to reuse them from")
    parser.add_argument("--only", default="", help="only rows whose name contains this, such as '256p' or 'sparse'")
    parser.add_argument("--repeats", type=int, help="rounds per row")
    parser.add_argument("--files", nargs="+", metavar="FILE", help="read these files, beside torchcodec alone")
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    lengths = {"1080p": 10, "256p": 20} if arguments.quick else dict.fromkeys(SIZES, 60)
    repeats = arguments.repeats or (3 if arguments.quick else 7)
    cores = files.available_cores()
    baselines = {name: method for name, (module, method) in BASELINES.items() if usable(module)}
    if "OpenCV" in baselines:
        importlib.import_module("cv2").setNumThreads(1)  # for resizing; the threads of the decoder are set per call
    if "torchcodec" in baselines:
        importlib.import_module("torch").set_num_threads(1)

    versions = [
        f"{name} {importlib.import_module(name).__version__}"
        for name in ("av", "numpy", "torchcodec", "decord", "cv2")
        if usable(name)
    ]
    print(f"{', '.join(versions)}; libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))} of PyAV")
    print(f"files of {lengths} s, {repeats} rounds; load {os.getloadavg()[0]:.1f}")
    if arguments.files:
        found = on_files(arguments.files, arguments.repeats or 11)
        tables.report(found, "benchmarks/decode.py --files", arguments.markdown, sys.argv)
        return
    header = [
        "file: key frame every",
        "request",
        "ours, ms per frame",
        "limit",
        *BASELINES,
        "key frames only",
        "verdict",
    ]
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for size, bframes, key_every in itertools.product(SIZES, (3, 0), (12, 60, 250)):
            file, seconds = f"{size}, {key_every}{', B' if bframes else ''}", lengths[size]
            jobs = requests(seconds, cores)
            jobs = {request: job for request, job in jobs.items() if arguments.only in f"{file} {request}"}
            if not jobs:
                continue
            path = folder / f"{size}_{key_every}_{bframes}_{seconds}.mp4"
            if not path.exists():
                with files.atomic_write(path) as part:
                    render(part, SIZES[size], seconds, key_every, bframes)
            methods = {"ours": ours, "limit": Limit(str(path)), **baselines, "key frames only": ours_nearest}
            for request, (calls, threads) in jobs.items():
                run = {
                    name: method
                    for name, method in methods.items()
                    if request == "sparse" or method is not pyav_seek_each
                }
                found = measure(run, str(path), calls, threads, repeats)
                for clock in ("wall", "processor") if threads > 1 else ("processor",):
                    label = f"{request} (processor)" if threads > 1 and clock == "processor" else request
                    cells = ratios(found, clock, sum(map(len, calls)), header[3:-1], methods)
                    lines.append([file, label, *cells])
                    print(" | ".join(lines[-1]), file=sys.stderr)
    tables.report(tables.Table(header, lines), "benchmarks/decode.py", arguments.markdown, sys.argv)


def ratios(found: dict, clock: str, frames: int, columns: Sequence[str], installed: Collection[str]) -> list[str]:
    """Return our ms per frame, the time of each column relative to ours, and whether ours is the fastest."""
    found = {name: (times[:, int(clock == "processor")], wrong) for name, (times, wrong) in found.items()}
    ours, wrong = found["ours"]
    cells, best = [f"{1000 * np.median(ours) / frames:.2f}"], np.inf
    for name in columns:
        if name not in found:
            cells.append("-" if name in installed else "not installed")
            continue
        ratio = float(np.median(found[name][0] / ours))
        cells.append(f"{ratio:.2f}" + (f" !{found[name][1]}" if found[name][1] else ""))
        if name in BASELINES and not found[name][1]:  # The speed of wrong frames does not count.
            best = min(best, ratio)
    return [
        *cells,
        f"{wrong} FRAMES WRONG" if wrong else "fastest" if best >= 1 else f"{100 / best - 100:.0f} % behind",
    ]


if __name__ == "__main__":
    main()
